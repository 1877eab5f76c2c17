"""The compiled training step: several steps a call, one all-reduce a step, no update from a non-finite gradient.

On a single device, all steps of a call are one XLA program, or each step is one if the model has convolutions. With
several replicas this is not possible, as XLA compiles no all-reduce on CPUs. Each replica then runs one program for the
gradients, takes part in one all-reduce of all gradients and sums (in few tensors, see `Packing`), and runs one program
that updates its own copy of the weights. Either way a step is the same function of variables, batch and step number.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from vaedist.data.lane_reader import Chunk
from vaedist.devices.batches import Batch, PlacedChunk, place
from vaedist.devices.compilation import compiled, program_text, scalar, traced
from vaedist.devices.strategy import first_local, local_replica, on_gpus
from vaedist.models.model import Model
from vaedist.objectives.objective import Objective
from vaedist.training.batch_gradient import BatchGradient, ReplicaVariables
from vaedist.training.optimizer import Optimizer
from vaedist.training.packing import Packing
from vaedist.training.update import Update, bound_of_squares, fits


class TrainStep:
    """Training step of a model, over the replicas of a strategy.

    Args:
        model: the model, created in the strategy's scope.
        strategy: MirroredStrategy or MultiWorkerMirroredStrategy.
        optimizer: the optimizer; its slots are created here, in the strategy's scope, see `Update`.
        objective: the objective to maximise.
        global_batch: rows of a full batch. The loss is a sum over rows divided by this number, so every row has the
            same weight.
        steps_per_call: the largest number of steps in a call.
        norm_every, clip_norm: see `Update`.
        reduce_dtype: data type of the all-reduce of gradients; None uses that of the weights.
        accumulation_steps: number of parts of a replica's batch whose gradients are accumulated.
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
        self.group_means: Any = None
        self.dtype = self.weights[0].dtype
        self._packing = Packing(
            [weight.shape for weight in self.weights],
            self.gradient.kernels if self.gradient.sums_rows else (),
            rows=global_batch, dtype=self.dtype.name, reduce_dtype=reduce_dtype or self.dtype.name, split=not gpus,
        )  # fmt: skip
        with strategy.scope():
            if self.gradient.groups:  # before the first update, all groups are above their free bits
                above = tf.fill([self.gradient.groups], self.dtype.max)
                self.group_means = tf.Variable(above, trainable=False, name="group_means", dtype=self.dtype)
            means = [self.group_means] if self.gradient.groups else []
            self.update = Update(
                optimizer, self.weights, self.gradient.supports, state=self.state, unaveraged_state=means,
                norm_every=1 if gpus else norm_every, clip_norm=clip_norm,
            )  # fmt: skip
        self.slots = self.update.slots
        alone = strategy.num_replicas_in_sync == 1
        # XLA's CPU compiler generates slow gradients of convolutions inside a loop, so each step is then a program.
        self._by_step = alone and self.gradient.layout.convolutional and not gpus
        self._call = traced(self._together) if not alone else (traced if self._by_step else compiled)(self._alone)
        self._compiled_one = compiled(self._one)
        self._compiled_gradients = compiled(self._packed_gradients)
        self._compiled_update = compiled(self._packed_update)
        self._compiled_clear = compiled(self.update.clear)

    def run(self, chunk: Chunk | PlacedChunk, step: int, *, stop: bool = False) -> tuple[np.ndarray, bool]:
        """Runs the steps of a chunk.

        Args:
            chunk: the batches, which are copied to the devices unless they are there, see `place`.
            step: number of the first step, counted over the whole run.
            stop: True if this worker requests a stop; every worker reads the number of requests in the column "stop".

        Returns:
            Metrics, [steps taken, len(names)]: sums over the rows of the batch, "stop", and the norm of the gradient.
            And True if everything was finite. If not, the last row belongs to the step at fault, which has changed no
            weight, and the remaining steps were not run.
        """
        batches = self._placed(chunk).batches
        scalars = tf.constant(chunk.steps), scalar(step, tf.int64), scalar(stop, self.dtype)
        if self.strategy.num_replicas_in_sync == 1:
            result = self.strategy.run(self._call, args=(batches, *scalars))
        else:
            result = self._call(batches, *scalars)
        taken, finite, metrics = (first_local(self.strategy, x) for x in result)
        return metrics.numpy()[: int(taken)], bool(finite)

    def weights_at_fault(self, chunk: Chunk | PlacedChunk, k: int, step: int) -> list[str]:
        """Returns the paths of the variables for which batch k of a chunk gives non-finite numbers.

        These numbers are gradients of weights, and new values of the model's state, at the current variables. All
        workers must call this, each with its own rows. It compiles a separate program.
        """
        faults_of, number = compiled(self._faults), tf.constant(step, tf.int64)

        def replica(batches: Batch) -> Any:
            own = local_replica(self.strategy)
            batch, context = Batch(*(part[k] for part in batches)), tf.distribute.get_replica_context()
            return context.all_reduce(tf.distribute.ReduceOp.SUM, faults_of(batch, number, own))

        faults = traced(self.strategy.run)(replica, args=(self._placed(chunk).batches,))
        counts = first_local(self.strategy, faults).numpy()
        variables = [*self.model.trainable_variables, *self.gradient.state]
        return [variable.path for variable, count in zip(variables, counts, strict=True) if count]

    def program(self, chunk: Chunk | PlacedChunk) -> str:
        """Returns the optimized HLO of a step on this process's first replica: gradients, then update.

        If all steps of a call are one program, the HLO is of that program, with the step as the body of its loop. With
        gradient accumulation, the work on a part of the batch is the body of a further loop.
        """
        batches = Batch(*(first_local(self.strategy, part) for part in self._placed(chunk).batches))
        first, stop = tf.constant(0, tf.int64), tf.zeros((), self.dtype)
        if self.strategy.num_replicas_in_sync == 1 and not self._by_step:
            return program_text(self._call, batches, tf.constant(chunk.steps), first, stop)
        batch = Batch(*(part[0] for part in batches))
        if self._by_step:
            return program_text(self._compiled_one, batch, first, stop)
        packed = self._compiled_gradients(batch, first, stop, 0)
        gradients = program_text(self._compiled_gradients, batch, first, stop, 0)
        return gradients + program_text(self._compiled_update, packed, first, 0)

    def place(self, chunk: Chunk) -> PlacedChunk:
        """Returns a chunk's copy on the devices, which the other methods accept; may be called in another thread."""
        return place(self.strategy, chunk)

    def _placed(self, chunk: Chunk | PlacedChunk) -> PlacedChunk:
        return chunk if isinstance(chunk, PlacedChunk) else self.place(chunk)

    def _alone(self, batches: Batch, steps: Any, first_step: Any, stop: Any) -> Any:
        """Runs all steps of a call on a single device."""
        self.update.clear(0)
        one = self._compiled_one if self._by_step else self._one

        def take(k: Any, step: Any) -> Any:
            return one(Batch(*(part[k] for part in batches)), step, stop)

        return self._loop(take, steps, first_step)

    def _one(self, batch: Batch, step: Any, stop: Any) -> Any:
        """Runs a step on a single device."""
        return self._updated(*self._gradients(batch, step, stop, 0, factored=self.gradient.kernels), step, 0)

    def _together(self, batches: Batch, steps: Any, first_step: Any, stop: Any) -> Any:
        """Runs all steps of a call on the replicas of all workers."""

        def replica(batches: Batch, k: Any, step: Any) -> Any:
            own = local_replica(self.strategy)
            batch, context = Batch(*(part[k] for part in batches)), tf.distribute.get_replica_context()
            packed = self._compiled_gradients(batch, step, stop, own)
            summed = [context.all_reduce(tf.distribute.ReduceOp.SUM, part) for part in packed]
            return self._compiled_update(summed, step, own)

        self.strategy.run(lambda: self._compiled_clear(local_replica(self.strategy)))

        def take(k: Any, step: Any) -> Any:
            result = self.strategy.run(replica, args=(batches, k, step))
            return tuple(first_local(self.strategy, x) for x in result)

        return self._loop(take, steps, first_step)

    def _loop(self, take: Any, steps: Any, first_step: Any) -> Any:
        """Calls take(k, step) -> (finite, metrics) until the chunk ends or something is not finite."""

        def more(k: Any, finite: Any, _: Any) -> Any:
            return tf.logical_and(k < steps, finite)

        def body(k: Any, _: Any, metrics: Any) -> Any:
            finite, row = take(k, first_step + tf.cast(k, tf.int64))
            return k + 1, finite, tf.tensor_scatter_nd_update(metrics, [[k]], [row])

        empty = tf.zeros((self.capacity, len(self.names)), self.dtype)
        return tf.while_loop(more, body, (tf.constant(0), tf.constant(True), empty), maximum_iterations=self.capacity)

    def _variables(self, own: int) -> ReplicaVariables:
        """Returns a replica's copies of the variables, by its index among the replicas of this process."""
        weights, state = ([one.values[own] for one in some] for some in (self.weights, self.state))
        return ReplicaVariables(weights, state, None if self.group_means is None else self.group_means.values[own])

    def _gradients(
        self, batch: Batch, step: Any, stop: Any, own: int, factored: Sequence[int] = ()
    ) -> tuple[list[Any], Any]:
        """Returns a replica's part of the gradient, one tensor a weight, and of the sums: columns, "stop", the rest."""
        gradients, sums = self.gradient(self._variables(own), batch, step, factored=factored)
        columns = len(self.sums)
        return gradients, tf.concat([sums[:columns], [stop], sums[columns:]], 0)

    def _updated(self, gradients: Sequence[Any], sums: Any, step: Any, own: int) -> tuple[Any, Any]:
        """Applies the gradients and sums of the whole batch to a replica's copies of the variables."""
        columns = len(self.sums) + 1
        return self.update(gradients, sums[:columns], step, own, state=sums[columns:])

    def _faults(self, batch: Batch, step: Any, own: int) -> Any:
        """Returns 1 for each weight whose gradient is not finite or too large to be squared, else 0; then for state."""
        stop = tf.zeros((), self.dtype)
        gradients, sums = self._gradients(batch, step, stop, own, factored=self.gradient.kernels)
        state = self.update.state_parts(sums[len(self.sums) + 1 :])[: len(self.state)]
        right = [fits(bound_of_squares(gradient)) for gradient in gradients]
        right += [tf.reduce_all(tf.math.is_finite(value)) for value in state]
        return tf.cast(tf.logical_not(tf.stack(right)), self.dtype)

    def _packed_gradients(self, batch: Batch, step: Any, stop: Any, own: int) -> Any:
        factored = sorted(self._packing.factored)
        return self._packing.pack(batch, *self._gradients(batch, step, stop, own, factored))

    def _packed_update(self, packed: Sequence[Any], step: Any, own: int) -> Any:
        return self._updated(*self._packing.unpack(packed), step, own)
