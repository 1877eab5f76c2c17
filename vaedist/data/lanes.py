"""Lanes: the assignment of rows to batches, which is the same for any number of workers.

Each shard is a lane. An epoch takes rows from its S lanes round-robin: position p of the epoch is row p // S of lane
p % S, in that lane's own order. A global batch is a sequence of B positions. Its rows are sorted by lane, so a worker
that owns a contiguous range of lanes owns a contiguous range of each batch. Hence the batches are the same for any
number of workers, each row occurs once per epoch, and a position in the data is just (epoch, step).

Shard l of S must hold ceil((N - l) / S) of the N rows; `vaedist data prepare` writes it so.
"""

from dataclasses import dataclass

import numpy as np

from vaedist.data.manifest import shard_rows
from vaedist.errors import DataError


@dataclass(frozen=True)
class Slice:
    """One worker's rows of one global batch.

    Attributes:
        start, stop: half-open range of rows from each of the worker's lanes, [lanes].
        first_row: index of the worker's first row within the global batch.
    """

    start: np.ndarray
    stop: np.ndarray
    first_row: int

    @property
    def rows(self) -> int:
        """Number of the worker's rows in this batch."""
        return int((self.stop - self.start).sum())


@dataclass(frozen=True)
class LanePlan:
    """The batches of one epoch, as read by worker `rank` of `workers`.

    Args:
        rows: number of rows in the split.
        lanes: number of shards of the split.
        global_batch: rows per batch, over all workers; the last batch of an epoch may have fewer.
        rank, workers: rank of the worker, and number of workers, at most one per lane.
    """

    rows: int
    lanes: int
    global_batch: int
    rank: int = 0
    workers: int = 1

    def __post_init__(self) -> None:
        if self.workers > self.lanes:
            raise DataError(
                f"{self.workers} workers cannot share {self.lanes} shards, as each worker needs a shard; use at "
                f"most {self.lanes} workers, or prepare the data with --shards {self.workers} or more"
            )

    @property
    def steps(self) -> int:
        """Number of batches per epoch, including a shorter last one."""
        return -(-self.rows // self.global_batch)

    @property
    def owned(self) -> range:
        """Lanes that this worker reads."""
        return range(self.rank * self.lanes // self.workers, (self.rank + 1) * self.lanes // self.workers)

    @property
    def local_batch(self) -> int:
        """Maximum number of rows that this worker has in a batch: its lanes' share, rounded up for each lane."""
        full, rest = divmod(self.global_batch, self.lanes)
        return full * len(self.owned) + min(rest, len(self.owned))

    def lane_rows(self, lane: int) -> int:
        """Returns the number of rows in a lane."""
        return shard_rows(self.rows, self.lanes, lane)

    def numbers(self, lane: int, rows: np.ndarray) -> np.ndarray:
        """Returns the indices of a lane's rows in the split: row r of lane l of S has index r S + l."""
        return split_numbers(self.lanes, lane, rows)

    def slice(self, step: int) -> Slice:
        """Returns this worker's part of batch `step` of an epoch."""
        first = step * self.global_batch
        last = min(first + self.global_batch, self.rows)
        lanes = np.arange(self.lanes)
        start, stop = ((np.maximum(p - lanes, 0) + self.lanes - 1) // self.lanes for p in (first, last))
        before = int((stop - start)[: self.owned.start].sum())
        own = slice(self.owned.start, self.owned.stop)
        return Slice(start[own], stop[own], before)


def split_numbers(lanes: int, lane: int | np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Returns the indices of rows in their split, which do not depend on the number of lanes.

    Args:
        lanes: number of lanes.
        lane: the lane of all rows, or of each row.
        rows: row numbers within the lane.
    """
    return rows * lanes + lane


def lane_order(seed: int, epoch: int, lane: int, rows: int) -> np.ndarray:
    """Returns the order of a lane's rows in an epoch: a permutation of 0, ..., rows - 1, [rows]."""
    return np.random.default_rng([seed, epoch, lane]).permutation(rows)
