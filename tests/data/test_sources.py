import hashlib
import os
import tarfile

import numpy as np
import pytest
from PIL import Image
from synthetic import FOLDER, NAMES, cifar10_members, cifar10_records, write_archive

from vaedist.data.manifest import ALL_SPLITS
from vaedist.data.sources import cifar10_archive, folder, photos
from vaedist.data.sources.photos import LARGEST, PHOTOGRAPHS, cells, crops
from vaedist.errors import DataError


def everything(source, split):
    batches = list(source.read(split))
    images, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    assert images.dtype == np.uint8
    assert images.shape == (source.rows(split), *source.shape)
    assert labels.shape == (source.rows(split),)
    return images, labels


# The CIFAR-10 archive.


def test_records_become_images(tmp_path):
    path = write_archive(tmp_path / "cifar.tar.gz", cifar10_members())
    source = cifar10_archive(path)
    images, labels = everything(source, "train")
    records = cifar10_records(50)
    np.testing.assert_array_equal(labels, records[:, 0])
    for row, y, x, channel in [(0, 0, 0, 0), (7, 3, 30, 1), (49, 31, 0, 2)]:
        assert images[row, y, x, channel] == records[row, 1 + 1024 * channel + 32 * y + x]
    test_images, _ = everything(source, "test")
    assert len(test_images) == 20
    assert source.classes == tuple(NAMES.split())


def test_an_archive_that_is_not_the_official_one_is_reported(tmp_path):
    path = write_archive(tmp_path / "cifar.tar.gz", cifar10_members())
    source = cifar10_archive(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert source.provenance.sha256 == digest
    assert source.provenance.official is False
    assert source.provenance.name == "cifar.tar.gz"
    assert len(source.warnings) == 1
    assert digest[:12] in source.warnings[0]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.999])
def test_a_truncated_archive_is_refused(tmp_path, share):
    path = write_archive(tmp_path / "cifar.tar.gz", cifar10_members())
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=r"cifar\.tar\.gz is damaged or not a gzip-compressed tar"):
        cifar10_archive(path)


@pytest.mark.parametrize("at", [0, 3, 5000, -6])
def test_a_damaged_archive_is_refused(tmp_path, at):
    path = write_archive(tmp_path / "cifar.tar.gz", cifar10_members())
    content = bytearray(path.read_bytes())
    content[at] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"archive .*cifar\.tar\.gz"):
        cifar10_archive(path)


def entry(name, kind=tarfile.REGTYPE, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (entry("../evil.bin"), r"member '\.\./evil\.bin' leads outside"),
        (entry("cifar-10-batches-bin/../../evil.bin"), "leads outside"),
        (entry("/etc/evil.bin"), "member '/etc/evil.bin' leads outside"),
        (entry("evil.bin", tarfile.SYMTYPE, "/etc/passwd"), "member 'evil.bin' is a link or a device"),
        (entry("evil.bin", tarfile.LNKTYPE, "/etc/passwd"), "is a link or a device"),
        (entry("evil.bin", tarfile.CHRTYPE), "is a link or a device"),
        (entry("evil.bin", tarfile.FIFOTYPE), "is a link or a device"),
        (entry(f"{FOLDER}/test_batch.bin"), "holds cifar-10-batches-bin/test_batch.bin twice"),
    ],
)
def test_members_that_could_do_harm_are_refused(tmp_path, extra, message):
    path = write_archive(tmp_path / "cifar.tar.gz", cifar10_members(), [extra])
    with pytest.raises(DataError, match=message):
        cifar10_archive(path)


@pytest.mark.parametrize("name", ["batches.meta.txt", "data_batch_3.bin", "test_batch.bin"])
def test_a_missing_member_is_named(tmp_path, name):
    members = cifar10_members()
    del members[f"{FOLDER}/{name}"]
    with pytest.raises(DataError, match=f"has no member {FOLDER}/{name}"):
        cifar10_archive(write_archive(tmp_path / "cifar.tar.gz", members))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data_batch_2.bin", b"x" * 3074, "data_batch_2.bin has 3074 bytes, not a multiple of 3073"),
        ("test_batch.bin", b"", "test_batch.bin has 0 bytes"),
        ("batches.meta.txt", b"\n\n", "does not hold the names of the classes"),
        ("batches.meta.txt", b"caf\xc3\xa9", "does not hold the names of the classes"),
    ],
)
def test_a_member_of_the_wrong_kind_is_named(tmp_path, name, content, message):
    members = cifar10_members() | {f"{FOLDER}/{name}": content}
    with pytest.raises(DataError, match=message):
        cifar10_archive(write_archive(tmp_path / "cifar.tar.gz", members))


def test_a_label_beyond_the_classes_is_named(tmp_path):
    members = cifar10_members() | {f"{FOLDER}/test_batch.bin": b"\x0a" + bytes(3072)}
    source = cifar10_archive(write_archive(tmp_path / "cifar.tar.gz", members))
    with pytest.raises(DataError, match=r"test_batch\.bin has label 10; the 10 classes are 0 to 9"):
        list(source.read("test"))


