import hashlib
import io
import pickle
import tracemalloc
import zipfile

import numpy as np
import pytest
from synthetic import GREY, grey_arrays, npz_arrays, write_idx, write_npz

from vaedist.data.prepare import prepare
from vaedist.data.sources import arrays, idx_folder, npz_file
from vaedist.errors import DataError


def everything(source, split):
    images, labels = (np.concatenate(parts) for parts in zip(*source.read(split), strict=True))
    return images, labels


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_become_images(tmp_path, save):
    path = write_npz(tmp_path / "digits.npz", save)
    source = npz_file(path, "digits")
    assert (source.name, source.shape, source.classes) == ("digits", (*GREY, 1), ("1", "2", "3"))
    assert source.provenance.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    for split, (expected, labels) in grey_arrays().items():
        images, numbers = everything(source, split)
        np.testing.assert_array_equal(images, expected[..., None])
        np.testing.assert_array_equal(numbers + 1, labels)
    assert source.warnings == ()


def test_colour_validation_images_and_other_types_of_labels(tmp_path):
    rows = np.random.default_rng(0).integers(0, 256, (12, 4, 3, 3), dtype=np.uint8)
    path = tmp_path / "medical.npz"
    np.savez(
        path, train_images=rows[:6], val_images=rows[6:8], test_images=rows[8:],
        train_labels=np.array([[5], [-1], [5], [5], [7], [7]], ">i8"), val_labels=np.array([[5], [7]], np.uint64),
        test_labels=np.full((4, 1), -1, np.int16), weights=np.ones(3),
    )  # fmt: skip
    source = npz_file(path, "medical")
    assert source.counts == {"train": 6, "test": 4, "validation": 2}
    assert (source.shape, source.classes) == ((4, 3, 3), ("-1", "5", "7"))
    np.testing.assert_array_equal(everything(source, "validation")[0], rows[6:8])
    assert everything(source, "train")[1].tolist() == [1, 0, 1, 1, 2, 2]
    assert everything(source, "test")[1].tolist() == [0] * 4
    assert source.warnings == ("ignored other arrays of medical.npz: weights",)
    assert prepare(source, str(tmp_path / "made"), shards=1).splits["validation"].rows == 2


def test_images_without_labels_are_of_one_class(tmp_path):
    source = npz_file(write_npz(tmp_path / "digits.npz", y_train=None, y_test=None), "digits")
    assert source.classes == ("unlabelled",)
    assert everything(source, "train")[1].tolist() == [0] * 50


ROWS = np.zeros((50, *GREY), np.uint8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_train": None}, "has no array x_train or train_images; it has x_test, y_test, y_train"),
        ({"x_test": None}, "has no array x_test; it has x_train, y_test, y_train"),
        ({"y_test": None}, "digits.npz: x_test has no labels, but .*x_train has: all splits must have labels, or none"),
        ({"y_val": np.zeros(3, int)}, "has no array x_val; it has"),
        ({"x_train": ROWS / 255}, r"x_train holds float64 \[50, 6, 5\]; images must be uint8, from 0 to 255"),
        ({"x_train": ROWS.astype(np.int64)}, "x_train holds int64"),
        ({"x_train": ROWS.reshape(50, 30)}, r"x_train has shape \[50, 30\]; images must be \[N, H, W\] or"),
        ({"x_train": ROWS[0, 0, 0]}, r"x_train has shape \[\]"),
        ({"x_train": np.zeros((50, 3, 6, 5), np.uint8)}, r"\[3, 6, 5\]; .* and channels, on the last axis, 1 to 4"),
        ({"x_train": np.zeros((50, 6, 0), np.uint8)}, r"x_train has images of shape \[6, 0\]; height and width"),
        ({"x_test": np.zeros((20, 7, 5), np.uint8)}, r"x_test has images of shape \[7, 5\], but .*x_train of shape"),
        ({"x_train": np.asfortranarray(ROWS)}, "x_train is in Fortran order; save numpy.ascontiguousarray of it"),
        ({"y_train": np.zeros(49, int)}, "y_train has 49 labels for the 50 images of .*x_train"),
        ({"y_train": np.zeros((50, 10), int)}, r"y_train holds int64 \[50, 10\]; labels must be integers, one per"),
        ({"y_train": np.zeros(50)}, "y_train holds float64"),
        ({"y_train": np.zeros((), int)}, r"y_train holds int64 \[\]"),
        ({"y_train": np.full(50, 2**40)}, "y_train has labels beyond 32 bits; they must be numbers of classes"),
        ({"y_train": np.array(["a"] * 50)}, "y_train holds str32"),
        ({"x_train": np.zeros(50, [("a", "u1")])}, "x_train holds void8"),
    ],
)
def test_unsuitable_arrays_are_refused(tmp_path, changes, message):
    with pytest.raises(DataError, match=message) as caught:
        npz_file(write_npz(tmp_path / "digits.npz", **changes), "digits")
    assert str(caught.value).isprintable()


def test_too_many_classes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "MOST_CLASSES", 49)
    with pytest.raises(DataError, match="y_train has more than 49 distinct labels"):
        npz_file(write_npz(tmp_path / "digits.npz", y_train=np.arange(50)), "digits")


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("name", ["x_train", "y_train"])
def test_nothing_is_unpickled(tmp_path, name):
    trapped = np.array([Trap(tmp_path / "sprung")] * 50, object)
    pickle.loads(pickle.dumps(trapped[0])).close()
    (tmp_path / "sprung").unlink()  # it works
    path = write_npz(tmp_path / "digits.npz", **{name: trapped})
    with pytest.raises(DataError, match=f"{name} holds Python objects, which would have to be unpickled"):
        npz_file(path, "digits")
    assert not (tmp_path / "sprung").exists()


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def written(path, changes, compression=zipfile.ZIP_DEFLATED):
    """Writes an archive whose members have the given content, where it is not that of the arrays."""
    members = {name: npy(array) for name, array in npz_arrays().items()} | changes
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def headed(text, content=b"", version=1):
    length = len(text).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + length + text.encode() + content


