"""The update of a replica's weights from the gradient of the whole batch.

Updates are all or nothing: no weight changes unless the loss and every element of the gradient are finite. The check
uses a bound on the norm of the gradient, which needs no pass over a kernel whose gradient is given as factors.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from vaedist.models.products import Factors, boolean_tensor
from vaedist.training.optimizer import AVERAGE, Averaged, Optimizer, moved_average

MARGIN = 256  # factor by which a squared norm must stay below the largest number; covers the rounding of its bound
FOLDS = 32  # slices that are added in one loop


def sum_of_squares(x: Any) -> Any:
    """Returns the sum of squares. It sums over rows first, which is faster and more accurate in float32."""
    with tf.name_scope("norm"):
        squares = tf.square(x)
        return tf.reduce_sum(tf.reduce_sum(squares, axis=0) if squares.shape.rank else squares)


def bound_of_squares(gradient: Any) -> Any:
    """Returns the sum of squares of a gradient, or for `Factors` an upper bound on it that needs no product.

    The norm of x^T dy is at most the norm of x times that of dy (Cauchy-Schwarz). If x or dy has a NaN or an infinity,
    the bound is not finite either.
    """
    if isinstance(gradient, Factors):
        return folded_sum_of_squares(gradient.x) * folded_sum_of_squares(gradient.dy)
    return folded_sum_of_squares(gradient)


def folded_sum_of_squares(x: Any) -> Any:
    """Returns the sum of squares; adds the squares of slices first, for speed.

    XLA compiles the squares of slices and their addition to one loop, which is vectorised and parallel on CPUs. It
    splits a single long sum into windows, which takes about five times as long and stores the squares. Sums of bfloat16
    are float32.
    """
    with tf.name_scope("norm"):
        x = tf.reshape(tf.cast(x, tf.float32) if x.dtype == tf.bfloat16 else x, [-1])
        even = x.shape[0] // FOLDS * FOLDS
        whole = tf.add_n([tf.square(part) for part in tf.split(x[:even], FOLDS)])
        return tf.reduce_sum(tf.concat([whole, tf.square(x[even:])], 0))


def fits(bound: Any) -> Any:
    """Returns True if a gradient with this bound on its sum of squares is finite, and small enough to be squared.

    In float32 the norm may be up to 1.2e18, below which no moment of an optimizer overflows.
    """
    return bound < bound.dtype.max / MARGIN  # False where it is NaN


class Update:
    """Applies an optimizer to its weights; its methods are parts of compiled programs.

    It must be created in the scope of the strategy that the weights were created in. In all methods, `own` is the index
    of a replica among those of this process, whose copies of the mirrored variables are read and written.

    Args:
        optimizer: the update formula; its slots are created here.
        weights: mirrored variables, in the order in which a forward pass uses them.
        supports: masks of kernels, by index; where a mask is False, the kernel stays 0 and its gradient is ignored.
        norm_every: steps between two computations of the gradient's norm, which is 0 at other steps. 1 computes it
            unconditionally, as is best on GPUs, where a condition waits for its predicate on the host.
        state: mirrored non-trainable variables, whose new values are computed with the gradient.
        unaveraged_state: further such variables, which have no moving averages.
        clip_norm: largest norm of the gradient, to which a larger one is scaled down; the norm is then computed at
            every step. 0 disables clipping.
    """

    def __init__(
        self, optimizer: Optimizer, weights: Sequence[Any], supports: Mapping[int, np.ndarray], *,
        norm_every: int, clip_norm: float = 0.0, state: Sequence[Any] = (),
        unaveraged_state: Sequence[Any] = (),
    ) -> None:  # fmt: skip
        self.optimizer, self.weights, self.supports = optimizer, weights, supports
        self.assigned = [*state, *unaveraged_state]
        self.norm_every, self.clip_norm = norm_every, clip_norm
        self.slots = {
            slot: [tf.Variable(tf.zeros_like(weight), trainable=False, name=slot) for weight in weights]
            for slot in optimizer.slots
        }
        self.state_averages = (
            [tf.Variable(tf.zeros_like(value), trainable=False, name=AVERAGE) for value in state]
            if isinstance(optimizer, Averaged)
            else []
        )

    def clear(self, own: int) -> None:
        """Sets kernels to 0 outside their supports. They stay 0, since their gradients are masked too.

        Multiplying by the supports in every step, as the model by itself does, would take a twelfth of the step.
        """
        for i, support in self.supports.items():
            variable = self.weights[i].values[own]
            value = variable.read_value()
            variable.assign(tf.where(boolean_tensor(support), value, tf.zeros((), value.dtype)))

    def __call__(
        self, gradients: Sequence[Any], sums: Any, step: Any, own: int, *, state: Any = None
    ) -> tuple[Any, Any]:
        """Applies the gradient of one update.

        Args:
            gradients: gradient of each weight over the whole batch, as a tensor of its shape or as `Factors`.
            sums: number of rows and sums of metrics, [n]; if one of them is not finite, nothing is changed.
            step: number of the update, counted from 0.
            own: index of the replica.
            state: the new values of `self.assigned`, summed over rows and concatenated to one vector.

        Returns:
            True if everything was finite (see `fits`), without which nothing is changed. And the sums, followed by the
            norm of the gradient, [n + 1].
        """
        bound = tf.add_n([bound_of_squares(gradient) for gradient in gradients])
        finite = tf.logical_and(tf.reduce_all(tf.math.is_finite(sums)), fits(bound))
        if self.assigned:
            finite = tf.logical_and(finite, tf.reduce_all(tf.math.is_finite(state)))
            self._assign_state(state / tf.maximum(sums[0], 1.0), finite, own)
        norm = (self._clipped if self.clip_norm else self._whole)(gradients, finite, step, own)
        return finite, tf.concat([sums, [norm]], 0)

    def _whole(self, gradients: Sequence[Any], finite: Any, step: Any, own: int) -> Any:
        """Applies the gradient; returns its norm at every `norm_every`-th step, else 0."""
        wanted = tf.equal((step + 1) % self.norm_every, 0)
        squares, none = [], tf.zeros((), self.weights[0].dtype)

        def look(i: int, gradient: Any) -> None:
            of_weight = partial(self._squares, i, gradient)
            squares.append(of_weight() if self.norm_every == 1 else tf.cond(wanted, of_weight, lambda: none))

        self._in_turn(gradients, finite, step, own, look)
        return tf.sqrt(tf.add_n(squares))

    def _clipped(self, gradients: Sequence[Any], finite: Any, step: Any, own: int) -> Any:
        """Applies the gradient, scaled down to `clip_norm` if its norm is larger; returns the norm before scaling."""
        gradients = [
            gradient.product(weight.dtype) if isinstance(gradient, Factors) else gradient
            for gradient, weight in zip(gradients, self.weights, strict=True)
        ]
        norm = tf.sqrt(tf.add_n([self._squares(i, gradient) for i, gradient in enumerate(gradients)]))
        scale = tf.minimum(self.clip_norm / tf.maximum(norm, 1e-30), 1.0)
        self._in_turn([scale * gradient for gradient in gradients], finite, step, own)
        return norm

    def _in_turn(
        self, gradients: Sequence[Any], finite: Any, step: Any, own: int,
        look: Callable[[int, Any], None] = lambda *_: None,
    ) -> None:  # fmt: skip
        """Applies the gradient weight by weight, from the last layer to the first.

        Each kernel's gradient is computed after the previous kernel was updated, and is used while it is in the cache.
        XLA orders instructions by their inputs, and would otherwise compute all gradients, then all moments, then all
        weights, which makes a step a tenth longer. To enforce the order, each layer reads one number of the previous
        kernel. `look` is called with the index and the gradient of each weight.
        """
        rates = self.optimizer.rates(step)
        for i, gradient in reversed(list(enumerate(gradients))):
            if isinstance(gradient, Factors):
                gradient = _zero_unless(finite, gradient).product(self.weights[i].dtype)
            look(i, gradient)
            updated = self._apply(i, gradient, rates, finite, own)
            if updated.shape.rank > 1:
                finite = tf.logical_and(finite, tf.math.is_finite(tf.reshape(updated, [-1])[0]))

    def _apply(self, i: int, gradient: Any, rates: tuple[Any, ...], finite: Any, own: int) -> Any:
        """Updates weight i and returns it. Unless everything was finite, the gradient and the rates are set to 0.

        Choosing between the new and the old weight instead would take a quarter of the step on a CPU, as XLA would then
        update nothing in place.
        """
        owned = [mirrored[i].values[own] for mirrored in (self.weights, *self.slots.values())]
        weight, *slots = (variable.read_value() for variable in owned)
        with tf.name_scope("optimizer"):
            counts = tf.logical_and(finite, boolean_tensor(self.supports[i])) if i in self.supports else finite
            safe = tf.where(counts, gradient, 0.0)
            rates = tuple(tf.cast(tf.where(finite, rate, 0.0), weight.dtype) for rate in rates)
            updated = self.optimizer.update(rates, weight, safe, *slots)
        for variable, value in zip(owned, updated, strict=True):
            variable.assign(value)
        return updated[0]

    def state_parts(self, vector: Any) -> list[Any]:
        """Returns the values of each variable of `assigned`, [n] each, from all of them in one vector."""
        return tf.split(vector, [each.shape.num_elements() for each in self.assigned]) if self.assigned else []

    def _assign_state(self, values: Any, finite: Any, own: int) -> None:
        """Assigns new values, concatenated in one vector, to the state, and updates its moving averages."""
        for i, (mirrored, value) in enumerate(zip(self.assigned, self.state_parts(values), strict=True)):
            variable = mirrored.values[own]
            value = tf.cast(tf.reshape(value, variable.shape), variable.dtype)
            value = tf.where(finite, value, variable.read_value())
            variable.assign(value)
            if i < len(self.state_averages):
                assert isinstance(self.optimizer, Averaged)
                average = self.state_averages[i].values[own]
                moved = moved_average(average.read_value(), value, 1.0 - self.optimizer.decay)
                average.assign(tf.where(finite, moved, average.read_value()))

    def _squares(self, i: int, gradient: Any) -> Any:
        """Returns the sum of squares of the gradient of weight i, within its support."""
        return sum_of_squares(
            tf.where(boolean_tensor(self.supports[i]), gradient, 0.0) if i in self.supports else gradient
        )


def _zero_unless(finite: Any, factors: Factors) -> Factors:
    """Returns the factors unchanged if everything was finite; otherwise factors with a product of 0 or NaN.

    Only the smaller factor depends on the condition, because that needs a copy of it.
    """
    x, dy = factors
    if x.shape[1] < dy.shape[1]:
        return Factors(tf.where(finite, x, 0.0), dy)
    return Factors(x, tf.where(finite, dy, 0.0))
