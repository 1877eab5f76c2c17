"""Converts a source to a data set: shards and a manifest.

The rows of a split are permuted at random, and the row at position p of the permutation becomes row p // S of shard
p % S. Thus shard l of S holds ceil((N - l) / S) of the N rows: sizes differ by at most one, and the first shards have
the extra rows. `lanes` relies on this.
"""

import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.fs

from vaedist.data.atomic_folder import committed_folder, storage_errors, uploaded_folder
from vaedist.data.manifest import ALL_SPLITS, MANIFEST, Manifest, Shard, Split, SplitName, shard_rows
from vaedist.data.shards import write_shard
from vaedist.data.shuffle_buffer import ShuffleBuffer
from vaedist.data.sources.source import ImageSource
from vaedist.errors import DataError
from vaedist.files import sync
from vaedist.storage.filesystem import open_filesystem, sha256_of
from vaedist.storage.transfer import Store
from vaedist.storage.uri import fault_of, is_remote
from vaedist.wording import counted

Progress = Callable[[int], None]

SHARDS = 32  # default number of shards per split


def prepare(
    source: ImageSource, out: str, *, shards: int | None = None, seed: int = 0, progress: Progress | None = None
) -> Manifest:
    """Writes a data set atomically.

    Only one batch of images is held in memory at a time, besides the permutation of the rows, a few numbers per row.
    The same source and seed give the same bytes, hence the same fingerprint.

    Args:
        source: the source to read.
        out: new folder, or its pyarrow filesystem URI; it must not exist yet.
        shards: shards of each split, which is the maximum number of workers. None means `SHARDS`, or one shard per
            image for a split with fewer images.
        seed: seed of the permutation.
        progress: called with the number of rows read so far, over all splits.

    Raises:
        DataError: `out` exists, a split has fewer rows than shards, or the source is damaged.
        RunError: `out` is on an object store, and another process writes to it at the same time.
        StorageError: `out` cannot be written.
    """
    _check_request(source, shards, seed)
    path = require_new(out)
    with uploaded_folder(Store(out), last=MANIFEST) if is_remote(out) else committed_folder(Path(path)) as folder:
        return _Writer(source, folder, out, shards, seed, progress).write()


def require_new(out: str) -> str:
    """Checks that a new data set can be written, and returns its path on its filesystem.

    Call this before a download, too, which would otherwise be in vain.

    Raises:
        DataError: something already exists there.
        StorageError: this cannot be determined.
    """
    if fault := fault_of(out):
        raise DataError(f"--out {out}: {fault}")
    _, path = open_filesystem(out)
    if is_remote(out):
        Store(out).check()
    if Store(out).exists() if is_remote(out) else os.path.lexists(path):
        raise DataError(f"{out} already exists: choose another --out, or remove it")
    return path


def row_places(rows: int, shards: int, seed: int, split: SplitName) -> np.ndarray:
    """Returns each source row's index in the concatenated shards of a split, [rows]."""
    position = np.random.default_rng([seed, ALL_SPLITS.index(split)]).permutation(rows)
    return _first_rows(rows, shards)[position % shards] + position // shards


def _first_rows(rows: int, shards: int) -> np.ndarray:
    """Returns the index of each shard's first row, and finally the number of rows, [shards + 1]."""
    return np.cumsum([0] + [shard_rows(rows, shards, lane) for lane in range(shards)])


def _check_request(source: ImageSource, shards: int | None, seed: int) -> None:
    if seed < 0 or (shards is not None and shards < 1):
        raise DataError(f"shards = {shards} must be at least 1 and seed = {seed} at least 0")
    for split in source.splits:
        rows = source.rows(split)
        if not rows:
            raise DataError(f"{source.name} has no {split} images: there must be at least one")
        if shards is not None and rows < shards:
            few = f"{counted(rows, f'{split} image')} for {counted(shards, 'shard')}"
            raise DataError(f"{source.name} has {few}: use --shards {rows} or less")


class _Writer:
    """Writes one data set into a folder."""

    def __init__(
        self, source: ImageSource, folder: Path, out: str, shards: int | None, seed: int, progress: Progress | None
    ) -> None:
        self.source, self.folder, self.out = source, folder, out
        self.shards, self.seed, self.progress = shards, seed, progress
        self.done = 0  # rows, over all splits

    def write(self) -> Manifest:
        """Writes all shards, then the manifest."""
        source = self.source
        manifest = Manifest(
            format=2 if "validation" in source.splits else 1,
            name=source.name,
            shape=source.shape,
            classes=source.classes,
            seed=self.seed,
            source=source.provenance,
            splits={split: self.write_split(split) for split in source.splits},
            held_out=source.held_out,
        )
        with storage_errors(self.out):
            (self.folder / MANIFEST).write_bytes(manifest.to_bytes())
            sync(self.folder / MANIFEST)
        return manifest

    def write_split(self, split: SplitName) -> Split:
        rows = self.source.rows(split)
        count = self.shards_of(split)
        first = _first_rows(rows, count)
        with storage_errors(self.out):
            spill = ShuffleBuffer(self.folder, (rows, *self.source.shape))
        with spill:
            labels = self.fill(spill, split)
            images = spill.images()
            shards = tuple(
                self.write_shard(f"{split}-{lane:05d}-of-{count:05d}.arrow", images[a:b], labels[a:b])
                for lane, (a, b) in enumerate(pairwise(first))
            )
        return Split(rows=rows, shards=shards)

    def shards_of(self, split: SplitName) -> int:
        return min(SHARDS, self.source.rows(split)) if self.shards is None else self.shards

    def fill(self, spill: ShuffleBuffer, split: SplitName) -> np.ndarray:
        """Writes the split's images into the buffer, permuted; returns the labels in the same order, [rows]."""
        rows = self.source.rows(split)
        places = row_places(rows, self.shards_of(split), self.seed, split)
        labels = np.empty(rows, np.int32)
        read = 0
        for images, some in self.source.read(split):
            self.check_batch(images, some, split)
            some_places = places[read : read + len(images)]
            read += len(images)
            if read > rows:
                break
            with storage_errors(self.out):
                spill.put(some_places, images)
            labels[some_places] = some
            if self.progress is not None:
                self.progress(self.done + read)
        if read != rows:
            raise DataError(f"{self.source.name} yielded {read} rows of its {split} split, but declares {rows}")
        self.done += rows
        return labels

    def check_batch(self, images: np.ndarray, labels: np.ndarray, split: SplitName) -> None:
        source = self.source
        if images.dtype != np.uint8 or images.shape[1:] != source.shape or labels.shape != images.shape[:1]:
            raise DataError(
                f"{source.name} yielded {split} images {list(images.shape)} of {images.dtype} and labels "
                f"{list(labels.shape)}, not uint8 [n, {', '.join(map(str, source.shape))}] and [n]"
            )
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(source.classes):
            raise DataError(
                f"{source.name} has {split} labels from {labels.min()} to {labels.max()}; its classes are "
                f"0 to {len(source.classes) - 1}"
            )

    def write_shard(self, file: str, images: np.ndarray, labels: np.ndarray) -> Shard:
        path = self.folder / file
        with storage_errors(self.out):
            write_shard(str(path), images, labels)
            sync(path)
            digest = sha256_of(pyarrow.fs.LocalFileSystem(), str(path))
            return Shard(file=file, rows=len(images), bytes=path.stat().st_size, sha256=digest)
