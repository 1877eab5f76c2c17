import errno
import json
import os
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pytest
from synthetic import row_of, source

from vaedist.data.manifest import load_manifest, open_filesystem, verify
from vaedist.data.prepare import prepare
from vaedist.data.shards import open_split
from vaedist.errors import DataError, StorageError


@pytest.mark.parametrize("shards", [1, 4, 11])
def test_rows_are_dealt_to_shards_in_turn_in_a_permuted_order(tmp_path, shards):
    out = str(tmp_path / "numbers")
    manifest = prepare(source(), out, shards=shards, seed=3)
    for key, (split, rows) in enumerate([("train", 53), ("test", 11)]):
        position = np.random.default_rng([3, key]).permutation(rows)
        expected = np.argsort(position)  # the row at each position
        for lane, arrays in enumerate(open_split(out, manifest, split, range(shards))):
            np.testing.assert_array_equal(row_of(arrays.images), expected[lane::shards])
            np.testing.assert_array_equal(arrays.labels, expected[lane::shards] % 3)
            assert len(arrays.images) == manifest.splits[split].shards[lane].rows == -(-(rows - lane) // shards)


def test_images_arrive_pixel_by_pixel(tmp_path):
    out = str(tmp_path / "numbers")
    images = np.concatenate([images for images, _ in source().read("train")])
    manifest = prepare(source(), out, shards=5)
    for arrays in open_split(out, manifest, "train", range(5)):
        np.testing.assert_array_equal(arrays.images, images[row_of(arrays.images)])


def test_same_source_and_seed_give_the_same_bytes(tmp_path):
    one = prepare(source(), str(tmp_path / "one"), shards=4, seed=1)
    two = prepare(source(batch=50), str(tmp_path / "two"), shards=4, seed=1)
    other = prepare(source(), str(tmp_path / "other"), shards=4, seed=2)
    assert one.fingerprint == two.fingerprint != other.fingerprint
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_written_data_verify(tmp_path):
    seen = []
    manifest = prepare(source(), str(tmp_path / "numbers"), shards=4, progress=seen.append)
    assert verify(str(tmp_path / "numbers")) == manifest
    assert seen == sorted(seen)
    assert seen[-1] == 64
    assert str(tmp_path) not in json.dumps(manifest.model_dump(mode="json"))
    assert [path.name for path in tmp_path.iterdir()] == ["numbers"]


def test_memory_does_not_grow_with_the_images(tmp_path):
    """30 MB of images are processed in batches of 0.3 MB, and allocated memory is that of a few batches."""
    batch = np.zeros((100, 32, 32, 3), np.uint8), np.zeros(100, np.int64)
    whole = source(train=10_000, test=100, shape=(32, 32, 3))
    zeros = replace(whole, reader=lambda split: (batch for _ in range(whole.rows(split) // 100)))
    tracemalloc.start()
    arrow = pa.total_allocated_bytes()
    prepare(zeros, str(tmp_path / "zeros"), shards=2)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3_000_000
    assert pa.total_allocated_bytes() - arrow < 100_000


def test_others_may_read_the_folder(tmp_path):
    (tmp_path / "like").mkdir()
    prepare(source(), str(tmp_path / "numbers"), shards=4)
    assert (tmp_path / "numbers").stat().st_mode == (tmp_path / "like").stat().st_mode


@pytest.mark.parametrize("error", [DataError("torn"), ValueError("wrong"), KeyboardInterrupt()])
def test_nothing_is_left_if_the_source_fails_midway(tmp_path, error):
    with pytest.raises(type(error)):
        prepare(source(fails_at=20, error=error), str(tmp_path / "numbers"), shards=4)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch, lambda path: path.symlink_to("nowhere")])
def test_existing_files_are_never_replaced(tmp_path, make):
    out = tmp_path / "numbers"
    make(out)
    with pytest.raises(DataError, match="already exists: choose another --out, or remove it"):
        prepare(source(), str(out), shards=4)
    assert [path.name for path in tmp_path.iterdir()] == ["numbers"]


@pytest.mark.parametrize(
    ("rows", "shards", "message"),
    [
        ({}, 12, "numbers has 11 test images for 12 shards: use --shards 11 or less"),
        ({"test": 0}, 1, "numbers has no test images: there must be at least one"),
        ({"test": 0}, None, "numbers has no test images: there must be at least one"),
        ({}, 0, "shards = 0 must be at least 1"),
    ],
)
def test_impossible_numbers_of_shards_are_refused(tmp_path, rows, shards, message):
    with pytest.raises(DataError, match=message):
        prepare(source(**rows), str(tmp_path / "numbers"), shards=shards)


def test_the_number_of_shards_follows_from_few_images(tmp_path):
    made = prepare(source(validation=3), str(tmp_path / "numbers"))
    assert {split: len(made.splits[split].shards) for split in made.splits} == {
        "train": 32,
        "test": 11,
        "validation": 3,
    }
    assert verify(str(tmp_path / "numbers")) == made
    rows = [row_of(part.images) for part in open_split(str(tmp_path / "numbers"), made, "test", range(11))]
    assert sorted(np.concatenate(rows).tolist()) == list(range(11))


def broken(change):
    """A source whose batches are not as declared."""
    whole = source()
    return replace(whole, reader=lambda split: map(change, whole.read(split)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda batch: (batch[0][:, :3], batch[1]), r"yielded train images \[7, 3, 6, 3\] of uint8"),
        (lambda batch: (batch[0] / 255, batch[1]), "of float64"),
        (lambda batch: (batch[0], batch[1] + 1), "labels from 1 to 3; its classes are 0 to 2"),
        (lambda batch: (batch[0][1:], batch[1][1:]), "yielded 45 rows of its train split, but declares 53"),
        (lambda batch: (batch[0].repeat(2, 0), batch[1].repeat(2, 0)), "yielded 56 rows"),
    ],
)
def test_a_source_that_differs_from_its_declaration_is_refused(tmp_path, change, message):
    with pytest.raises(DataError, match=message):
        prepare(broken(change), str(tmp_path / "numbers"), shards=4)
    assert not any(tmp_path.iterdir())


def test_a_file_in_the_way_is_a_storage_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"cannot write .*numbers: (Not a directory|File exists)"):
        prepare(source(), str(tmp_path / "file" / "numbers"), shards=4)


