"""The images found below a folder, their splits and classes, and the notices about the others."""

import os

import numpy as np
import pytest
from PIL import Image

from vaedist.data.manifest import load_manifest
from vaedist.data.prepare import prepare
from vaedist.data.sources import folder
from vaedist.data.sources.layout import find_images
from vaedist.errors import DataError


def paint(place, *paths):
    """Writes small images at the paths, below the folder `place`."""
    for path in paths:
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (len(path), 0, 0)).save(place / path)


def touch(place, *paths):
    for path in paths:
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_bytes(b"no image")


def found(place):
    """Returns paths below the folder by split and class, and the notices."""
    layout = find_images(place)
    return {
        split: {name: [str(file.relative_to(place)) for file in files] for name, files in by_class.items()}
        for split, by_class in layout.splits.items()
    }, layout.notices


def test_images_deeper_within_a_class_are_of_that_class(tmp_path):
    paint(tmp_path, "cat/1.png", "cat/indoors/2.png", "cat/indoors/night/3.png", "dog/2024/4.png")
    splits, notices = found(tmp_path)
    cats = ["cat/1.png", "cat/indoors/2.png", "cat/indoors/night/3.png"]
    assert splits == {"train": {"cat": cats, "dog": ["dog/2024/4.png"]}}
    assert notices == ()
    assert sum(folder(tmp_path).counts.values()) == 4


@pytest.mark.parametrize("suffix", ["jfif", "ppm", "pgm", "avif", "jp2", "tga", "JPG", "Tiff", "webp", "pcx", "ico"])
def test_all_formats_of_pillow_are_accepted(tmp_path, suffix):
    paint(tmp_path, f"a/1.{suffix}", f"a/2.{suffix}")
    source = folder(tmp_path)
    assert source.counts == {"train": 1, "test": 1}
    for split in source.splits:
        ((images, labels),) = source.read(split)
        assert abs(images.astype(int) - [len(f"a/1.{suffix}"), 0, 0]).max() <= 12
        assert labels.tolist() == [0]


def test_other_files_are_counted(tmp_path):
    paint(tmp_path, "a/1.png", "a/2.png")
    touch(tmp_path, "a/3.heic", "a/4.HEIC", "a/notes.txt", "b/README", "list.csv", "a/doc.pdf")
    (tmp_path / "a" / "gone.png").symlink_to("nowhere")
    splits, notices = found(tmp_path)
    assert splits == {"train": {"a": ["a/1.png", "a/2.png"]}}
    (notice,) = notices
    head, _, kinds = notice.partition(": ")
    assert head == "ignored 7 files"
    assert sorted(kinds.split(", ", 1)[1].replace("link, or", "link or").split(", ")) == [
        "1 .csv", "1 .pdf (no decoder)", "1 .png (a broken link or not a file)", "1 .txt", "1 without a suffix"
    ]  # fmt: skip
    assert kinds.startswith("2 .heic (no decoder), ")


def test_hidden_files_and_folders_are_passed_over(tmp_path):
    """macOS and other systems create such files, also in archives."""
    paint(tmp_path, "a/1.png", "a/2.png", ".git/x.png", "__MACOSX/a/1.png", "a/.thumbs/1.png", "a/__MACOSX/1.png")
    touch(tmp_path, "a/._1.png", "._a", ".DS_Store", "a/.hidden.jpg")
    assert found(tmp_path) == ({"train": {"a": ["a/1.png", "a/2.png"]}}, ())


def test_loose_images_beside_class_folders_are_reported(tmp_path):
    paint(tmp_path, "cat/1.png", "cat/2.png", "logo.png", *(f"loose{k}.png" for k in range(6)))
    splits, notices = found(tmp_path)
    assert splits == {"train": {"cat": ["cat/1.png", "cat/2.png"]}}
    assert notices == (
        "ignored 7 images, logo.png, loose0.png, loose1.png, loose2.png, loose3.png and 2 more, beside the class "
        f"folders in {tmp_path}",
    )


