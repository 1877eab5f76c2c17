"""The compiled training step: several batches a call, one all-reduce a batch, no update from a non-finite gradient.

A lone device runs all steps of a call in one XLA program, or each in one where the model has convolutions. Several
replicas cannot (XLA compiles no all-reduce on
CPUs), so each compiles the gradients, joins one all-reduce of all that is summed (in few tensors, see `Packing`), and
compiles the update of its own copy of the weights. Either way a step is the same function of weights, batch and step
number.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from vaedist.data.lane_reader import Chunk
from vaedist.devices.compilation import compiled, program_text, scalar, traced
from vaedist.devices.strategy import first_local, local_replica, on_gpus, per_replica
from vaedist.evaluation.scoring import Batch
from vaedist.models.model import Model
from vaedist.objectives.objective import Objective
from vaedist.training.batch_gradient import BatchGradient, ReplicaVariables
from vaedist.training.optimizer import Optimizer
from vaedist.training.packing import Packing
from vaedist.training.update import Update, bound_of_squares, fits


class TrainStep:
    """The update of a model that raises its objective, over the replicas of a strategy.

    Args:
        model: made under the strategy's scope.
        strategy: MirroredStrategy or MultiWorkerMirroredStrategy.
        optimizer: its slots are made here, under the strategy's scope, see `Update`.
        objective: what is maximised.
        global_batch: rows of a full batch; the loss is a sum over rows divided by this, so every row weighs the same.
        steps_per_call: the most batches that one call takes.
        norm_every, clip_norm: see `Update`.
        reduce_dtype: type in which the gradients of several replicas are summed; None keeps that of the weights.
        accumulation_steps: parts in which a replica takes its rows of a batch, adding up their gradients.
        seed: key of the noise.
    """

    def __init__(
        self, model: Model, strategy: Any, optimizer: Optimizer, objective: Objective, *,
        global_batch: int, steps_per_call: int, norm_every: int, clip_norm: float = 0.0,
        reduce_dtype: str | None = None, accumulation_steps: int = 1, seed: int,
    ) -> None:  # fmt: skip
        self.model, self.strategy, self.optimizer, self.objective = model, strategy, optimizer, objective
        self.global_batch, self.capacity, self.seed = global_batch, steps_per_call, seed
        self.accumulation_steps, gpus = accumulation_steps, on_gpus(strategy)
        self.gradient = BatchGradient(
            model, objective, global_batch=global_batch, accumulation_steps=accumulation_steps,
            kernel_first=not gpus, seed=seed,
        )  # fmt: skip
        self.sums = self.gradient.columns
        self.names = (*self.sums, "stop", "gradient_norm")
        self.weights = [variable.value for variable in model.trainable_variables]
        self.state = [variable.value for variable in self.gradient.state]
        self.dtype = self.weights[0].dtype
        self._zeros: dict[tuple[int, ...], Any] = {}
        self._packing = Packing(
            [weight.shape for weight in self.weights],
            self.gradient.kernels if self.gradient.sums_rows else (),
            rows=global_batch, dtype=self.dtype.name, reduce_dtype=reduce_dtype or self.dtype.name, split=not gpus,
        )  # fmt: skip
        with strategy.scope():
            self.update = Update(
                optimizer, self.weights, self.gradient.supports, state=self.state,
                norm_every=norm_every, clip_norm=clip_norm,
            )  # fmt: skip
        self.slots = self.update.slots
        alone = strategy.num_replicas_in_sync == 1
        # Inside a loop XLA's CPU compiler finds no fast form of a convolution's gradients: each step is a program then.
        self._by_step = alone and self.gradient.layout.convolutional and not gpus
        self._call = traced(self._together) if not alone else (traced if self._by_step else compiled)(self._alone)
        self._compiled_one = compiled(self._one)
        self._compiled_group_sums = compiled(self._group_sums)
        self._compiled_gradients = compiled(self._packed_gradients)
        self._compiled_update = compiled(self._packed_update)
        self._compiled_clear = compiled(self.update.clear)

    def run(self, chunk: Chunk, step: int, *, stop: bool = False) -> tuple[np.ndarray, bool]:
        """Take the steps of a chunk, the first of which has the number `step`, counted over the whole run.

        `stop` is this worker's wish to end; every worker reads the sum of all in the column "stop".

        Returns:
            metrics, [steps taken, len(names)]: sums over the batch's rows (scale and log_det too), then "stop" and the
            norm of the gradient; and whether all was finite. If not, the last row belongs to the step at fault, which
            has changed no weight, and no later one was taken.
        """
        batches = self._on_devices(chunk)
        scalars = tf.constant(chunk.steps), scalar(step, tf.int64), scalar(stop, self.dtype)
        if self.strategy.num_replicas_in_sync == 1:
            result = self.strategy.run(self._call, args=(batches, *scalars))
        else:
            result = self._call(batches, *scalars)
        taken, finite, metrics = (first_local(self.strategy, x) for x in result)
        return metrics.numpy()[: int(taken)], bool(finite)

    def weights_at_fault(self, chunk: Chunk, k: int, step: int) -> list[str]:
        """Returns the paths of the variables for which batch k of a chunk gives numbers that are not finite.

        These are gradients of weights, and new values of the model's state. All workers call this, each with its rows,
        or none; the variables are taken as they are now. It compiles a program of its own.
        """
        faults_of, number = compiled(self._faults), tf.constant(step, tf.int64)

        def replica(batches: Batch) -> Any:
            own = local_replica(self.strategy)
            batch, context = Batch(*(part[k] for part in batches)), tf.distribute.get_replica_context()
            faults = faults_of(batch, number, own, self._summed_groups(batch, number, own))
            return context.all_reduce(tf.distribute.ReduceOp.SUM, faults)

        faults = traced(self.strategy.run)(replica, args=(self._on_devices(chunk),))
        counts = first_local(self.strategy, faults).numpy()
        variables = [*self.model.trainable_variables, *self.gradient.state]
        return [variable.path for variable, count in zip(variables, counts, strict=True) if count]

    def program(self, chunk: Chunk) -> str:
        """XLA's optimized text of what a step runs on this process's first replica: of the gradients, then the update.

        Where all steps of a call are one program, of that; it holds the step as the body of its loop. And a step that
        takes its batch in parts holds what is done for each as the body of another.
        """
        batches = Batch(*(first_local(self.strategy, part) for part in self._on_devices(chunk)))
        first, stop = tf.constant(0, tf.int64), tf.zeros((), self.dtype)
        if self.strategy.num_replicas_in_sync == 1 and not self._by_step:
            return program_text(self._call, batches, tf.constant(chunk.steps), first, stop)
        batch = Batch(*(part[0] for part in batches))
        if self._by_step:
            return program_text(self._compiled_one, batch, first, stop)
        sums = self._compiled_group_sums(batch, first, 0) if self.objective.free_bits else None
        packed = self._compiled_gradients(batch, first, stop, 0, sums)
        gradients = program_text(self._compiled_gradients, batch, first, stop, 0, sums)
        return gradients + program_text(self._compiled_update, packed, first, 0)

    def _on_devices(self, chunk: Chunk) -> Batch:
        """The batches of a chunk, each replica's part on its device."""
        parts = (chunk.images, chunk.first_rows, chunk.counts)
        images, first_rows, counts = (per_replica(self.strategy, part) for part in parts)
        return Batch(images, first_rows, counts, self._numbers(chunk.numbers))

    def _numbers(self, numbers: np.ndarray) -> Any:
        """The rows' numbers, which are sent to the devices where a step depends on them; else zeros, sent once."""
        if self.model.preprocessing.fixed:
            return per_replica(self.strategy, numbers)
        if numbers.shape not in self._zeros:
            self._zeros[numbers.shape] = per_replica(self.strategy, np.zeros_like(numbers))
        return self._zeros[numbers.shape]

    def _alone(self, batches: Batch, steps: Any, first_step: Any, stop: Any) -> Any:
        """All steps of a call on the one device."""
        self.update.clear(0)
        one = self._compiled_one if self._by_step else self._one

        def take(k: Any, step: Any) -> Any:
            return one(Batch(*(part[k] for part in batches)), step, stop)

        return self._loop(take, steps, first_step)

    def _one(self, batch: Batch, step: Any, stop: Any) -> Any:
        """A step on the one device."""
        return self._updated(*self._gradients(batch, step, stop, 0, factored=self.gradient.kernels), step, 0)

    def _together(self, batches: Batch, steps: Any, first_step: Any, stop: Any) -> Any:
        """Each step joined by all replicas, of all workers."""

        def replica(batches: Batch, k: Any, step: Any) -> Any:
            own = local_replica(self.strategy)
            batch, context = Batch(*(part[k] for part in batches)), tf.distribute.get_replica_context()
            packed = self._compiled_gradients(batch, step, stop, own, self._summed_groups(batch, step, own))
            summed = [context.all_reduce(tf.distribute.ReduceOp.SUM, part) for part in packed]
            return self._compiled_update(summed, step, own)

        self.strategy.run(lambda: self._compiled_clear(local_replica(self.strategy)))

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

        empty = tf.zeros((self.capacity, len(self.names)), self.dtype)
        return tf.while_loop(more, body, (tf.constant(0), tf.constant(True), empty), maximum_iterations=self.capacity)

    def _variables(self, own: int) -> ReplicaVariables:
        """The copies of a replica, by its number among the process's."""
        return ReplicaVariables(*([one.values[own] for one in some] for some in (self.weights, self.state)))

    def _summed_groups(self, batch: Batch, step: Any, own: int) -> Any:
        """Sums over all replicas of the KL by group, as the whole batch decides which groups count; None if all do."""
        if not self.objective.free_bits:
            return None
        sums = self._compiled_group_sums(batch, step, own)
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, sums)

    def _group_sums(self, batch: Batch, step: Any, own: int) -> Any:
        return self.gradient.group_sums(self._variables(own), batch, step)

    def _gradients(
        self, batch: Batch, step: Any, stop: Any, own: int, group_sums: Any = None, factored: Sequence[int] = ()
    ) -> tuple[list[Any], Any]:
        """A replica's part of the gradient, one tensor a weight, and of the sums: columns, "stop", the state."""
        gradients, sums = self.gradient(self._variables(own), batch, step, group_sums=group_sums, factored=factored)
        columns = len(self.sums)
        return gradients, tf.concat([sums[:columns], [stop], sums[columns:]], 0)

    def _updated(self, gradients: Sequence[Any], sums: Any, step: Any, own: int) -> tuple[Any, Any]:
        """Apply the gradients and the sums of the whole batch to a replica's copies."""
        columns = len(self.sums) + 1
        return self.update(gradients, sums[:columns], step, own, state=sums[columns:])

    def _faults(self, batch: Batch, step: Any, own: int, group_sums: Any) -> Any:
        """1 for each weight whose gradient is not finite or too large to be squared, and for state; 0 for others."""
        stop = tf.zeros((), self.dtype)
        gradients, sums = self._gradients(batch, step, stop, own, group_sums, factored=self.gradient.kernels)
        state = self.update.state_parts(sums[len(self.sums) + 1 :])
        right = [fits(bound_of_squares(gradient)) for gradient in gradients]
        right += [tf.reduce_all(tf.math.is_finite(value)) for value in state]
        return tf.cast(tf.logical_not(tf.stack(right)), self.dtype)

    def _packed_gradients(self, batch: Batch, step: Any, stop: Any, own: int, group_sums: Any) -> Any:
        factored = sorted(self._packing.factored)
        return self._packing.pack(batch, *self._gradients(batch, step, stop, own, group_sums, factored))

    def _packed_update(self, packed: Sequence[Any], step: Any, own: int) -> Any:
        return self._updated(*self._packing.unpack(packed), step, own)
