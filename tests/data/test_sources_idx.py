import gzip
import hashlib
import os

import numpy as np
import pytest
from synthetic import GREY, IDX_FILES, grey_arrays, idx_bytes, write_idx

from vaedist.data.prepare import prepare
from vaedist.data.sources import arrays, idx_folder
from vaedist.errors import DataError

EMNIST = {
    split: tuple(f"emnist-letters-{split}-{kind}" for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"))
    for split in ("train", "test")
}
DOTTED = {split: tuple(name.replace("-idx", ".idx") for name in pair) for split, pair in IDX_FILES.items()}
IMAGES, LABELS = IDX_FILES["train"]


def everything(source, split):
    images, labels = (np.concatenate(parts) for parts in zip(*source.read(split), strict=True))
    return images, labels


@pytest.mark.parametrize("names", [IDX_FILES, DOTTED, EMNIST], ids=["mnist", "dots", "emnist"])
@pytest.mark.parametrize("compress", [True, False])
def test_files_become_images_under_every_usual_name(tmp_path, names, compress):
    source = idx_folder(write_idx(tmp_path / "idx", names=names, compress=compress), "my digits")
    assert (source.name, source.shape, source.counts) == ("my-digits", (*GREY, 1), {"train": 50, "test": 20})
    for split, (expected, labels) in grey_arrays().items():
        images, numbers = everything(source, split)
        np.testing.assert_array_equal(images, expected[..., None])
        np.testing.assert_array_equal(np.array(source.classes)[numbers].astype(int), labels)


def test_classes_are_the_labels_that_occur(tmp_path):
    """As in the letters of EMNIST, whose labels are 1 to 26."""
    images = np.zeros((4, *GREY), np.uint8)
    pairs = {"train": (images, np.array([9, 1, 1, 26], np.uint8)), "test": (images, np.array([1, 2, 9, 9], np.uint8))}
    source = idx_folder(write_idx(tmp_path / "idx", pairs), "letters")
    assert source.classes == ("1", "2", "9", "26")
    assert everything(source, "train")[1].tolist() == [2, 0, 0, 3]
    assert everything(source, "test")[1].tolist() == [0, 1, 2, 2]


def test_images_without_labels_are_of_one_class(tmp_path):
    source = idx_folder(write_idx(tmp_path / "idx", labels=False), "digits")
    assert source.classes == ("unlabelled",)
    assert everything(source, "test")[1].tolist() == [0] * 20


def test_rows_are_read_in_blocks(tmp_path, monkeypatch):
    source = idx_folder(write_idx(tmp_path / "idx"), "digits")
    monkeypatch.setattr(arrays, "BLOCK", 7 * 30 + 29)  # bytes; an image has 30
    sizes = [len(images) for images, _ in source.read("train")]
    assert sizes == [7] * 7 + [1]
    np.testing.assert_array_equal(everything(source, "train")[0][..., 0], grey_arrays()["train"][0])


def test_the_digest_is_that_of_the_uncompressed_files(tmp_path):
    """The fingerprint of the data set therefore depends neither on compression nor on the folder."""
    one = idx_folder(write_idx(tmp_path / "one"), "digits")
    two = idx_folder(write_idx(tmp_path / "two", compress=False, names=DOTTED), "digits")
    whole = b"".join(idx_bytes(array) for pair in grey_arrays().values() for array in pair)
    assert one.provenance == two.provenance
    assert one.provenance.sha256 == hashlib.sha256(whole).hexdigest()
    made = [prepare(source, str(tmp_path / name), shards=2) for source, name in ((one, "a"), (two, "b"))]
    assert made[0].fingerprint == made[1].fingerprint


def test_emnist_is_turned_upright_on_request_only(tmp_path):
    folder = write_idx(tmp_path / "idx", names=EMNIST)
    stored, upright = idx_folder(folder, "letters"), idx_folder(folder, "letters", transpose=True)
    assert (stored.shape, upright.shape) == ((6, 5, 1), (5, 6, 1))
    np.testing.assert_array_equal(everything(upright, "test")[0], everything(stored, "test")[0].transpose(0, 2, 1, 3))
    assert stored.warnings == ("EMNIST stores images with rows and columns exchanged; --transpose turns them upright",)
    assert upright.warnings == ()
    prepare(upright, str(tmp_path / "made"), shards=1)


def test_an_uncompressed_file_is_preferred_to_the_compressed_one_beside_it(tmp_path):
    """Some downloaders leave both; a file in `train-images-idx3-ubyte/`, as others do, is not searched for."""
    write_idx(tmp_path / "idx")
    plain = grey_arrays()["train"][0][::-1]
    (tmp_path / "idx" / IMAGES).write_bytes(idx_bytes(plain))
    (tmp_path / "idx" / LABELS).mkdir()
    np.testing.assert_array_equal(everything(idx_folder(tmp_path / "idx", "d"), "train")[0][..., 0], plain)


def test_a_file_may_be_uncompressed_under_a_compressed_files_name(tmp_path):
    write_idx(tmp_path / "idx")
    file = tmp_path / "idx" / f"{IMAGES}.gz"
    file.write_bytes(gzip.decompress(file.read_bytes()))
    assert idx_folder(tmp_path / "idx", "d").counts["train"] == 50


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        ("emnist-digits-train-images-idx3-ubyte.gz", "emnist-digits-train-images-idx3-ubyte.gz, train-images-"),
        ("test-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte.gz, test-images-idx3-ubyte.gz: give each a folder"),
        ("train-images.idx3-ubyte", "train-images-idx3-ubyte.gz, train-images.idx3-ubyte: give each"),
    ],
)
def test_several_candidates_are_named(tmp_path, extra, named):
    folder = write_idx(tmp_path / "idx")
    (folder / extra).touch()
    with pytest.raises(DataError, match=f"folder .*idx has files of several data sets, {named}"):
        idx_folder(folder, "d")


