"""Batches on the devices of a worker."""

from typing import Any, NamedTuple

import tensorflow as tf

from vaedist.data.lane_reader import Chunk
from vaedist.devices.strategy import per_replica


class Batch(NamedTuple):
    """A replica's part of one global batch, or of several, with another axis K in front.

    Attributes:
        images: [Q, H, W, C], uint8.
        first_row: number of the first row within the global batch.
        count: number of real rows; the remaining rows are padding.
        numbers: numbers of the rows in their split, [Q], int64.
    """

    images: Any
    first_row: Any
    count: Any
    numbers: Any

    @property
    def real(self) -> Any:
        """True for the rows that are not padding, [Q], boolean."""
        return tf.range(self.images.shape[0]) < self.count


class PlacedChunk(NamedTuple):
    """A chunk on the devices.

    Attributes:
        batches: the batches, with one tensor for each replica of this process.
        first_step: position of the first batch in its epoch.
        steps: number of batches that are filled.
    """

    batches: Batch
    first_step: int
    steps: int


def place(strategy: Any, chunk: Chunk) -> PlacedChunk:
    """Copies a chunk to the devices of a strategy's replicas, each replica's part to its own.

    It may be called in another thread than that which computes, so that devices compute meanwhile.
    """
    parts = (chunk.images, chunk.first_rows, chunk.counts, chunk.numbers)
    return PlacedChunk(Batch(*(per_replica(strategy, part) for part in parts)), chunk.first_step, chunk.steps)
