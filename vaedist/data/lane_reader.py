"""Reads batches from lanes, and prefetches them in a background thread."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np

from vaedist.data.lanes import LanePlan, lane_order

T = TypeVar("T")

READ_AHEAD = 2  # chunks: one being consumed, one being filled


@dataclass(frozen=True)
class Chunk:
    """Consecutive batches of one epoch, divided among a worker's replicas: up to K batches of Q rows per replica.

    Attributes:
        epoch, first_step: position of the first batch; steps are counted within the epoch.
        steps: number of batches that are filled, at most K.
        images: [replicas, K, Q, H, W, C], uint8; rows beyond a replica's count are zero.
        first_rows: [replicas, K], int64, index of each replica's first row within the global batch.
        counts: [replicas, K], int32, number of rows of each replica.
        numbers: [replicas, K, Q], int64, index of each row in its split, see `LanePlan`; 0 beyond a replica's count.
    """

    epoch: int
    first_step: int
    steps: int
    images: np.ndarray
    first_rows: np.ndarray
    counts: np.ndarray
    numbers: np.ndarray


class LaneReader:
    """Fills chunks from one worker's lanes.

    Args:
        plan: assignment of rows to batches.
        lanes: images of each owned lane, [rows, ...] uint8, in the order of `plan.owned`.
        replicas: number of devices that share the worker's rows.
        seed: seed of the row order; None keeps every lane in its stored order.
    """

    def __init__(self, plan: LanePlan, lanes: Sequence[np.ndarray], *, replicas: int = 1, seed: int | None) -> None:
        self.plan, self.replicas, self.seed = plan, replicas, seed
        self.lanes = [lane.reshape(len(lane), -1) for lane in lanes]
        self.image_shape = lanes[0].shape[1:]
        self.local_batch = -(-plan.local_batch // replicas)  # maximum rows of one replica
        self._orders: tuple[int, list[np.ndarray], list[np.ndarray]] | None = None

    def read(self, epoch: int, first_step: int, steps: int, capacity: int) -> Chunk:
        """Returns batches first_step, ..., first_step + steps - 1 of an epoch in a chunk for `capacity` batches."""
        pixels = self.lanes[0].shape[1]
        images = np.empty((self.replicas, capacity, self.local_batch, pixels), np.uint8)
        first_rows = np.zeros((self.replicas, capacity), np.int64)
        counts = np.zeros((self.replicas, capacity), np.int32)
        numbers = np.zeros((capacity, self.replicas * self.local_batch), np.int64)
        orders, numbered = self._order(epoch)
        for k in range(steps):
            part = self.plan.slice(first_step + k)
            bounds = list(zip(part.start.tolist(), part.stop.tolist(), strict=True))
            rows = [(lane, order[a:b]) for lane, order, (a, b) in zip(self.lanes, orders, bounds, strict=True) if b > a]
            known = np.concatenate([some[a:b] for some, (a, b) in zip(numbered, bounds, strict=True)])
            numbers[k, : len(known)] = known
            starts = np.arange(self.replicas) * self.local_batch
            first_rows[:, k] = part.first_row + starts
            counts[:, k] = np.clip(part.rows - starts, 0, self.local_batch)
            if self.replicas == 1:
                _gather(rows, images[0, k])
            else:
                whole = np.empty((self.replicas * self.local_batch, pixels), np.uint8)
                _gather(rows, whole)
                images[:, k] = whole.reshape(self.replicas, self.local_batch, pixels)
        by_replica = numbers.reshape(capacity, self.replicas, self.local_batch).swapaxes(0, 1)
        images = images.reshape(*images.shape[:3], *self.image_shape)
        return Chunk(epoch, first_step, steps, images, first_rows, counts, by_replica)

    def _order(self, epoch: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Returns each owned lane's row order in an epoch, and the rows' indices in the split; caches one epoch."""
        if self._orders is None or self._orders[0] != epoch:
            sizes = [(lane, self.plan.lane_rows(lane)) for lane in self.plan.owned]
            if self.seed is None:
                orders = [np.arange(size) for _, size in sizes]
            else:
                orders = [lane_order(self.seed, epoch, lane, size) for lane, size in sizes]
            numbers = [self.plan.numbers(lane, order) for lane, order in zip(self.plan.owned, orders, strict=True)]
            self._orders = epoch, orders, numbers
        return self._orders[1:]


def _gather(rows: Iterable[tuple[np.ndarray, np.ndarray]], out: np.ndarray) -> None:
    """Copies the chosen rows of each lane consecutively into `out`, and fills the rest with zeros."""
    end = 0
    for lane, chosen in rows:
        start, end = end, end + len(chosen)
        np.take(lane, chosen, axis=0, out=out[start:end], mode="clip")  # "raise" would copy twice
    out[end:] = 0


def read_ahead(
    reader: LaneReader, requests: Iterable[tuple[int, int, int]], capacity: int, place: Callable[[Chunk], T]
) -> Generator[T, None, None]:
    """Yields the chunks of (epoch, first_step, steps) requests, in order, read and placed in another thread.

    Closing the iterator ends the thread.

    Args:
        reader: the rows.
        requests: what to read.
        capacity: see `LaneReader.read`.
        place: maps a chunk to what is yielded, such as its copy on the devices.
    """

    def prepare(request: tuple[int, int, int]) -> T:
        return place(reader.read(*request, capacity))

    source = iter(requests)
    with ThreadPoolExecutor(1, thread_name_prefix="lanes") as pool:
        pending = deque(pool.submit(prepare, request) for request in islice(source, READ_AHEAD))
        while pending:
            ready = pending.popleft().result()
            pending.extend(pool.submit(prepare, request) for request in islice(source, 1))
            yield ready
