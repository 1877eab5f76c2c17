"""What the replicas of a step sum to have the gradient of the whole batch: as few numbers, in as few tensors, as serve.

A kernel's gradient is x^T dy, a sum over the rows of the batch. Where these are so few that x and dy are much smaller
than the kernel, replicas exchange them instead, and each makes the product itself: every replica gives its rows of
them, with zeros for the rows of the others, and the sum is x and dy of the whole batch, in the order of its rows. At
the sizes of the chapter and 32 rows that is a tenth of the numbers. (Xie et al. 2016 broadcast such factors; Zhang et
al. 2017, Poseidon, choose layer by layer, as is done here.)
"""

import math
from collections.abc import Collection, Sequence
from typing import Any

import tensorflow as tf

from vaedist.evaluation.scoring import Batch
from vaedist.models.products import Factors

WORTHWHILE = 2  # so many times fewer numbers must the factors be, as their product is then taken by every replica
ALONE = 2**19  # numbers from which a tensor is summed by itself: each costs half a millisecond, the copies more


class Packing:
    """Gradients, or their factors, and a vector of sums as the tensors that the all-reduce takes.

    Small ones are joined to one vector. Where gradients are to be summed in another type than they have, the sums stay
    as they are, as one more.

    Args:
        shapes: of the weights.
        kernels: which of them are multiplied by rows, by their numbers.
        rows: of a global batch.
        dtype: of the weights, by its name.
        reduce_dtype: type that gradients are summed in, by its name.
        split: whether to sum large tensors by themselves: a ring of CPUs then sends one while it adds another.
    """

    def __init__(
        self, shapes: Sequence[Any], kernels: Collection[int], *,
        rows: int, dtype: str, reduce_dtype: str, split: bool,
    ) -> None:  # fmt: skip
        self.rows, self.dtype, self.reduce_dtype = rows, dtype, reduce_dtype
        self.factored = {i for i in kernels if WORTHWHILE * rows * sum(shapes[i]) <= math.prod(shapes[i])}
        self.shapes: list[tuple[int, ...]] = []  # of what is summed, in the order of the weights
        for i, shape in enumerate(shapes):
            self.shapes += [(rows, size) for size in shape] if i in self.factored else [tuple(shape)]
        self.sizes = [math.prod(shape) for shape in self.shapes]
        self.alone = [split and size >= ALONE for size in self.sizes]

    def pack(self, batch: Batch, gradients: Sequence[Any], sums: Any) -> tuple[Any, ...]:
        """A replica's tensors, from the `Factors` of each weight that is `factored` and the gradients of the others."""
        parts: list[Any] = []
        for i, gradient in enumerate(gradients):
            parts += [self._in_place(batch, factor) for factor in gradient] if i in self.factored else [gradient]
        parts = [tf.cast(part, self.reduce_dtype) for part in parts]
        alone = [part for part, by_itself in zip(parts, self.alone, strict=True) if by_itself]
        joined = [tf.reshape(part, [-1]) for part, by_itself in zip(parts, self.alone, strict=True) if not by_itself]
        if self.reduce_dtype == self.dtype:
            return (*alone, tf.concat([*joined, sums], 0))
        return (*alone, tf.concat(joined, 0), sums)

    def unpack(self, tensors: Sequence[Any]) -> tuple[list[Any], Any]:
        """The gradient of each weight, as `Factors` where it is factored, and the sums."""
        vector, *others = tensors[sum(self.alone) :]
        sizes = [size for size, by_itself in zip(self.sizes, self.alone, strict=True) if not by_itself]
        *joined, rest = tf.split(vector, [*sizes, vector.shape[0] - sum(sizes)])
        alone, small = iter(tensors), iter(joined)
        parts = iter(
            [
                tf.cast(tf.reshape(next(alone if by_itself else small), shape), self.dtype)
                for shape, by_itself in zip(self.shapes, self.alone, strict=True)
            ]
        )
        gradients = [
            Factors(next(parts), next(parts)) if i in self.factored else next(parts)
            for i in range(len(self.shapes) - len(self.factored))
        ]
        return gradients, others[0] if others else rest

    def _in_place(self, batch: Batch, part: Any) -> Any:
        """Real rows [Q, n] at their places in the whole batch, [rows, n], and zeros at those of other replicas."""
        real = tf.where(batch.real[:, None], part, tf.zeros((), part.dtype))
        padded = tf.pad(real, [[self.rows, self.rows], [0, 0]])
        first = tf.minimum(tf.cast(batch.first_row, tf.int32), self.rows)  # beyond, where the replica has no row at all
        return tf.slice(padded, [self.rows - first, 0], [self.rows, part.shape[1]])
