"""Packing of gradients for the all-reduce, with as few numbers in as few tensors as possible.

A kernel's gradient is x^T dy, a sum over the rows of the batch. For small batches x and dy are much smaller than the
kernel. Replicas then exchange x and dy, and each computes the product itself: every replica contributes its own rows,
and zeros for the rows of the others, so that the sum is x and dy of the whole batch in row order. With the default
model and a batch of 32 this is a tenth of the numbers. Xie et al. 2016 broadcast such factors; Zhang et al. 2017
(Poseidon) choose layer by layer, as is done here.
"""

import math
from collections.abc import Collection, Sequence
from typing import Any

import tensorflow as tf

from vaedist.devices.batches import Batch
from vaedist.models.products import Factors

WORTHWHILE = 2  # required ratio of the sizes of gradient and factors, since every replica then computes the product
ALONE = 2**19  # size from which a tensor is reduced by itself: a tensor costs half a millisecond, copying it more


class Packing:
    """Packs gradients, or their factors, and a vector of sums into the tensors of the all-reduce.

    Small tensors are concatenated. If gradients are reduced in another data type, the sums are a tensor of their own,
    which keeps its type.

    Args:
        shapes: shapes of the weights.
        kernels: indices of the weights whose gradients can be factors.
        rows: rows of a global batch.
        dtype: name of the data type of the weights.
        reduce_dtype: name of the data type that gradients are reduced in.
        split: True to reduce large tensors separately, which lets a ring of CPUs send one while it adds another.
    """

    def __init__(
        self, shapes: Sequence[Any], kernels: Collection[int], *,
        rows: int, dtype: str, reduce_dtype: str, split: bool,
    ) -> None:  # fmt: skip
        self.rows, self.dtype, self.reduce_dtype = rows, dtype, reduce_dtype
        self.factored = {i for i in kernels if WORTHWHILE * rows * sum(shapes[i]) <= math.prod(shapes[i])}
        self.shapes: list[tuple[int, ...]] = []  # of the gradients and factors, in the order of the weights
        for i, shape in enumerate(shapes):
            self.shapes += [(rows, size) for size in shape] if i in self.factored else [tuple(shape)]
        self.sizes = [math.prod(shape) for shape in self.shapes]
        self.alone = [split and size >= ALONE for size in self.sizes]

    def pack(self, batch: Batch, gradients: Sequence[Any], sums: Any) -> tuple[Any, ...]:
        """Returns a replica's tensors, from the `Factors` of each `factored` weight and the gradients of the others."""
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
        """Returns the gradient of each weight, as `Factors` if it is factored, and the sums."""
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
        """Returns real rows [Q, n] at their positions in the global batch, [rows, n], and zeros elsewhere."""
        real = tf.where(batch.real[:, None], part, tf.zeros((), part.dtype))
        padded = tf.pad(real, [[self.rows, self.rows], [0, 0]])
        first = tf.minimum(tf.cast(batch.first_row, tf.int32), self.rows)  # `rows` if the replica has no real row
        return tf.slice(padded, [self.rows - first, 0], [self.rows, part.shape[1]])
