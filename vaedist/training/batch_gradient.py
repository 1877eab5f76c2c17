"""Gradient of the objective over a replica's rows of a batch, with or without gradient accumulation."""

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from vaedist.devices.batches import Batch
from vaedist.errors import ModelError
from vaedist.evaluation.scoring import row_sums, score, score_layout, training_noise
from vaedist.models.convolutions import in_loop
from vaedist.models.gradients import WeightGradients
from vaedist.models.model import Model, Score
from vaedist.models.rng import POSTERIOR, row_noise
from vaedist.models.state import state_updates, state_variables
from vaedist.objectives.objective import Objective
from vaedist.wording import counted


class ReplicaVariables(NamedTuple):
    """A replica's copies of the variables that a gradient depends on.

    Attributes:
        weights: the model's trainable weights.
        state: the model's non-trainable state.
        group_means: mean KL by group of free bits over the previous batch; None without free bits.
    """

    weights: Sequence[Any]
    state: Sequence[Any]
    group_means: Any = None


class BatchGradient:
    """Computes a replica's gradients and metric sums; its methods are parts of compiled programs.

    Args:
        model: the model.
        objective: the objective to maximise.
        global_batch: rows of a full batch. The loss is a sum over rows divided by this number, so every row has the
            same weight.
        accumulation_steps: number of parts of a batch whose gradients are accumulated.
        kernel_first: see `kernel_first_product`.
        seed: key of the noise.

    Attributes:
        columns: names of the sums over rows.
        state: non-trainable variables that a step assigns.
        groups: number of groups of free bits; 0 without free bits.
        kernels: indices of the weights whose gradients can be returned as `Factors`.
        sums_rows: True if such a gradient is a sum over the rows of the batch, with no terms for padding.

    Raises:
        ModelError: the objective needs a doubly reparameterized gradient, which the model does not support, or the
            model's state cannot be averaged over devices.
    """

    def __init__(
        self, model: Model, objective: Objective, *,
        global_batch: int, accumulation_steps: int, kernel_first: bool, seed: int,
    ) -> None:  # fmt: skip
        self.model, self.objective, self.seed = model, objective, seed
        self.global_batch, self.parts, self.kernel_first = global_batch, accumulation_steps, kernel_first
        self.layout = score_layout(model)
        self.columns = self.layout.columns if objective.is_elbo else (*self.layout.columns, "objective")
        self.state = self._traced_state()
        self.groups = objective.groups(self.layout.layers) if objective.free_bits else 0
        self._gradients = WeightGradients(model)
        # Gradient accumulation adds up gradients, not factors.
        self.kernels = self._gradients.kernels if accumulation_steps == 1 else ()
        # Several samples of an image mean several rows of factors for it, and with state `_score` fills padding with
        # copies of rows.
        self.sums_rows = objective.drawn is None and not self.state

    @property
    def supports(self) -> dict[int, Any]:
        """Masks of the entries in which kernels may be nonzero, see `WeightGradients`."""
        return self._gradients.supports

    def __call__(
        self, variables: ReplicaVariables, batch: Batch, step: Any, *, factored: Collection[int] = ()
    ) -> tuple[list[Any], Any]:
        """Returns the gradient of each weight, and sums over rows.

        Supports are not applied to the gradients of kernels here, but in the update.

        Args:
            variables: the replica's variables.
            batch: the replica's rows.
            step: number of the update.
            factored: indices of the kernels whose gradients are returned as `Factors`.

        Returns:
            The gradients, and one vector: the sums of `columns`, then the new state times the number of real rows, and
            the KL by group of free bits.
        """

        def of(part: Batch) -> list[Any]:
            return self._part(variables, part, step, factored)

        weights = variables.weights
        width = len(self.columns) + sum(value.shape.num_elements() for value in variables.state) + self.groups
        shapes = [*(weight.shape for weight in weights), (width,)]
        *gradients, sums = self._over_parts(batch, of, shapes, weights[0].dtype)
        return gradients, sums

    def _traced_state(self) -> list[Any]:
        """Returns the state, found by tracing a score in training mode, and checks the model against the objective."""
        model, samples = self.model, self.objective.drawn
        if not model.non_trainable_variables and self.objective.gradient == "plain":
            return []
        leading = (2,) if samples is None else (2, samples)
        images = tf.TensorSpec((2, *model.image_shape), tf.uint8)
        eps = {name: tf.TensorSpec((*leading, *shape), model.variable_dtype) for name, shape in model.noise.items()}
        u = tf.TensorSpec((2, *model.image_shape), tf.float32) if model.preprocessing.noisy else None
        state = []

        def traced(*batch: Any) -> None:
            with self.objective.path() as path:
                state.extend(state_variables(model, lambda: score(model, *batch, samples=samples, training=True)))
            if path is not None and (len(model.noise) != 1 or path.samples != 1):
                raise ModelError(
                    f"model {type(model).__name__} has {counted(len(model.noise), 'stream')} of noise and draws "
                    f"{counted(path.samples, 'sample')} by vaedist.models.reparameterization.sample_normal; "
                    "objective.gradient = 'dreg' is for models with one of each, and 'plain' for all"
                )

        tf.function(traced, autograph=False).get_concrete_function(images, eps, u)
        return state

    def _score(self, variables: ReplicaVariables, batch: Batch, step: Any) -> tuple[Score, list[Any]]:
        """Returns the model's score of a batch with the step's noise, and the new state."""
        model, samples = self.model, self.objective.drawn
        rows = batch.images.shape[0]
        with tf.name_scope("noise"):
            eps = row_noise(
                self.seed, POSTERIOR, step, batch.first_row, rows, model.noise, samples, dtype=model.variable_dtype
            )
            u = training_noise(model, self.seed, step, batch.first_row, batch.numbers)
        images = batch.images
        if self.state:  # repeat real rows in place of padding, which must not enter the statistics of the batch
            images = tf.gather(images, tf.range(rows) % tf.maximum(batch.count, 1))
        with state_updates(self.state, variables.state) as state:
            scored = score(model, images, eps, u, samples=samples, training=True)
        return scored, state

    def _sum_groups(self, batch: Batch, scored: Score) -> Any:
        groups = self.objective.group_kl(scored)
        if self.objective.drawn is not None:
            groups = tf.reduce_mean(groups, axis=1)
        return tf.reduce_sum(tf.where(batch.real[:, None], groups, 0.0), axis=0)

    def _over_parts(
        self, batch: Batch, function: Callable[[Batch], Sequence[Any]], shapes: Sequence[Any], dtype: Any
    ) -> list[Any]:
        """Calls a function on each part of a batch, and sums the tensors that it returns, which have these shapes."""
        parts, (rows, *image) = self.parts, batch.images.shape
        if parts == 1:
            return list(function(batch))
        size = -(-rows // parts)
        images = tf.pad(batch.images, [[0, size * parts - rows], *([0, 0] for _ in image)])
        numbers = tf.pad(batch.numbers, [[0, size * parts - rows]])

        def add(p: Any, *totals: Any) -> tuple[Any, ...]:
            first = p * size
            part = Batch(
                tf.slice(images, [first, *(0 for _ in image)], [size, *image]),
                batch.first_row + tf.cast(first, batch.first_row.dtype),
                tf.clip_by_value(batch.count - first, 0, size),
                tf.slice(numbers, [first], [size]),
            )
            with in_loop():
                found = function(part)
            return p + 1, *(total + more for total, more in zip(totals, found, strict=True))

        start = (tf.constant(0), *(tf.zeros(shape, dtype) for shape in shapes))
        return list(tf.while_loop(lambda p, *_: p < parts, add, start, maximum_iterations=parts)[1:])

    def _part(self, variables: ReplicaVariables, batch: Batch, step: Any, factored: Collection[int]) -> list[Any]:
        """Returns the gradients of one part of the batch, followed by its sums over rows."""

        def loss() -> tuple[Any, Any]:
            with self.objective.path() as path:
                scored, state = self._score(variables, batch, step)
            sums, value = self._sums(batch, scored, step, variables.group_means, path)
            count = tf.cast(batch.count, sums.dtype)
            moved = [tf.reshape(tf.cast(value, sums.dtype), [-1]) for value in state]
            moved = [tf.where(count > 0, count * value, 0.0) for value in moved]
            moved += [self._sum_groups(batch, scored)] if self.groups else []
            return -value / self.global_batch, tf.concat([sums, *moved], 0) if moved else sums

        gradients, sums = self._gradients(loss, variables.weights, factored=factored, kernel_first=self.kernel_first)
        return [*gradients, sums]

    def _sums(self, batch: Batch, scored: Score, step: Any, group_means: Any, path: Any) -> tuple[Any, Any]:
        """Returns the sums over rows by column, and the sum of the objective."""
        if self.objective.is_elbo:
            sums = row_sums(batch, scored, self.layout)
            return sums, sums[1]
        sums = row_sums(batch, scored, self.layout, self.objective.value(scored, step, group_means, path))
        return sums, sums[-1]