def test_images_without_classes_are_unlabelled(tmp_path):
    paint(tmp_path, "1.png", "2.png", "3.png")
    assert found(tmp_path) == ({"train": {"unlabelled": ["1.png", "2.png", "3.png"]}}, ())
    source = folder(tmp_path)
    assert source.classes == ("unlabelled",)
    assert source.counts == {"train": 2, "test": 1}


@pytest.mark.parametrize(
    ("train", "test"), [("train", "test"), ("Train", "TEST"), ("TRAIN", "Test"), ("training", "Testing")]
)
@pytest.mark.parametrize("inner", ["", "a/", "a/b/"])
def test_folders_of_splits_are_recognised_in_any_case(tmp_path, train, test, inner):
    paint(tmp_path, f"{train}/{inner}1.png", f"{train}/{inner}2.png", f"{test}/{inner}1.png")
    name = "a" if inner else "unlabelled"
    splits, notices = found(tmp_path)
    assert splits == {
        "train": {name: [f"{train}/{inner}1.png", f"{train}/{inner}2.png"]},
        "test": {name: [f"{test}/{inner}1.png"]},
    }
    assert notices == ()


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Val", "VALIDATION"])
def test_a_validation_folder_is_a_split_beside_train_and_test(tmp_path, name):
    data = tmp_path / "data"
    paint(data, "train/a/1.png", "train/b/1.png", "test/a/1.png", f"{name}/b/1.png", f"{name}/b/22.png")
    splits, notices = found(data)
    assert splits["validation"] == {"b": [f"{name}/b/1.png", f"{name}/b/22.png"]}
    assert notices == ()
    made = prepare(folder(data), str(tmp_path / "out"))
    assert {split: each.rows for split, each in made.splits.items()} == {"train": 2, "test": 1, "validation": 2}
    assert load_manifest(str(tmp_path / "out")) == made


def test_a_validation_folder_without_test_is_for_testing(tmp_path):
    paint(tmp_path, "train/a/1.png", "Val/a/1.png")
    splits, notices = found(tmp_path)
    assert splits == {"train": {"a": ["train/a/1.png"]}, "test": {"a": ["Val/a/1.png"]}}
    assert notices == (f"{tmp_path}/Val is the test split, as there is no folder test",)


def test_test_images_are_drawn_from_a_single_train_folder(tmp_path):
    paint(tmp_path, "train/cat/1.png", "train/cat/2.png", "train/dog/1.png", "train/dog/2.png")
    splits, notices = found(tmp_path)
    assert set(splits) == {"train"}
    assert set(splits["train"]) == {"cat", "dog"}
    assert notices == (f"test images are drawn from {tmp_path}/train, as there is no folder test",)
    assert folder(tmp_path).counts == {"train": 2, "test": 2}


@pytest.mark.parametrize(("path", "name"), [("test/bird/1.png", "bird"), ("test/1.png", "unlabelled")])
def test_classes_without_training_images_are_reported(tmp_path, path, name):
    paint(tmp_path, "train/cat/1.png", "train/dog/1.png", path)
    source = folder(tmp_path)
    assert source.classes == tuple(sorted({"cat", "dog", name}))
    assert source.warnings == (f"{tmp_path}/test has classes that train lacks: {name}",)


def test_files_beside_the_folders_of_splits_are_reported(tmp_path):
    paint(tmp_path, "train/a/1.png", "test/a/1.png", "extra/a/1.png", "extra/2.png", "cover.png")
    splits, notices = found(tmp_path)
    assert splits == {"train": {"a": ["train/a/1.png"]}, "test": {"a": ["test/a/1.png"]}}
    assert notices == (
        f"ignored 2 images in {tmp_path}/extra, which is not a split",
        f"ignored 1 image, cover.png, beside the split folders in {tmp_path}",
    )