FULL_DISK = """
import resource, sys
sys.path.insert(0, sys.argv[1])
from synthetic import source
from vaedist.data.prepare import prepare
from vaedist.errors import StorageError
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
try:
    prepare(source(train=2000, shape=(8, 8, 3)), sys.argv[2], shards=1)
except StorageError as error:
    print(error)
"""


@pytest.mark.parametrize("limit", [100_000, 2000 * 192 + 100])
def test_a_disk_that_fills_up_is_a_storage_error_and_leaves_nothing(tmp_path, limit):
    """The limit on a file's size stops the spilled rows (the smaller one) or the shard (the larger)."""
    out = tmp_path / "numbers"
    command = [sys.executable, "-c", FULL_DISK, str(Path(__file__).parent), str(out), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith(f"cannot write {out}: ")
    assert os.strerror(errno.EFBIG) in done.stdout
    assert done.stdout.count("\n") == 1
    assert not any(tmp_path.iterdir())


@pytest.fixture
def remote():
    """A file system that is not local and cannot rename folders: fsspec's, in memory."""
    uri = "fsspec+memory://bucket/numbers"
    filesystem, path = open_filesystem(uri)
    yield uri, filesystem, path
    if filesystem.get_file_info(path).type != pyarrow.fs.FileType.NotFound:
        filesystem.delete_dir(path)


def test_a_data_set_may_live_on_another_filesystem(tmp_path, remote):
    uri, _, _ = remote
    manifest = prepare(source(), uri, shards=4)
    local = prepare(source(), str(tmp_path / "numbers"), shards=4)
    assert verify(uri) == load_manifest(uri) == manifest == local
    there, here = (open_split(where, manifest, "test", [2, 0]) for where in (uri, str(tmp_path / "numbers")))
    for one, other in zip(there, here, strict=True):
        np.testing.assert_array_equal(one.images, other.images)
    with pytest.raises(DataError, match="already exists"):
        prepare(source(), uri, shards=4)


def test_a_source_that_fails_leaves_nothing_on_another_filesystem(remote):
    uri, filesystem, path = remote
    with pytest.raises(DataError, match="torn"):
        prepare(source(fails_at=20, error=DataError("torn")), uri, shards=4)
    assert filesystem.get_file_info(path).type == pyarrow.fs.FileType.NotFound