def test_a_missing_archive_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"cannot read archive .*none\.tar\.gz: No such file"):
        cifar10_archive(tmp_path / "none.tar.gz")


@pytest.mark.cifar10
def test_the_whole_archive():
    source = cifar10_archive(os.environ["VAEDIST_CIFAR10_ARCHIVE"])
    assert source.classes == tuple(NAMES.split())
    assert source.counts == {"train": 50_000, "test": 10_000}
    labels = np.concatenate([labels for _, labels in source.read("test")])
    np.testing.assert_array_equal(np.bincount(labels), [1000] * 10)


# Photographs.


def sizes():
    return [(512, 512), (451, 300), (600, 400), (741, 500), (640, 427)]


@pytest.mark.parametrize(("width", "height"), sizes())
@pytest.mark.parametrize("validated", [False, True])
def test_the_cells_of_the_splits_cover_a_photograph_and_share_no_pixel(width, height, validated):
    seen = np.zeros((height, width), int)
    for split in ALL_SPLITS:
        for left, top, right, bottom in cells(width, height, split, validated=validated):
            assert min(right - left, bottom - top) >= LARGEST
            seen[top:bottom, left:right] += 1
    np.testing.assert_array_equal(seen, 1)
    for split in ALL_SPLITS[1 : 3 if validated else 2]:
        share = sum((c - a) * (d - b) for a, b, c, d in cells(width, height, split, validated=validated)) / seen.size
        assert 0.1 < share < 0.3


def test_validation_crops_leave_the_test_crops_as_they_are():
    plain, validated = photos(train=40, test=20), photos(train=40, test=20, validation=10)
    assert validated.counts == {"train": 40, "test": 20, "validation": 10}
    np.testing.assert_array_equal(everything(plain, "test")[0], everything(validated, "test")[0])
    assert len(everything(validated, "validation")[0]) == 10


def test_crops_are_taken_within_the_cells_of_their_split():
    """The pictures are black except for their test cells: training crops must be black, and test crops white."""
    pictures = []
    for width, height in sizes():
        picture = Image.new("RGB", (width, height))
        for cell in cells(width, height, "test"):
            picture.paste((255, 255, 255), cell)
        pictures.append(picture)
    train = np.concatenate([images for images, _ in crops(pictures, "train", 300, 0)])
    test = np.concatenate([images for images, _ in crops(pictures, "test", 300, 0)])
    assert train.max() == 0
    assert test.min() == 255


def test_photos_are_the_same_for_the_same_seed():
    one, two, other = (photos(train=40, test=20, seed=seed) for seed in (5, 5, 6))
    for split in ("train", "test"):
        np.testing.assert_array_equal(everything(one, split)[0], everything(two, split)[0])
        assert (everything(one, split)[0] != everything(other, split)[0]).any()
    assert one.provenance == other.provenance


def test_every_photograph_is_equally_frequent():
    source = photos(train=100, test=10)
    images, labels = everything(source, "train")
    np.testing.assert_array_equal(np.bincount(labels), [20] * len(PHOTOGRAPHS))
    assert source.classes == ("astronaut", "chelsea", "coffee", "motorcycle", "rocket")
    assert len(np.unique(images.reshape(100, -1), axis=0)) == 100


# A folder of images.


def paint(path, colour, size=(40, 20), **save):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, **save)


def test_a_tenth_of_each_class_is_for_testing(tmp_path):
    for k in range(20):
        paint(tmp_path / "my pets" / "dog" / f"{k:02}.png", (k, 0, 0))
        paint(tmp_path / "my pets" / "cat" / f"{k:02}.jpg", (0, k, 0))
    paint(tmp_path / "my pets" / "solo" / "one.png", (0, 0, 9))
    (tmp_path / "my pets" / "dog" / "notes.txt").write_text("no image")
    source = folder(tmp_path / "my pets", (8, 16), seed=1)
    assert source.name == "my-pets"
    assert source.classes == ("cat", "dog", "solo")
    assert source.shape == (8, 16, 3)
    assert source.counts == {"train": 37, "test": 4}
    images, labels = everything(source, "train")
    assert sorted(labels) == [0] * 18 + [1] * 18 + [2]
    dogs = np.concatenate(
        [everything(source, split)[0][everything(source, split)[1] == 1] for split in ("train", "test")]
    )
    assert sorted(dogs[:, 0, 0, 0]) == list(range(20))
    again = folder(tmp_path / "my pets", (8, 16), seed=1)
    np.testing.assert_array_equal(everything(again, "train")[0], images)


def test_train_and_test_folders_are_taken_as_they_are(tmp_path):
    paint(tmp_path / "train" / "b" / "1.png", "red")
    paint(tmp_path / "train" / "a" / "1.PNG", "red")
    paint(tmp_path / "test" / "b" / "1.png", "blue")
    source = folder(tmp_path)
    assert source.classes == ("a", "b")
    images, labels = everything(source, "test")
    assert labels.tolist() == [1]
    assert images[0, 0, 0].tolist() == [0, 0, 255]


