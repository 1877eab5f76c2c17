"""What replicas sum in a step, gradients and sums of metrics, as the vectors that the all-reduce takes."""

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf


class Packing:
    """Gradients of weights of known shapes, and a vector of sums, as one vector.

    Where gradients are to be summed in another type than they have, they are a vector of that type, and the sums are a
    second one that keeps its own.

    Args:
        shapes: of the weights.
        dtype: of the weights, by its name.
        reduce_dtype: type that gradients are summed in, by its name.
    """

    def __init__(self, shapes: Sequence[Any], dtype: str, reduce_dtype: str) -> None:
        self.shapes, self.dtype, self.reduce_dtype = shapes, dtype, reduce_dtype
        self.sizes = [math.prod(shape) for shape in shapes]

    def pack(self, gradients: Sequence[Any], sums: Any) -> tuple[Any, ...]:
        """The vectors."""
        flat = [tf.reshape(gradient, [-1]) for gradient in gradients]
        if self.reduce_dtype == self.dtype:
            return (tf.concat([*flat, sums], 0),)
        return tf.concat([tf.cast(part, self.reduce_dtype) for part in flat], 0), sums

    def unpack(self, vectors: Sequence[Any]) -> tuple[list[Any], Any]:
        """The gradients, and the sums."""
        first, *others = vectors
        *parts, rest = tf.split(first, [*self.sizes, first.shape[0] - sum(self.sizes)])
        shaped = (tf.reshape(part, shape) for part, shape in zip(parts, self.shapes, strict=True))
        return [tf.cast(gradient, self.dtype) for gradient in shaped], others[0] if others else rest

    def whole(self, vectors: Sequence[Any]) -> Any:
        """All gradients as one vector."""
        return tf.cast(vectors[0][: sum(self.sizes)], self.dtype)
