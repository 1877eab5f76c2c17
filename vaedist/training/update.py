"""The update of a replica's weights by the gradient of the whole batch.

All or nothing: no weight changes unless the loss and every number of the gradient are finite. This is told from a bound
on the gradient's norm, which costs no pass over kernels whose gradients are products of rows.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from vaedist.models.products import Factors, boolean_tensor
from vaedist.training.optimizer import Averaged, Optimizer

MARGIN = 256  # how far below the largest number a squared norm must stay, which covers the rounding of its bound
FOLDS = 32  # slices that are added up in one loop


def sum_of_squares(x: Any) -> Any:
    """Sum of squares; by rows first, which is both faster and more exact in float32 than all at once."""
    with tf.name_scope("norm"):
        squares = tf.square(x)
        return tf.reduce_sum(tf.reduce_sum(squares, axis=0) if squares.shape.rank else squares)


def bound_of_squares(gradient: Any) -> Any:
    """Returns the sum of squares of a gradient; of `Factors`, a bound on it that needs no product.

    The norm of x^T dy is at most the norm of x times that of dy (Cauchy and Schwarz). Where x or dy is NaN or infinite,
    so is the bound.
    """
    if isinstance(gradient, Factors):
        return folded_sum_of_squares(gradient.x) * folded_sum_of_squares(gradient.dy)
    return folded_sum_of_squares(gradient)


def folded_sum_of_squares(x: Any) -> Any:
    """Returns the sum of squares, taken by adding up the squares of slices first.

    XLA compiles squares and their addition to one loop, which is vectorised and parallel on CPUs. A long sum alone it
    splits into windows; that takes about five times as long, and stores the squares.
    """
    with tf.name_scope("norm"):
        x = tf.reshape(x, [-1])
        even = x.shape[0] // FOLDS * FOLDS
        whole = tf.add_n([tf.square(part) for part in tf.split(x[:even], FOLDS)])
        return tf.reduce_sum(tf.concat([whole, tf.square(x[even:])], 0))


def fits(bound: Any) -> Any:
    """Returns whether a gradient with this bound on its sum of squares is finite, and can be squared and summed.

    In float32 its norm may be 1.2e18. No moment of an optimizer overflows below that.
    """
    return bound < bound.dtype.max / MARGIN  # False where it is NaN


class Update:
    """An optimizer with the weights that it changes; its methods are parts of compiled programs.

    Made under the scope of the strategy that the weights were made under. `own` is always the replica's number among
    the process's: whose copies of the mirrored variables are read and written.

    Args:
        optimizer: the formula; what it keeps of each weight is made here, see `slots`.
        weights: mirrored variables, in the order in which a forward pass uses them.
        supports: of kernels, by their numbers: where they are False neither the kernel nor its gradient counts.
        norm_every: the gradient's norm is taken at every such step, and 0 in between.
        state: mirrored variables that are not trained, whose new values come with a batch.
        clip_norm: the most that the gradient's norm may be, or it is scaled down to it, and the norm is taken at every
            step; 0 leaves it.
    """

    def __init__(
        self, optimizer: Optimizer, weights: Sequence[Any], supports: Mapping[int, np.ndarray], *,
        norm_every: int, clip_norm: float = 0.0, state: Sequence[Any] = (),
    ) -> None:  # fmt: skip
        self.optimizer, self.weights, self.supports, self.state = optimizer, weights, supports, state
        self.norm_every, self.clip_norm = norm_every, clip_norm
        self.slots = {
            slot: [tf.Variable(tf.zeros_like(weight), trainable=False, name=slot) for weight in weights]
            for slot in optimizer.slots
        }
        self.state_averages = (
            [tf.Variable(tf.zeros_like(value), trainable=False, name="average") for value in state]
            if isinstance(optimizer, Averaged)
            else []
        )

    def clear(self, own: int) -> None:
        """Sets kernels to 0 outside their supports, where they stay 0, as their gradients are cut off there too.

        (To multiply by the supports in every step, as the model by itself does, takes a twelfth of it.)
        """
        for i, support in self.supports.items():
            variable = self.weights[i].values[own]
            value = variable.read_value()
            variable.assign(tf.where(boolean_tensor(support), value, tf.zeros((), value.dtype)))

    def __call__(
        self, gradients: Sequence[Any], sums: Any, step: Any, own: int, *, state: Any = None
    ) -> tuple[Any, Any]:
        """Apply the gradient of update number `step`.

        Args:
            gradients: of each weight, over the whole batch, as a tensor shaped like it or as `Factors`.
            sums: number of rows and metrics, [n]; where one is not finite, nothing is changed.
            step: counted from 0.
            own: the replica.
            state: sum over rows of the new values of `self.state`, side by side in one vector.

        Returns:
            whether all was finite (see `fits`), without which no weight changes; and the sums followed by the
            gradient's norm, [n + 1].
        """
        bound = tf.add_n([bound_of_squares(gradient) for gradient in gradients])
        finite = tf.logical_and(tf.reduce_all(tf.math.is_finite(sums)), fits(bound))
        if self.state:
            finite = tf.logical_and(finite, tf.reduce_all(tf.math.is_finite(state)))
            self._move(state / tf.maximum(sums[0], 1.0), finite, own)
        norm = (self._clipped if self.clip_norm else self._whole)(gradients, finite, step, own)
        return finite, tf.concat([sums, [norm]], 0)

    def _whole(self, gradients: Sequence[Any], finite: Any, step: Any, own: int) -> Any:
        """Apply the gradient; returns its norm at steps where it is wanted, else 0."""
        wanted = tf.equal((step + 1) % self.norm_every, 0)
        squares, none = [], tf.zeros((), self.weights[0].dtype)

        def look(i: int, gradient: Any) -> None:
            squares.append(tf.cond(wanted, partial(self._squares, i, gradient), lambda: none))

        self._in_turn(gradients, finite, step, own, look)
        return tf.sqrt(tf.add_n(squares))

    def _clipped(self, gradients: Sequence[Any], finite: Any, step: Any, own: int) -> Any:
        """Apply the gradient, scaled down to `clip_norm` where its norm is larger; returns the norm."""
        gradients = [_product(gradient) for gradient in gradients]
        norm = tf.sqrt(tf.add_n([self._squares(i, gradient) for i, gradient in enumerate(gradients)]))
        scale = tf.minimum(self.clip_norm / tf.maximum(norm, 1e-30), 1.0)
        self._in_turn([scale * gradient for gradient in gradients], finite, step, own)
        return norm

    def _in_turn(
        self, gradients: Sequence[Any], finite: Any, step: Any, own: int,
        look: Callable[[int, Any], None] = lambda *_: None,
    ) -> None:  # fmt: skip
        """Apply the gradient weight by weight, from the last layer to the first; `look` is shown each one whole.

        Each kernel's gradient is made when the kernel before it has been updated, and so is used while it is in the
        cache. XLA orders instructions by what they read, and would else make all gradients, then all moments, then
        all weights, which takes a tenth of a step longer: so each layer reads one number of the kernel before it.
        """
        rates = self.optimizer.rates(step)
        for i, gradient in reversed(list(enumerate(gradients))):
            if isinstance(gradient, Factors):
                gradient = _zero_unless(finite, gradient).product()
            look(i, gradient)
            updated = self._apply(i, gradient, rates, finite, own)
            if updated.shape.rank > 1:
                finite = tf.logical_and(finite, tf.math.is_finite(tf.reshape(updated, [-1])[0]))

    def _apply(self, i: int, gradient: Any, rates: tuple[Any, ...], finite: Any, own: int) -> Any:
        """Update weight i, and return it; where not all was finite, by a gradient of 0 at rates of 0.

        (To choose between the new weight and the old instead costs a quarter of the step on a CPU, for XLA then updates
        nothing in place.)
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
        """Returns the numbers of each variable of the state, from all of them side by side."""
        return tf.split(vector, [variable.shape.num_elements() for variable in self.state]) if self.state else []

    def _move(self, values: Any, finite: Any, own: int) -> None:
        """Assign new values, side by side in one vector, to the state, and take their moving averages."""
        for i, (mirrored, value) in enumerate(zip(self.state, self.state_parts(values), strict=True)):
            variable = mirrored.values[own]
            value = tf.cast(tf.reshape(value, variable.shape), variable.dtype)
            value = tf.where(finite, value, variable.read_value())
            variable.assign(value)
            if self.state_averages:
                assert isinstance(self.optimizer, Averaged)
                average = self.state_averages[i].values[own]
                moved = average.read_value() + (1.0 - self.optimizer.decay) * (value - average.read_value())
                average.assign(tf.where(finite, moved, average.read_value()))

    def _squares(self, i: int, gradient: Any) -> Any:
        """The sum of squares of the gradient of weight i."""
        return sum_of_squares(
            tf.where(boolean_tensor(self.supports[i]), gradient, 0.0) if i in self.supports else gradient
        )


def _zero_unless(finite: Any, factors: Factors) -> Factors:
    """Returns factors whose product is 0 unless all was finite, or NaN where they are not finite.

    Only the smaller factor depends on the condition, because that takes a copy of it.
    """
    x, dy = factors
    if x.shape[1] < dy.shape[1]:
        return Factors(tf.where(finite, x, 0.0), dy)
    return Factors(x, tf.where(finite, dy, 0.0))


def _product(gradient: Any) -> Any:
    """Returns a gradient as a tensor."""
    return gradient.product() if isinstance(gradient, Factors) else gradient