def test_grey_images_have_one_channel(tmp_path):
    for split in ("train", "test"):
        paint(tmp_path / split / "a" / "1.png", (200, 200, 200))
    source = folder(tmp_path, (8, 8), grey=True)
    assert source.shape == (8, 8, 1)
    images, _ = everything(source, "test")
    assert images.shape == (1, 8, 8, 1)
    assert (images == 200).all()


def test_images_are_turned_upright_and_cut_in_the_middle(tmp_path):
    """The picture is wide, with a red left end; its EXIF data specifies a rotation."""
    picture = Image.new("RGB", (64, 32), "blue")
    picture.paste("red", (0, 0, 16, 32))
    exif = picture.getexif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    for split in ("train", "test"):
        (tmp_path / split / "a").mkdir(parents=True)
    picture.save(tmp_path / "train" / "a" / "turned.png", exif=exif)
    picture.save(tmp_path / "test" / "a" / "straight.png")
    upright = everything(folder(tmp_path, (64, 32)), "train")[0][0]
    assert upright[:14].mean((0, 1)).round().tolist() == [255, 0, 0]
    assert upright[18:].mean((0, 1)).round().tolist() == [0, 0, 255]
    middle = everything(folder(tmp_path, (32, 32)), "test")[0][0]  # the red end is cropped
    assert middle.mean((0, 1)).round().tolist() == [0, 0, 255]


def test_damaged_images_are_listed_all_at_once(tmp_path):
    """This includes images of the test split, and images after the first."""
    for split in ("train", "test"):
        for k in range(6):
            paint(tmp_path / split / "a" / f"{k}.jpg", "red", size=(200, 200))
    (tmp_path / "train" / "a" / "1.jpg").write_bytes(b"no image")
    (tmp_path / "train" / "a" / "4.jpg").write_bytes(b"")
    torn = tmp_path / "test" / "a" / "3.jpg"
    torn.write_bytes(torn.read_bytes()[:-200])
    with pytest.raises(DataError) as caught:
        list(folder(tmp_path).read("train"))
    unknown = "cannot identify image file"
    assert str(caught.value) == (
        f"cannot read 3 images: {tmp_path}/train/a/1.jpg ({unknown}), {tmp_path}/train/a/4.jpg ({unknown}), "
        f"{torn} (image file is truncated (5 bytes not processed)); --skip-damaged skips damaged images"
    )


def test_of_many_damaged_images_the_first_are_named(tmp_path):
    for k in range(30):
        paint(tmp_path / "train" / f"{k:02}.png", "red")
        (tmp_path / "train" / f"{k:02}.png").write_bytes(b"")
    paint(tmp_path / "test" / "1.png", "red")
    with pytest.raises(DataError, match=r"cannot read 30 images: .*train/19\.png \(.*\), and 10 more; ") as caught:
        list(folder(tmp_path).read("train"))
    assert "20.png" not in str(caught.value)


def test_one_damaged_image_is_named(tmp_path):
    paint(tmp_path / "train" / "1.png", "red")
    paint(tmp_path / "test" / "1.png", "red")
    (tmp_path / "test" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))
    with pytest.raises(DataError, match=r"cannot read image .*test/1\.png: .+; --skip-damaged"):
        list(folder(tmp_path).read("test"))


def test_damaged_images_are_skipped_on_request(tmp_path):
    """The result is the same as without their files."""
    for k in range(20):
        paint(tmp_path / "some" / "a" / f"{k:02}.png", (k, 0, 0))
        paint(tmp_path / "whole" / "a" / f"{k:02}.png", (k, 0, 0))
    for k in (3, 11, 12):
        (tmp_path / "some" / "a" / f"{k:02}.png").write_bytes(b"no image")
        (tmp_path / "whole" / "a" / f"{k:02}.png").unlink()
    seen = []
    some = folder(tmp_path / "some", seed=2, skip_damaged=True, progress=lambda *counts: seen.append(counts))
    whole = folder(tmp_path / "whole", seed=2)
    assert some.counts == whole.counts == {"train": 15, "test": 2}
    for split in some.splits:
        np.testing.assert_array_equal(everything(some, split)[0], everything(whole, split)[0])
    assert seen == [(k, 20) for k in range(1, 21)]
    (notice,) = some.warnings
    assert notice.startswith(f"left out 3 images: {tmp_path}/some/a/03.png (cannot identify image file), ")


def test_a_split_of_damaged_images_alone_is_refused(tmp_path):
    paint(tmp_path / "train" / "1.png", "red")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "1.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"no image of the test split is left: cannot read image .*test/1\.png"):
        folder(tmp_path, skip_damaged=True)


def test_a_file_that_cannot_be_opened_is_not_skipped(tmp_path):
    """An error of the disk is not damage; here it is a link to itself, created after the folder is listed."""
    for k in range(4):
        paint(tmp_path / f"{k}.png", "red")

    def loop(done, total):
        (tmp_path / "3.png").unlink(missing_ok=True)
        (tmp_path / "3.png").symlink_to(tmp_path / "3.png")

    with pytest.raises(DataError, match=r"cannot read image .*3\.png: Too many levels of symbolic links"):
        folder(tmp_path, skip_damaged=True, progress=loop)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="no folder at"):
        folder(tmp_path / "nowhere")
