"""Random access to the rows of a split."""

from bisect import bisect_right
from itertools import accumulate
from threading import Lock

import numpy as np

from vaedist.data.lanes import split_numbers
from vaedist.data.manifest import Manifest, SplitName
from vaedist.data.shards import ShardArrays, open_split
from vaedist.errors import DataError


class SplitRows:
    """The images of a split in stored order, shard by shard.

    `prepare` distributes rows to shards at random, so the first rows are a random sample of the split. Shards are
    opened when they are read, and closed when others are read. The class is thread-safe.

    Args:
        uri: the data set.
        manifest: its manifest.
        split: "train", "test" or "validation".
        limit: maximum number of rows; None for all.

    Raises:
        DataError: the data set has no such split.
    """

    def __init__(self, uri: str, manifest: Manifest, split: SplitName, limit: int | None = None) -> None:
        self._uri, self._manifest, self._split = uri, manifest, split
        if split not in manifest.splits:
            raise DataError(f"the data at {uri} has no {split} split; it has {', '.join(manifest.split_names)}")
        shards = manifest.splits[split].shards
        self._ends = list(accumulate(shard.rows for shard in shards))
        self._open: dict[int, ShardArrays] = {}
        self._lock = Lock()
        self.rows = min(self._ends[-1], limit or self._ends[-1])

    def read(self, start: int, stop: int) -> np.ndarray:
        """Returns the images of rows start, ..., stop - 1, fewer at the end of the split, [n, H, W, C], uint8.

        Raises:
            DataError: a shard is missing or damaged.
        """
        return np.concatenate([shard.images for shard in self._slices(start, stop)], axis=0)

    def labels(self, start: int, stop: int) -> np.ndarray:
        """Returns the labels of the rows that `read` returns, [n], int32.

        Raises:
            DataError: a shard is missing or damaged.
        """
        return np.concatenate([shard.labels for shard in self._slices(start, stop)], axis=0)

    def numbers(self, start: int, stop: int) -> np.ndarray:
        """Returns the indices in the split, see `LanePlan`, of the rows that `read` returns, [n], int64."""
        places = np.arange(start, min(stop, self.rows))
        lanes = np.searchsorted(self._ends, places, side="right")
        return split_numbers(len(self._ends), lanes, places - np.array([0, *self._ends])[lanes])

    def _slices(self, start: int, stop: int) -> list[ShardArrays]:
        """Returns the rows start, ..., stop - 1 as one part of each shard that has some of them."""
        stop = min(stop, self.rows)
        needed = range(bisect_right(self._ends, start), bisect_right(self._ends, stop - 1) + 1)
        firsts = {number: self._ends[number - 1] if number else 0 for number in needed}
        with self._lock:
            self._open = {number: self._shard(number) for number in needed}
            places = {n: slice(max(start - firsts[n], 0), stop - firsts[n]) for n in needed}
            return [
                ShardArrays(self._open[n].images[place], self._open[n].labels[place]) for n, place in places.items()
            ]

    def _shard(self, number: int) -> ShardArrays:
        if number in self._open:
            return self._open[number]
        (arrays,) = open_split(self._uri, self._manifest, self._split, [number])
        return arrays
