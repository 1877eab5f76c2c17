"""Format, writing and opening of shard files.

A shard is an uncompressed Arrow IPC file of one record batch with two columns: `image`, a fixed-shape tensor of uint8,
and `label`, int32. A memory-mapped local shard is therefore already the array from which batches are copied: nothing
is decoded, and pages are read on demand.
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

_WHOLE = np.iinfo(np.int32).max  # batch size of a scan that does not slice a shard's record batch


@dataclass(frozen=True)
class ShardArrays:
    """Read-only arrays of one shard's rows.

    Attributes:
        images: [rows, H, W, C], uint8.
        labels: [rows], int32.
    """

    images: np.ndarray
    labels: np.ndarray


def schema_of(shape: tuple[int, int, int]) -> pa.Schema:
    """Returns the Arrow schema of a shard of images [H, W, C]."""
    image = pa.field("image", pa.fixed_shape_tensor(pa.uint8(), shape), nullable=False)
    return pa.schema([image, pa.field("label", pa.int32(), nullable=False)])


def write_shard(path: str, images: np.ndarray, labels: np.ndarray) -> None:
    """Writes one shard file; memory-mapped images are not loaded as a whole.

    Args:
        path: a local file.
        images: [rows, H, W, C], uint8, contiguous.
        labels: [rows], int32.

    Raises:
        OSError: the file cannot be written.
    """
    schema = schema_of(images.shape[1:])
    columns = [pa.FixedShapeTensorArray.from_numpy_ndarray(images), pa.array(labels, pa.int32())]
    with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.record_batch(columns, schema=schema))


def open_split(uri: str, manifest: Manifest, split: SplitName, shards: Sequence[int]) -> list[ShardArrays]:
    """Opens some shards of a split.

    The arrays are views of memory-mapped files. Shards on an object store are first downloaded into this machine's
    cache, where they remain at least as long as their arrays.

    Args:
        uri: the data set.
        manifest: its manifest.
        split: "train", "test" or "validation".
        shards: indices of the shards to open, in any order; other shards are not touched.

    Returns:
        Arrays in the order of `shards`.

    Raises:
        DataError: a shard is missing, is not an Arrow file of this layout, or differs from the manifest in its rows
            or, on an object store, in its digest.
        StorageError: the object store does not respond, or this machine's cache cannot be written.
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
    """Keeps a cache entry locked as long as an array on it, or a view of that array, is in use."""
    while isinstance(images.base, np.ndarray):
        images = images.base
    weakref.finalize(images, entry.release).atexit = False


def _open(path: str, shard: Shard, manifest: Manifest, where: str) -> ShardArrays:
    """Returns the arrays of a local file; `where` names it in errors."""
    try:
        return _mapped(path, shard, manifest, where)
    except FileNotFoundError as error:
        raise DataError(f"shard {where} is missing; prepare the data set again") from error
    except (pa.ArrowException, OSError, ValueError) as error:  # a damaged column name is a UnicodeDecodeError
        reason = first_line(error).rpartition("': ")[2]
        raise DataError(f"shard {where} cannot be read as an Arrow file: {reason}") from error


def _mapped(path: str, shard: Shard, manifest: Manifest, where: str) -> ShardArrays:
    # One dataset per shard: a dataset of several files checks only the first one's schema.
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
    batch.validate()  # checks the lengths of buffers: reading beyond a mapped file would kill the process
    labels = batch.column("label").to_numpy()
    if labels.min() < 0 or labels.max() >= len(manifest.classes):
        raise DataError(f"shard {where} has labels outside 0 to {len(manifest.classes) - 1}")
    images: Any = batch.column("image")  # a FixedShapeTensorArray, by its schema
    return ShardArrays(images.to_numpy_ndarray(), labels)