TEXT = "{'descr': '|u1', 'fortran_order': False, 'shape': SHAPE, }\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "x_train is not a NumPy array of format 1 or 2"),
        (b"\x93NUMPY\x03\x00" + bytes(100), "is not a NumPy array of format 1 or 2"),
        (b"no array, but text", "is not a NumPy array"),
        (npy(ROWS)[:-1], "x_train is truncated: 1,499 bytes after its header, which declares 1,500"),
        (npy(ROWS) + b"0", "x_train is longer than the 1,500 bytes that its header declares"),
        (npy(ROWS)[:50], "x_train has a damaged header: "),
        (headed("{'descr': '|u1'}"), "x_train has a damaged header: Header does not contain the correct keys"),
        (headed("(" * 9000), "x_train has a damaged header: "),
        (headed(TEXT.replace("SHAPE", "(-1, 6, 5)")), "x_train has -1 images in its header"),
        (headed(TEXT.replace("SHAPE", "(10**9, 6, 5)")), "x_train has a damaged header: "),
        (headed(TEXT.replace("SHAPE", f"({10**30}, 6, 5)")), "images in its header; it must be at most 100,000,000"),
        (headed(TEXT.replace("SHAPE", "(50, 100000, 100000)")), "height and width must be 1 to 4096"),
        (headed(" " * 20_000), "x_train has a header of more than 10,000 bytes"),
        (headed(" " * 70_000, version=2), "x_train has a header of more than 10,000 bytes"),
    ],
)  # fmt: skip
def test_damaged_arrays_are_refused(tmp_path, content, message):
    path = written(tmp_path / "digits.npz", {"x_train": content})
    with pytest.raises(DataError, match=message) as caught:
        npz_file(path, "digits")
    assert str(caught.value).isprintable()


def test_no_memory_is_allocated_by_sizes_in_headers(tmp_path):
    """The header declares petabytes, and the limits allow them."""
    content = headed(TEXT.replace("SHAPE", "(99999999, 4096, 4096)"), bytes(1000))
    path = tmp_path / "digits.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("x_train", "x_test"):
            archive.writestr(f"{name}.npy", content)
    tracemalloc.start()
    with pytest.raises(DataError, match="x_train is truncated: 1,000 bytes after its header, which declares 1,677,"):
        npz_file(path, "digits")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


def test_arrays_of_the_second_format_are_read(tmp_path):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, ROWS, version=(2, 0))
    source = npz_file(written(tmp_path / "digits.npz", {"x_train": stream.getvalue()}), "digits")
    np.testing.assert_array_equal(everything(source, "train")[0][..., 0], ROWS)


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(tmp_path, compression):
    """Python decompresses their blocks as a whole, which may take any amount of memory."""
    with pytest.raises(DataError, match=r"x_train is encrypted, or compressed otherwise than by numpy\.savez"):
        npz_file(written(tmp_path / "digits.npz", {}, compression), "digits")


def test_an_array_twice_is_refused(tmp_path):
    path = written(tmp_path / "digits.npz", {})
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("x_train.npy", npy(ROWS))
    with pytest.raises(DataError, match=r"digits\.npz holds x_train twice"):
        npz_file(path, "digits")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.999])
def test_a_truncated_archive_is_refused(tmp_path, share):
    path = write_npz(tmp_path / "digits.npz")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=r"digits\.npz is damaged or not a NumPy archive: "):
        npz_file(path, "digits")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_wrong_checksum_is_refused(tmp_path, save):
    path = write_npz(tmp_path / "digits.npz", save)
    with zipfile.ZipFile(path) as archive:
        at = archive.getinfo("x_test.npy").header_offset + 300  # beyond the array's header
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"digits\.npz is damaged or not a NumPy archive: "):
        npz_file(path, "digits")


def test_other_files_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"cannot read .*none\.npz: No such file or directory"):
        npz_file(tmp_path / "none.npz", "digits")
    with pytest.raises(DataError, match=r"cannot read .*: Is a directory"):
        npz_file(tmp_path, "digits")
    np.save(tmp_path / "x_train.npy", ROWS)
    with pytest.raises(DataError, match=r"x_train\.npy is damaged or not a NumPy archive: File is not a zip file"):
        npz_file(tmp_path / "x_train.npy", "digits")
    with zipfile.ZipFile(tmp_path / "empty.npz", "w"):
        pass
    with pytest.raises(DataError, match="has no array x_train or train_images; it has none"):
        npz_file(tmp_path / "empty.npz", "digits")


@pytest.mark.parametrize("kind", ["npz", "idx"])
def test_memory_does_not_grow_with_the_images(tmp_path, kind):
    """30 MB of images that compress to 30 kB are read in blocks of a megabyte."""
    pairs = {split: (np.zeros((rows, 32, 32), np.uint8), np.zeros(rows, np.uint8))
             for split, rows in (("train", 30_000), ("test", 100))}  # fmt: skip
    if kind == "npz":
        np.savez_compressed(tmp_path / "zeros.npz", **npz_arrays(pairs))
    else:
        write_idx(tmp_path / "zeros", pairs)
    del pairs
    tracemalloc.start()
    source = npz_file(tmp_path / "zeros.npz", "z") if kind == "npz" else idx_folder(tmp_path / "zeros", "z")
    prepare(source, str(tmp_path / "made"), shards=2)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8_000_000
