"""The update of a replica's weights by the whole batch's gradient: masked, clipped, and never by one not finite."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from vaedist.model.products import mask_tensor
from vaedist.training.optimizer import Optimizer


def sum_of_squares(x: Any) -> Any:
    """Sum of squares; by rows first, which is both faster and more exact in float32 than all at once."""
    with tf.name_scope("norm"):
        return tf.reduce_sum(tf.reduce_sum(tf.square(x), axis=0))


class Update:
    """An optimizer with the weights that it changes; its methods are parts of compiled programs.

    Made under the scope of the strategy that the weights were made under. `own` is always the replica's number among
    the process's: whose copies of the mirrored variables are read and written.

    Args:
        optimizer: the formula; what it keeps of each weight is made here, see `slots`.
        weights: mirrored variables, in the order in which a forward pass uses them.
        masks: of kernels, by their numbers: where they are False neither the kernel nor its gradient counts.
        norm_every: the gradient's norm is taken at every such step, and 0 in between.
        clip_norm: the most that the gradient's norm may be, or it is scaled down to it, and the norm is taken at every
            step; 0 leaves it.
    """

    def __init__(
        self, optimizer: Optimizer, weights: Sequence[Any], masks: Mapping[int, np.ndarray], *,
        norm_every: int, clip_norm: float = 0.0,
    ) -> None:  # fmt: skip
        self.optimizer, self.weights, self.masks = optimizer, weights, masks
        self.norm_every, self.clip_norm = norm_every, clip_norm
        self.slots = {
            slot: [tf.Variable(tf.zeros_like(weight), trainable=False, name=slot) for weight in weights]
            for slot in optimizer.slots
        }

    def mask(self, own: int) -> None:
        """Set to 0 what masks leave out of kernels; as their gradients are masked too, it stays so from step to step.

        (To multiply by the masks in every step, as the model by itself does, takes a twelfth of it.)
        """
        for i, mask in self.masks.items():
            variable = self.weights[i].values[own]
            value = variable.read_value()
            variable.assign(tf.where(mask_tensor(mask), value, tf.zeros((), value.dtype)))

    def __call__(self, gradients: Sequence[Any], sums: Any, step: Any, own: int) -> tuple[Any, Any]:
        """Apply the gradient of update number `step`.

        Args:
            gradients: of each weight, over the whole batch.
            sums: metrics, [n]; where one is not finite, nothing is changed.
            step: counted from 0.
            own: the replica.

        Returns:
            whether all was finite; and the sums followed by the gradient's norm, [n + 1].
        """
        finite = tf.reduce_all(tf.math.is_finite(sums))
        if self.clip_norm:
            finite, norm = self._clipped(gradients, finite, step, own)
        else:
            finite, norm = self._in_turn(gradients, finite, step, own)
        return finite, tf.concat([sums, [norm]], 0)

    def _in_turn(self, gradients: Sequence[Any], finite: Any, step: Any, own: int) -> tuple[Any, Any]:
        """Apply the gradient weight by weight; returns whether all was finite, and its norm where that is wanted.

        From the last layer to the first, as the gradients come out: each is used while it is in the cache. A layer's
        bias gradient is the sum over rows of what its kernel's gradient is made of, so where the loss and the bias
        gradients down to a layer are finite, the kernel's is, without a pass over it to find out.

        A kernel waits for the bias gradient of the layer before its own, for which it is still needed: so XLA knows
        that it is read for the last time, and keeps no copy.
        """
        wanted = tf.equal((step + 1) % self.norm_every, 0)
        rates, squares, none = self.optimizer.rates(step), [], tf.zeros((), gradients[0].dtype)
        waiting: list[int] = []

        def apply_waiting() -> None:
            for i in waiting:
                squares.append(tf.cond(wanted, partial(self._squares, i, gradients[i]), lambda: none))
                self._apply(i, gradients[i], rates, finite, own)
            waiting.clear()

        for i, gradient in reversed(list(enumerate(gradients))):
            if gradient.shape.rank == 1:
                finite = tf.logical_and(finite, tf.math.is_finite(tf.reduce_sum(gradient)))
                apply_waiting()
            waiting.append(i)
        apply_waiting()
        norm = tf.sqrt(tf.add_n(squares))
        return tf.logical_and(finite, tf.math.is_finite(norm)), norm

    def _clipped(self, gradients: Sequence[Any], finite: Any, step: Any, own: int) -> tuple[Any, Any]:
        """Apply the gradient, scaled down to `clip_norm` where its norm is larger; returns as `_in_turn`."""
        norm = tf.sqrt(tf.add_n([self._squares(i, gradient) for i, gradient in enumerate(gradients)]))
        finite = tf.logical_and(finite, tf.math.is_finite(norm))
        scale, rates = tf.minimum(self.clip_norm / tf.maximum(norm, 1e-30), 1.0), self.optimizer.rates(step)
        for i, gradient in enumerate(gradients):
            self._apply(i, scale * gradient, rates, finite, own)
        return finite, norm

    def _apply(self, i: int, gradient: Any, rates: tuple[Any, ...], finite: Any, own: int) -> None:
        """Update weight i; where not all was finite, by a gradient of 0 at rates of 0.

        (To choose between the new weight and the old instead costs a quarter of the step on a CPU, for XLA then updates
        nothing in place.)
        """
        owned = [mirrored[i].values[own] for mirrored in (self.weights, *self.slots.values())]
        weight, *slots = (variable.read_value() for variable in owned)
        with tf.name_scope("optimizer"):
            counts = tf.logical_and(finite, mask_tensor(self.masks[i])) if i in self.masks else finite
            safe = tf.where(counts, gradient, 0.0)
            rates = tuple(tf.cast(tf.where(finite, rate, 0.0), weight.dtype) for rate in rates)
            updated = self.optimizer.update(rates, weight, safe, *slots)
        for variable, value in zip(owned, updated, strict=True):
            variable.assign(value)

    def _squares(self, i: int, gradient: Any) -> Any:
        """The sum of squares of the gradient of weight i."""
        return sum_of_squares(tf.where(mask_tensor(self.masks[i]), gradient, 0.0) if i in self.masks else gradient)
