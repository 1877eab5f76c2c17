"""Lanes: which rows make up which batch, for whichever number of workers reads them.

A shard is a lane. The rows of an epoch are dealt from S lanes in turn: position p of the epoch is row p // S
of lane p % S, in that lane's own order, and a global batch is a run of B positions. Within a batch, rows
stand by lane, so a worker that owns a contiguous run of lanes owns a contiguous run of each batch. Hence the
same batches for any number of workers, each row once an epoch, and a position that is (epoch, step), no more.

It takes that shard l of S holds ceil((N - l) / S) of the N rows, as `vaedist data prepare` deals them.
"""

from dataclasses import dataclass

import numpy as np

from vaedist.data.manifest import shard_rows
from vaedist.errors import DataError


@dataclass(frozen=True)
class Slice:
    """One worker's rows of one global batch.

    start, stop: for each of the worker's lanes, the half-open run of rows it gives, [lanes].
    first_row: number, within the global batch, of the worker's first row.
    """

    start: np.ndarray
    stop: np.ndarray
    first_row: int

    @property
    def rows(self) -> int:
        """How many rows the worker has in this batch."""
        return int((self.stop - self.start).sum())


@dataclass(frozen=True)
class LanePlan:
    """The batches of one epoch as worker `rank` of `workers` sees them.

    Args:
        rows: rows of the split.
        lanes: shards of the split.
        global_batch: rows of a batch, over all workers; the last batch of an epoch may have fewer.
        rank, workers: whose rows; at most one worker a lane.
    """

    rows: int
    lanes: int
    global_batch: int
    rank: int = 0
    workers: int = 1

    def __post_init__(self) -> None:
        if self.workers > self.lanes:
            raise DataError(
                f"{self.workers} workers cannot share {self.lanes} shards: a shard feeds one worker; use at "
                f"most {self.lanes} workers, or prepare the data with --shards {self.workers} or more"
            )

    @property
    def steps(self) -> int:
        """Batches of an epoch, the short last one included."""
        return -(-self.rows // self.global_batch)

    @property
    def owned(self) -> range:
        """The lanes that this worker reads."""
        return range(self.rank * self.lanes // self.workers, (self.rank + 1) * self.lanes // self.workers)

    @property
    def local_batch(self) -> int:
        """The most rows that this worker has in any batch: its lanes' share, rounded up lane by lane."""
        full, rest = divmod(self.global_batch, self.lanes)
        return full * len(self.owned) + min(rest, len(self.owned))

    def lane_rows(self, lane: int) -> int:
        """Rows that a lane holds."""
        return shard_rows(self.rows, self.lanes, lane)

    def numbers(self, lane: int, rows: np.ndarray) -> np.ndarray:
        """Numbers in the split of some rows of a lane: row r of lane l of S is number r S + l, as it was dealt."""
        return split_numbers(self.lanes, lane, rows)

    def slice(self, step: int) -> Slice:
        """This worker's part of batch `step` of an epoch."""
        first = step * self.global_batch
        last = min(first + self.global_batch, self.rows)
        lanes = np.arange(self.lanes)
        start, stop = ((np.maximum(p - lanes, 0) + self.lanes - 1) // self.lanes for p in (first, last))
        before = int((stop - start)[: self.owned.start].sum())
        own = slice(self.owned.start, self.owned.stop)
        return Slice(start[own], stop[own], before)


def split_numbers(lanes: int, lane: int | np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Numbers in their split of some rows of a lane, or of one each; they do not depend on how many lanes there are."""
    return rows * lanes + lane


def lane_order(seed: int, epoch: int, lane: int, rows: int) -> np.ndarray:
    """The order in which a lane gives its rows in an epoch: a permutation of 0, ..., rows - 1, [rows]."""
    return np.random.default_rng([seed, epoch, lane]).permutation(rows)