def test_splits_of_different_data_sets_are_refused(tmp_path):
    folder = write_idx(tmp_path / "idx", {"train": grey_arrays()["train"]})
    write_idx(folder, {"test": grey_arrays()["test"]}, names=EMNIST)
    with pytest.raises(DataError, match=r"several data sets, emnist-letters-test-images.*, train-images-"):
        idx_folder(folder, "d")


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (IDX_FILES["train"][0], "has no IDX file of train images; expected train-images-idx3-ubyte, train-labels-"),
        (IDX_FILES["test"][0], "has no IDX file of test images; expected train-images-idx3-ubyte"),
        (IDX_FILES["train"][1], "train-images-idx3-ubyte.gz has no labels, but .*t10k-images-idx3-ubyte.gz has: all"),
        (IDX_FILES["test"][1], "t10k-images-idx3-ubyte.gz has no labels, but .*train-images-idx3-ubyte.gz has: all"),
    ],
)
def test_missing_files_are_named(tmp_path, missing, message):
    folder = write_idx(tmp_path / "idx")
    (folder / f"{missing}.gz").unlink()
    with pytest.raises(DataError, match=message):
        idx_folder(folder, "d")


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"cannot read folder .*nowhere: No such file or directory"):
        idx_folder(tmp_path / "nowhere", "d")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot read folder .*file: Not a directory"):
        idx_folder(tmp_path / "file", "d")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no IDX file of train images"):
        idx_folder(tmp_path / "empty", "d")


def header(*shape, magic=None):
    return bytes([0, 0, 8, len(shape)] if magic is None else magic) + np.array(shape, ">u4").tobytes()


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (IMAGES, b"", "is truncated: its header has 16 bytes, but the file 0"),
        (IMAGES, header(50, 6), "starts with 00000802, not with 00000803, the magic number of IDX files of images"),
        (LABELS, header(50)[:5], "is truncated: its header has 8 bytes, but the file 5"),
        (LABELS, header(50, magic=[0, 0, 13, 1]) + bytes(200), "starts with 00000d01, not with 00000801"),
        (IMAGES, header(50, 6, 5), "is truncated: 0 bytes after its header, which declares 1,500"),
        (IMAGES, header(50, 6, 5) + bytes(1499), "is truncated: 1,499 bytes after its header, which declares 1,500"),
        (IMAGES, header(50, 6, 5) + bytes(1501), "is longer than the 1,500 bytes that its header declares"),
        (LABELS, header(50) + bytes(49), "is truncated: 49 bytes after its header, which declares 50"),
        (LABELS, header(49) + bytes(49), "has 49 labels for the 50 images of .*train-images-idx3-ubyte"),
        (IMAGES, header(50, 5, 6) + bytes(1500), r"shape \[6, 5\], but .*train-images.* of shape \[5, 6\]"),
        (IMAGES, header(50, 0, 5), r"images of shape \[0, 5\]; height and width must be 1 to 4096"),
        (IMAGES, header(50, 6, 5000), r"images of shape \[6, 5000\]; height and width must be 1 to 4096"),
        (IMAGES, header(2**32 - 1, 6, 5), "has 4,294,967,295 images in its header; it must be at most 100,000,000"),
        (LABELS, header(2**32 - 1), "has 4,294,967,295 labels for the 50 images"),
    ],
)
def test_unsuitable_files_are_refused(tmp_path, name, content, message, compress):
    folder = write_idx(tmp_path / "idx", compress=compress)
    file = folder / (f"{name}.gz" if compress else name)
    file.write_bytes(gzip.compress(content) if compress else content)
    with pytest.raises(DataError, match=message) as caught:
        idx_folder(folder, "d")
    assert str(caught.value).isprintable()


def test_no_images_at_all_are_refused(tmp_path):
    nothing = np.zeros((0, *GREY), np.uint8), np.zeros(0, np.uint8)
    source = idx_folder(write_idx(tmp_path / "idx", grey_arrays() | {"test": nothing}), "digits")
    with pytest.raises(DataError, match="digits has no test images: there must be at least one"):
        prepare(source, str(tmp_path / "made"))


@pytest.mark.parametrize("name", [IMAGES, LABELS])
@pytest.mark.parametrize("change", [lambda c: c[:-9], lambda c: c[:30], lambda c: c[:40] + b"\xff\xff" + c[42:]])
def test_damaged_compression_is_refused(tmp_path, name, change):
    file = write_idx(tmp_path / "idx") / f"{name}.gz"
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(DataError, match=f"file .*{name}.gz is damaged or not an IDX file: "):
        idx_folder(tmp_path / "idx", "d")


def test_a_wrong_checksum_is_refused(tmp_path):
    file = write_idx(tmp_path / "idx") / f"{LABELS}.gz"
    content = bytearray(file.read_bytes())
    content[-6] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match="damaged or not an IDX file: CRC check failed"):
        idx_folder(tmp_path / "idx", "d")


def test_a_file_that_changes_after_the_check_is_refused(tmp_path):
    folder = write_idx(tmp_path / "idx", compress=False)
    source = idx_folder(folder, "d")
    os.truncate(folder / IMAGES, 1000)
    with pytest.raises(DataError, match="is truncated: 984 bytes after its header"):
        prepare(source, str(tmp_path / "made"), shards=1)
    assert not (tmp_path / "made").exists()
