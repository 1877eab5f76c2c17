"""Shard files: how one is laid out, written and opened.

A shard is one Arrow IPC file, uncompressed, of one record batch with two columns: `image`, Arrow's own
fixed-shape tensor of uint8, and `label`, int32. So a local shard, mapped into memory, is already the array
that batches are copied from: nothing is decoded and nothing is read before it is asked for.
"""

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.fs

from vaedist.data.manifest import Manifest, Shard, SplitName
from vaedist.errors import DataError
from vaedist.storage.cache import Entry, FileCache
from vaedist.storage.filesystem import first_line, open_filesystem
from vaedist.storage.paths import cache_bytes, cache_folder
from vaedist.storage.retry import RUN_SECONDS
from vaedist.storage.transfer import Store
from vaedist.storage.uri import is_remote, join_uri

_WHOLE = np.iinfo(np.int32).max  # as a scan's batch size: never cut a shard's record batch into slices


@dataclass(frozen=True)
class ShardArrays:
    """One shard's rows, not to be written to.

    images: [rows, H, W, C], uint8.
    labels: [rows], int32.
    """

    images: np.ndarray
    labels: np.ndarray


def schema_of(shape: tuple[int, int, int]) -> pa.Schema:
    """The Arrow schema of a shard of images [H, W, C]."""
    image = pa.field("image", pa.fixed_shape_tensor(pa.uint8(), shape), nullable=False)
    return pa.schema([image, pa.field("label", pa.int32(), nullable=False)])


def write_shard(path: str, images: np.ndarray, labels: np.ndarray) -> None:
    """Write one shard file; images in a memory map are not read as a whole.

    Args:
        path: a local file.
        images: [rows, H, W, C], uint8, contiguous.
        labels: [rows], int32.

    Raises:
        OSError: it cannot be written.
    """
    schema = schema_of(images.shape[1:])
    columns = [pa.FixedShapeTensorArray.from_numpy_ndarray(images), pa.array(labels, pa.int32())]
    with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.record_batch(columns, schema=schema))


def open_split(uri: str, manifest: Manifest, split: SplitName, shards: Sequence[int]) -> list[ShardArrays]:
    """Open some shards of a split.

    The arrays are views of mapped files and cost no memory of their own. Shards on a store are fetched into this
    machine's cache first, where they stay at least as long as their arrays.

    Args:
        uri: the data set.
        manifest: of that data set.
        split: "train", "test" or "validation".
        shards: numbers of the shards to open, in any order; the others are not touched.

    Returns:
        Arrays in the order of `shards`.

    Raises:
        DataError: a shard is missing, is no Arrow file of this layout, has other rows than the manifest says, or,
            on a store, another digest.
        StorageError: the store does not answer, or this machine's cache cannot be written.
    """
    listed = [manifest.splits[split].shards[number] for number in shards]
    if is_remote(uri):
        store = Store(uri, seconds=RUN_SECONDS)
        cache = FileCache(cache_folder() / "shards", cache_bytes())
        return [_open_cached(cache, store, shard, manifest) for shard in listed]
    _, path = open_filesystem(uri)
    return [_open(f"{path}/{shard.file}", shard, manifest, join_uri(uri, shard.file)) for shard in listed]


def _open_cached(cache: FileCache, store: Store, shard: Shard, manifest: Manifest) -> ShardArrays:
    entry = cache.fetch(store, shard.file, sha256=shard.sha256, size=shard.bytes)
    try:
        arrays = _open(str(entry.path), shard, manifest, store.uri_of(shard.file))
    except BaseException:
        entry.release()
        raise
    _hold(entry, arrays.images)
    return arrays


def _hold(entry: Entry, images: np.ndarray) -> None:
    """Hold a cache entry as long as an array on it, or any view of that, is in use."""
    while isinstance(images.base, np.ndarray):
        images = images.base
    weakref.finalize(images, entry.release).atexit = False


def _open(path: str, shard: Shard, manifest: Manifest, where: str) -> ShardArrays:
    """A local file's arrays; `where` names it in errors."""
    try:
        return _mapped(path, shard, manifest, where)
    except FileNotFoundError as error:
        raise DataError(f"shard {where} is missing; prepare the data set again") from error
    except (pa.ArrowException, OSError, ValueError) as error:  # a damaged column name is a UnicodeDecodeError
        reason = first_line(error).rpartition("': ")[2]
        raise DataError(f"shard {where} cannot be read as an Arrow file: {reason}") from error


def _mapped(path: str, shard: Shard, manifest: Manifest, where: str) -> ShardArrays:
    # One dataset a shard: a dataset of several checks only the first one's schema.
    filesystem = pyarrow.fs.LocalFileSystem(use_mmap=True)
    dataset = pyarrow.dataset.dataset([path], filesystem=filesystem, format="ipc")
    expected = schema_of(manifest.shape)
    if dataset.schema != expected:
        found = ", ".join(f"{field.name}: {field.type}" for field in dataset.schema)
        raise DataError(f"shard {where} holds ({found}), not images of shape {list(manifest.shape)} and labels")
    batches = list(dataset.to_batches(batch_size=_WHOLE, use_threads=False))
    if len(batches) != 1 or batches[0].num_rows != shard.rows:
        rows = sum(batch.num_rows for batch in batches)
        raise DataError(f"shard {where} holds {rows} rows in {len(batches)} batches, not {shard.rows} rows in one")
    batch = batches[0]
    batch.validate()  # lengths of buffers against rows: reading beyond a mapped file would kill the process
    labels = batch.column("label").to_numpy()
    if labels.min() < 0 or labels.max() >= len(manifest.classes):
        raise DataError(f"shard {where} has labels outside 0 to {len(manifest.classes) - 1}")
    images: Any = batch.column("image")  # a FixedShapeTensorArray, by its schema
    return ShardArrays(images.to_numpy_ndarray(), labels)
