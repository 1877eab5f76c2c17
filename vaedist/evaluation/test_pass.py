"""The test pass over a split: every row exactly once, with the same result for any number of workers."""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from vaedist.data.lane_reader import LaneReader, read_ahead
from vaedist.devices.batches import Batch, PlacedChunk, place
from vaedist.devices.compilation import compiled, scalar, traced
from vaedist.devices.strategy import per_replica
from vaedist.evaluation.scoring import evaluation_noise, row_sums, score, score_layout
from vaedist.models.model import Model
from vaedist.models.rng import EVALUATION, row_noise
from vaedist.objectives.elbo import bits_per_dim

CHUNK = 8  # batches per call


class Evaluator:
    """Computes the means of the ELBO and its parts over a split, with one sample of z for each image.

    Args:
        model: the model, created in the strategy's scope.
        strategy: the strategy whose replicas share the work.
        reader: this worker's rows of the split, in stored order.
        seed: key of the noise of z, which also depends on the epoch and the row's position. The noise of pixels is the
            same in every evaluation.
    """

    def __init__(self, model: Model, strategy: Any, reader: LaneReader, *, seed: int) -> None:
        self.model, self.strategy, self.reader, self.seed = model, strategy, reader, seed
        self.layout = score_layout(model)
        self.names = self.layout.columns
        self._call = traced(self._replicas)
        self._sums = compiled(self._chunk_sums)

    def run(self, epoch: int) -> dict[str, float]:
        """Returns the means over all rows of the split, by column, in nats per image; "rows" is their number.

        They include "bits_per_dim", an upper bound computed from the ELBO, if the model defines it.
        """
        replicas = self.strategy.num_replicas_in_sync
        totals = np.zeros((self.reader.replicas, len(self.names)))
        for chunk in read_ahead(self.reader, self._requests(), CHUNK, partial(place, self.strategy)):
            totals += self._evaluate(chunk, epoch)
        if replicas > 1:
            parts = per_replica(self.strategy, totals)
            total = self.strategy.reduce(tf.distribute.ReduceOp.SUM, parts, axis=None).numpy()
        else:
            total = totals[0]
        named = dict(zip(self.names[1:], (total[1:] / total[0]).tolist(), strict=True))
        if self.model.levels is not None:
            named["bits_per_dim"] = bits_per_dim(named["elbo"], math.prod(self.model.image_shape), self.model.levels)
        return {"rows": float(total[0])} | named

    def _requests(self) -> Iterator[tuple[int, int, int]]:
        steps = self.reader.plan.steps
        for first in range(0, steps, CHUNK):
            yield 0, first, min(CHUNK, steps - first)

    def _evaluate(self, chunk: PlacedChunk, epoch: int) -> np.ndarray:
        """Returns sums over a chunk's rows by local replica, [replicas, columns]."""
        first = scalar(epoch * self.reader.plan.steps + chunk.first_step, tf.int64)
        sums = self._call(chunk.batches, tf.constant(chunk.steps), first)
        return np.stack([part.numpy() for part in self.strategy.experimental_local_results(sums)])

    def _replicas(self, batches: Batch, steps: Any, first_step: Any) -> Any:
        # tf.distribute would not run a compiled function on the replica's device, so a plain one calls it.
        def replica(*args: Any) -> Any:
            return self._sums(*args)

        return self.strategy.run(replica, args=(batches, steps, first_step))

    def _chunk_sums(self, batches: Batch, steps: Any, first_step: Any) -> Any:
        """Returns sums over the batches of a chunk on one replica, [columns], accumulated in float64."""

        def body(k: Any, total: Any) -> Any:
            batch, step = Batch(*(part[k] for part in batches)), first_step + tf.cast(k, tf.int64)
            rows = batch.images.shape[0]
            model = self.model
            eps = row_noise(self.seed, EVALUATION, step, batch.first_row, rows, model.noise, dtype=model.variable_dtype)
            scored = score(model, batch.images, eps, evaluation_noise(model, batch.numbers))
            return k + 1, total + tf.cast(row_sums(batch, scored, self.layout), tf.float64)

        start = (tf.constant(0), tf.zeros(len(self.names), tf.float64))
        return tf.while_loop(lambda k, _: k < steps, body, start, maximum_iterations=CHUNK)[1]
