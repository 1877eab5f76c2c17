"""Folders of images as a source: which changes of the files are noticed."""

import os
import pickle
import shutil

import pytest
from PIL import Image

from vaedist.errors import DataError
from vaedist.inference.parts import Parts
from vaedist.inference.sources import FolderSource

SHAPE = (4, 6, 3)


def write(path, colour, seconds=1_700_000_000.25):
    """Writes an image; all of them have the same size, as BMP is not compressed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), colour).save(path)
    os.utime(path, (seconds, seconds))


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "images/a/one.bmp", "red")
    write(tmp_path / "images/two.bmp", "green")
    return tmp_path / "images"


def opened(folder):
    """Returns a source as a worker gets it."""
    return pickle.loads(pickle.dumps(FolderSource.at(folder, SHAPE)))


def test_an_image_that_is_replaced_by_one_of_equal_size_is_noticed(folder):
    before = opened(folder)
    write(folder / "two.bmp", "blue", 1_700_000_001)
    assert FolderSource.at(folder, SHAPE).fingerprint != before.fingerprint
    (part,) = Parts(before.groups, 10)
    with pytest.raises(DataError, match="have changed in the meantime"):
        before.read(part)


@pytest.mark.parametrize("change", ["add", "remove", "rename"])
def test_other_files_are_noticed(folder, change):
    before = FolderSource.at(folder, SHAPE).fingerprint
    match change:
        case "add":
            write(folder / "three.bmp", "red")
        case "remove":
            (folder / "two.bmp").unlink()
        case "rename":
            (folder / "two.bmp").rename(folder / "too.bmp")
    assert FolderSource.at(folder, SHAPE).fingerprint != before


def test_copies_that_keep_whole_seconds_are_the_same(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    for file in (tmp_path / "copy").rglob("*.bmp"):
        os.utime(file, (0, 1_700_000_000))
    assert FolderSource.at(tmp_path / "copy", SHAPE).fingerprint == opened(folder).fingerprint
