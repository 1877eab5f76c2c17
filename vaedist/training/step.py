"""The compiled training step: several batches a call, one all-reduce a batch, no update from a non-finite gradient.

A lone device runs all steps of a call in one XLA program. Several replicas cannot (XLA compiles no all-reduce on
CPUs), so each compiles the gradients, joins one all-reduce of everything packed into one vector, and compiles the
update of its own copy of the weights. Either way a step is the same function of (weights, batch, step number).
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from vaedist.data.stream import Chunk
from vaedist.model import VAE
from vaedist.model.noise import DEQUANTISATION, POSTERIOR, row_normal, row_uniform
from vaedist.objective import bound
from vaedist.training.optimizer import Adam
from vaedist.training.strategy import first_local, local_replica, per_replica


class Batch(NamedTuple):
    """A replica's part of one global batch.

    images [Q, D], uint8; first_row, number of the first one within the global batch; count, how many are real.
    """

    images: Any
    first_row: Any
    count: Any

    @property
    def weight(self) -> Any:
        """1 for real rows and 0 for padding, [Q]."""
        return tf.cast(tf.range(self.images.shape[0]) < self.count, tf.float32)


def column_names(flow_depth: int) -> tuple[str, ...]:
    """What `row_sums` sums, in its order."""
    steps = range(1, flow_depth + 1)
    return (
        "rows", "elbo", "reconstruction", "kl", *(f"log_det_{t}" for t in steps), *(f"gate_{t}" for t in steps),
    )  # fmt: skip


def sum_of_squares(x: Any) -> Any:
    """Sum of squares; by rows first, which is both faster and more exact in float32 than all at once."""
    return tf.reduce_sum(tf.reduce_sum(tf.square(x), axis=0))


def row_sums(model: VAE, batch: Batch, eps: Any, noise: Any) -> Any:
    """Sums over the real rows of a batch, [4 + 2 depth], float32: rows, elbo, its parts, log_det and gate a step."""
    output = model(tf.reshape(batch.images, (-1, *model.image_shape)), eps, noise)
    gates = output.posterior.log_gates
    columns = [
        tf.ones_like(output.log_px),
        *bound(output),
        *(tf.reduce_sum(log_gate, axis=-1) for log_gate in gates),
        *(tf.reduce_mean(tf.exp(log_gate), axis=-1) for log_gate in gates),
    ]
    # Padding is cut out, not multiplied away: its numbers may be anything.
    real = batch.weight > 0
    return tf.stack([tf.reduce_sum(tf.where(real, column, 0.0)) for column in columns])


class TrainStep:
    """The update of a model by Adam on minus the ELBO, over the replicas of a strategy.

    Args:
        model: made under the strategy's scope.
        strategy: MirroredStrategy or MultiWorkerMirroredStrategy.
        optimizer: its slots are made here, under the strategy's scope.
        global_batch: rows of a full batch; the loss is a sum over rows divided by this, so every row weighs the same.
        steps_per_call: the most batches that one call takes.
        norm_every: the gradient's norm is taken at every such step, and 0 in between.
        seed: key of the noise.
    """

    def __init__(
        self, model: VAE, strategy: Any, optimizer: Adam, *,
        global_batch: int, steps_per_call: int, norm_every: int, seed: int,
    ) -> None:  # fmt: skip
        self.model, self.strategy, self.optimizer = model, strategy, optimizer
        self.global_batch, self.capacity, self.seed = global_batch, steps_per_call, seed
        self.norm_every = norm_every
        self.names = (*column_names(len(model.flow.networks)), "stop", "gradient_norm")
        self.weights = [variable.value for variable in model.trainable_variables]
        with strategy.scope():
            self.slots = {
                slot: [tf.Variable(tf.zeros_like(w), trainable=False, name=slot) for w in self.weights]
                for slot in optimizer.slots
            }
        alone = strategy.num_replicas_in_sync == 1
        self._call = tf.function(self._alone, jit_compile=True) if alone else tf.function(self._together)
        self._compiled_gradients = tf.function(self._packed_gradients, jit_compile=True)
        self._compiled_update = tf.function(self._packed_update, jit_compile=True)

    def run(self, chunk: Chunk, step: int, *, stop: bool = False) -> tuple[np.ndarray, bool]:
        """Take the steps of a chunk, the first of which has the number `step`, counted over the whole run.

        `stop` is this worker's wish to end; every worker reads the sum of all in the column "stop".

        Returns:
            metrics, [steps taken, len(names)]: sums over the batch's rows (gate and log_det too), then "stop" and the
            norm of the gradient; and whether all was finite. If not, the last row belongs to the step at fault, and no
            later one was taken: a loss that is not finite changes no weight, a gradient that is not never enters one.
        """
        parts = (chunk.images, chunk.first_rows, chunk.counts)
        batches = Batch(*(per_replica(self.strategy, part) for part in parts))
        scalars = tf.constant(chunk.steps), tf.constant(step, tf.int64), tf.constant(float(stop))
        if self.strategy.num_replicas_in_sync == 1:
            result = self.strategy.run(self._call, args=(batches, *scalars))
        else:
            result = self._call(batches, *scalars)
        taken, finite, metrics = (first_local(self.strategy, x) for x in result)
        return metrics.numpy()[: int(taken)], bool(finite)

    def _alone(self, batches: Batch, steps: Any, first_step: Any, stop: Any) -> Any:
        """All steps of a call in one program, on the one device."""

        def take(k: Any, step: Any) -> Any:
            return self._update(*self._gradients(Batch(*(part[k] for part in batches)), step, stop, 0), step, 0)

        return self._loop(take, steps, first_step)

    def _together(self, batches: Batch, steps: Any, first_step: Any, stop: Any) -> Any:
        """Each step joined by all replicas, of all workers."""

        def replica(batches: Batch, k: Any, step: Any) -> Any:
            own = local_replica(self.strategy)
            packed = self._compiled_gradients(Batch(*(part[k] for part in batches)), step, stop, own)
            context = tf.distribute.get_replica_context()
            return self._compiled_update(context.all_reduce(tf.distribute.ReduceOp.SUM, packed), step, own)

        def take(k: Any, step: Any) -> Any:
            result = self.strategy.run(replica, args=(batches, k, step))
            return tuple(first_local(self.strategy, x) for x in result)

        return self._loop(take, steps, first_step)

    def _loop(self, take: Any, steps: Any, first_step: Any) -> Any:
        """Call take(k, step) -> (finite, metrics) until the chunk ends or something was not finite."""

        def more(k: Any, finite: Any, _: Any) -> Any:
            return tf.logical_and(k < steps, finite)

        def body(k: Any, _: Any, metrics: Any) -> Any:
            finite, row = take(k, first_step + tf.cast(k, tf.int64))
            return k + 1, finite, tf.tensor_scatter_nd_update(metrics, [[k]], [row])

        empty = tf.zeros((self.capacity, len(self.names)))
        return tf.while_loop(more, body, (tf.constant(0), tf.constant(True), empty), maximum_iterations=self.capacity)

    def _gradients(self, batch: Batch, step: Any, stop: Any, own: int) -> tuple[list[Any], Any]:
        """This replica's part of the gradient, one tensor a weight, and of the metrics' sums.

        `own` is the replica's number among the process's: whose copies of the mirrored variables are read.
        """
        rows, weights = batch.images.shape[0], [weight.values[own] for weight in self.weights]
        eps = row_normal(self.seed, POSTERIOR, step, batch.first_row, rows, self.model.latent)
        noise = None
        if self.model.likelihood.dequantised:
            noise = row_uniform(self.seed, DEQUANTISATION, step, batch.first_row, rows, self.model.pixels)
        with tf.GradientTape() as tape:
            sums = row_sums(self.model, batch, eps, noise)
            loss = -sums[1] / self.global_batch
        return tape.gradient(loss, weights), tf.concat([sums, [stop]], 0)

    def _update(self, gradients: Sequence[Any], sums: Any, step: Any, own: int) -> tuple[Any, Any]:
        """Apply the whole gradient, weight by weight; returns whether all was finite, and the metrics' row.

        From the last layer to the first, as the gradients come out: each is used while it is in the cache. A layer's
        bias gradient is the sum over rows of what its kernel's gradient is made of, so where the loss and the bias
        gradients down to a layer are finite, the kernel's is, without a pass over it to find out. Where they are not,
        the weight is updated by a gradient of 0 at a rate of 0. (To choose between the new weight and the old instead
        costs a quarter of the step on a CPU, for XLA then updates nothing in place.)
        """
        finite = tf.reduce_all(tf.math.is_finite(sums))
        wanted = tf.equal((step + 1) % self.norm_every, 0)
        rate, squares = self.optimizer.rate(step), []
        for i, gradient in reversed(list(enumerate(gradients))):
            if gradient.shape.rank == 1:
                finite = tf.logical_and(finite, tf.math.is_finite(tf.reduce_sum(gradient)))
            squares.append(tf.cond(wanted, partial(sum_of_squares, gradient), partial(tf.constant, 0.0)))
            owned = [mirrored[i].values[own] for mirrored in (self.weights, *self.slots.values())]
            weight, *slots = (variable.read_value() for variable in owned)
            safe = tf.where(finite, gradient, 0.0)
            updated = self.optimizer.update(tf.where(finite, rate, 0.0), weight, safe, *slots)
            for variable, value in zip(owned, updated, strict=True):
                variable.assign(value)
        norm = tf.sqrt(tf.add_n(squares))
        return tf.logical_and(finite, tf.math.is_finite(norm)), tf.concat([sums, [norm]], 0)

    def _packed_gradients(self, batch: Batch, step: Any, stop: Any, own: int) -> Any:
        gradients, sums = self._gradients(batch, step, stop, own)
        return tf.concat([*(tf.reshape(g, [-1]) for g in gradients), sums], 0)

    def _packed_update(self, packed: Any, step: Any, own: int) -> Any:
        sizes = [int(np.prod(w.shape)) for w in self.weights]
        *flat, sums = tf.split(packed, [*sizes, packed.shape[0] - sum(sizes)])
        return self._update([tf.reshape(g, w.shape) for g, w in zip(flat, self.weights, strict=True)], sums, step, own)