def test_train_may_be_a_class(tmp_path):
    """The layout is toys: cars, trains."""
    paint(tmp_path, "cars/1.png", "cars/2.png", "train/1.png", "train/2.png")
    splits, notices = found(tmp_path)
    assert set(splits["train"]) == {"cars", "train"}
    assert notices == (f"{tmp_path}/train is used as a class, as there is no folder test beside it",)


def test_a_class_that_contains_the_classes_is_reported(tmp_path):
    paint(tmp_path, "pets/cat/1.png", "pets/cat/2.png", "pets/dog/1.png")
    splits, (notice,) = found(tmp_path)
    assert set(splits["train"]) == {"pets"}
    assert notice == (
        f"all images are in one class, pets; --folder {tmp_path}/pets would use its folders, cat, dog, as classes"
    )


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([], r"no images in .*: expected CLASS/\*\.png, \*\.png, or train/ and test/ .*; it is empty$"),
        (["a/1.txt", "2.heic"], r"no images in .*; found 1 \.heic \(no decoder\), 1 \.txt$"),
        (["test/a/1.png", "val/a/1.png"], r"has images in test, val, but none in train: expected CLASS/\*\.png"),
        (["train/1.png", "val/1.png", "valid/1.png"], "has val, valid, which are the same split"),
        (["train/1.png", "Train/1.png", "test/1.png"], "has Train, train, which are the same split"),
        (
            ["pets/train/1.png", "pets/test/1.png"],
            r"pets has folders test, train within a class: .*; is it --folder .*/pets\?$",
        ),
        (["a/train/1.png", "a/test/1.png", "b/train/1.png"], "/a has folders test, train within a class: exp"),
        (["train/a/1.png", "test/notes.txt"], "has images in train, but none in test: expected"),
    ],
)
def test_a_layout_that_is_not_understood_is_named(tmp_path, paths, message):
    images = [path for path in paths if path.endswith(".png")]
    paint(tmp_path, *images)
    touch(tmp_path, *(path for path in paths if path not in images))
    with pytest.raises(DataError, match=message) as caught:
        folder(tmp_path)
    assert "\n" not in str(caught.value)


def test_links_are_followed_but_not_in_a_circle(tmp_path):
    paint(tmp_path, "elsewhere/1.png", "data/dog/1.png")
    (tmp_path / "data" / "cat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "dog" / "again").symlink_to(tmp_path / "data")
    assert found(tmp_path / "data")[0] == {"train": {"cat": ["cat/1.png"], "dog": ["dog/1.png"]}}


@pytest.mark.parametrize(
    ("name", "told"),
    [(b"caf\xe9", "caf\\xe9"), ("café".encode(), "café"), (b"a\nb\x1b[31m", "a\\nb\\x1b[31m"), (b"plain", "plain")],
)
def test_names_of_any_bytes_are_shown_as_text(tmp_path, name, told):
    """This applies to classes and folders; manifest.json can be read again."""
    for k in range(2):
        paint(tmp_path, os.fsdecode(name + b"/" + name + b"/%d.png" % k))
    manifest = prepare(folder(tmp_path / os.fsdecode(name)), str(tmp_path / "out"))
    assert load_manifest(str(tmp_path / "out")) == manifest
    assert manifest.classes == (told,)
    assert manifest.source.name == told


def test_two_names_with_the_same_text_are_refused(tmp_path):
    paint(tmp_path, os.fsdecode(b"caf\xe9/1.png"), "caf\\xe9/1.png")
    with pytest.raises(DataError, match="have names that differ only in bytes that are not UTF-8"):
        folder(tmp_path)


def test_the_draw_is_that_of_earlier_versions(tmp_path):
    """The fingerprint is also the same, for folders that earlier versions could read."""
    for k in range(20):
        (tmp_path / "a").mkdir(exist_ok=True)
        Image.new("L", (8, 8), k).save(tmp_path / "a" / f"{k:02}.png")
    ((images, _),) = folder(tmp_path, (8, 8), seed=3, grey=True).read("test")
    assert images[:, 0, 0, 0].tolist() == sorted(np.random.default_rng(3).permutation(20)[:2].tolist())
