from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from synthetic import image_rows, source

from vaedist.data.manifest import load_manifest
from vaedist.data.prepare import prepare
from vaedist.data.shards import open_split, schema_of
from vaedist.errors import DataError

FIRST = "train-00000-of-00004.arrow"


@pytest.fixture
def dataset(tmp_path):
    out = tmp_path / "numbers"
    prepare(source(), str(out), shards=4)
    return out


def test_shards_are_in_the_requested_order(dataset):
    manifest = load_manifest(str(dataset))
    every = open_split(str(dataset), manifest, "train", range(4))
    some = open_split(str(dataset), manifest, "train", [3, 1])
    for got, expected in zip(some, [every[3], every[1]], strict=True):
        np.testing.assert_array_equal(got.images, expected.images)
        np.testing.assert_array_equal(got.labels, expected.labels)
    assert every[0].images.shape == (14, 4, 6, 3)
    assert every[0].images.dtype == np.uint8
    assert every[0].labels.dtype == np.int32


def test_other_shards_are_not_touched(dataset):
    manifest = load_manifest(str(dataset))
    (dataset / FIRST).unlink()
    assert len(open_split(str(dataset), manifest, "train", [1, 2, 3])) == 3


def test_a_local_shard_is_mapped_and_not_copied(tmp_path):
    out = str(tmp_path / "large")
    manifest = prepare(source(train=2000, test=10, batch=500, shape=(32, 32, 3)), out, shards=2)
    before = pa.total_allocated_bytes()
    (arrays,) = open_split(out, manifest, "train", [0])
    assert arrays.images.nbytes == 1000 * 32 * 32 * 3
    assert pa.total_allocated_bytes() - before < 10_000
    assert not arrays.images.flags.owndata
    assert not arrays.images.flags.writeable
    address = arrays.images.__array_interface__["data"][0]
    assert "train-00000-of-00002.arrow" in mapped_file(address)


def mapped_file(address):
    """Returns the line of this process's memory map that contains an address."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, _, stop = line.split()[0].partition("-")
        if int(start, 16) <= address < int(stop, 16):
            return line
    return ""


def test_a_missing_shard_is_named(dataset):
    manifest = load_manifest(str(dataset))
    (dataset / FIRST).unlink()
    with pytest.raises(DataError, match=rf"{FIRST} is missing"):
        open_split(str(dataset), manifest, "train", [0])


@pytest.mark.parametrize("keep", [0, 5, 100, -1, -100])
def test_a_truncated_shard_is_named(dataset, keep):
    manifest = load_manifest(str(dataset))
    (dataset / FIRST).write_bytes((dataset / FIRST).read_bytes()[:keep])
    with pytest.raises(DataError, match=rf"{FIRST} cannot be read as an Arrow file"):
        open_split(str(dataset), manifest, "train", [0])


def test_a_damaged_shard_never_raises_anything_else(dataset):
    """After changes of bytes in header or footer, a shard is read, or raises a DataError, and no other error."""
    manifest = load_manifest(str(dataset))
    content, told = (dataset / FIRST).read_bytes(), []
    for at in [*range(0, 400, 3), *range(len(content) - 700, len(content), 3)]:
        damaged = bytearray(content)
        damaged[at] ^= 0xFF
        (dataset / FIRST).write_bytes(damaged)
        try:
            (arrays,) = open_split(str(dataset), manifest, "train", [0])
        except DataError as error:
            told.append(str(error))
        else:
            arrays.images.sum()
    assert len(told) > 100
    assert all(FIRST in message and "\n" not in message for message in told)


def write(path, schema, *batches):
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for columns in batches:
            writer.write_batch(pa.record_batch(columns, schema=schema))


def columns(rows, labels):
    return [pa.FixedShapeTensorArray.from_numpy_ndarray(image_rows(0, rows)), pa.array(labels, pa.int32())]


def test_a_shard_of_another_layout_is_refused(dataset):
    manifest = load_manifest(str(dataset))
    write(dataset / FIRST, pa.schema([("label", pa.int32())]), [pa.array([1] * 14, pa.int32())])
    with pytest.raises(DataError, match=rf"{FIRST} holds \(label: int32\), not images of shape \[4, 6, 3\]"):
        open_split(str(dataset), manifest, "train", [0])


@pytest.mark.parametrize(
    ("rows", "message"), [((13,), "holds 13 rows in 1 batches"), ((7, 7), "holds 14 rows in 2 batches")]
)
def test_a_shard_with_other_rows_is_refused(dataset, rows, message):
    manifest = load_manifest(str(dataset))
    write(dataset / FIRST, schema_of((4, 6, 3)), *(columns(n, [0] * n) for n in rows))
    with pytest.raises(DataError, match=message):
        open_split(str(dataset), manifest, "train", [0])


def test_labels_beyond_the_classes_are_refused(dataset):
    manifest = load_manifest(str(dataset))
    write(dataset / FIRST, schema_of((4, 6, 3)), columns(14, [3] * 14))
    with pytest.raises(DataError, match="labels outside 0 to 2"):
        open_split(str(dataset), manifest, "train", [0])
