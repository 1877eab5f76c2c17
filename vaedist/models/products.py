"""Products of rows with kernels, whose gradients can also be had as the two factors that they are products of.

The gradient of a kernel [in, out] is x^T dy, a sum over the rows of its input x [B, in] and of the gradient dy [B, out]
of its output. Where rows are few, the factors are fewer numbers than the kernel has (Xie et al. 2016, "Lighter-
Communication Distributed Machine Learning via Sufficient Factor Broadcasting").
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import ops
from tensorflow.compiler.tf2xla.python import xla


def boolean_tensor(mask: np.ndarray) -> Any:
    """A mask, boolean, as a tensor.

    TensorFlow writes booleans into a graph one by one, which would take longer than all else of the step's graph.
    """
    return ops.cast(ops.convert_to_tensor(mask.view(np.uint8)), "bool")


class Seen(NamedTuple):
    """Input and output of a product, [B, in] and [B, out]; of several samples of each image, B counts them all."""

    x: Any
    y: Any


class Factors(NamedTuple):
    """The gradient of a kernel as the two factors that it is the product of.

    Attributes:
        x: input of the product y = x K, [B, in].
        dy: gradient of its output, [B, out].
    """

    x: Any
    dy: Any

    def product(self) -> Any:
        """Returns the gradient of the kernel, x^T dy, [in, out]."""
        return tf.matmul(self.x, self.dy, transpose_a=True)


class _Watch(NamedTuple):
    """Where products note themselves, and whether kernels come first in the gradients of what they are applied to."""

    seen: dict[str, Seen]
    kernel_first: bool


_WATCH: ContextVar[_Watch | None] = ContextVar("watch", default=None)


@contextmanager
def products_seen(*, kernel_first: bool = False) -> Iterator[dict[str, Seen]]:
    """Note what the products that are taken meanwhile were applied to, by the path of their kernel.

    Kernels are taken as they are: who asks for this has them masked already, and masks their gradients.

    Args:
        kernel_first: take gradients as `kernel_first_product` does; only in what XLA compiles.
    """
    watch = _Watch({}, kernel_first)
    token = _WATCH.set(watch)
    try:
        yield watch.seen
    finally:
        _WATCH.reset(token)


@tf.custom_gradient
def kernel_first_product(x: Any, kernel: Any) -> Any:
    """The product y = x K, [B, in] x [in, out], whose gradient in x is taken as (K dy^T)^T in place of dy K^T.

    XLA's products on CPUs copy the kernel into panels first, which takes as long as the product itself where rows are
    few. Of a kernel that comes first and is summed over its last axis, they do it in much less time: with 32 rows the
    product takes 0.5 to 0.7 of the time. The barrier keeps XLA from turning it round again.
    """

    def gradient(dy: Any) -> tuple[Any, Any]:
        dx = tf.matmul(kernel, dy, transpose_b=True)
        return tf.transpose(*xla.optimization_barrier(dx)), Factors(x, dy).product()

    return tf.matmul(x, kernel), gradient


class Product:
    """y = x K, with a kernel of which a mask may leave out some entries, as if they were 0.

    Args:
        kernel: K, [in, out].
        mask: False for what is left out, [in, out]; None leaves out nothing.
    """

    def __init__(self, kernel: Any, mask: np.ndarray | None = None) -> None:
        self.kernel, self.mask = kernel, mask

    def __call__(self, x: Any) -> Any:
        """[..., in] -> [..., out]."""
        if (watch := _WATCH.get()) is not None:
            if self.kernel.path in watch.seen:
                raise RuntimeError(f"{self.kernel.path} is applied twice, so its gradient is not one product")
            product = kernel_first_product if watch.kernel_first else ops.matmul
            rows = x if len(x.shape) == 2 else ops.reshape(x, (-1, x.shape[-1]))  # of several samples of each image
            y = product(rows, ops.convert_to_tensor(self.kernel))
            watch.seen[self.kernel.path] = Seen(rows, y)
            return y if rows is x else ops.reshape(y, (*x.shape[:-1], y.shape[-1]))
        return ops.matmul(x, self.kernel if self.mask is None else self._masked())

    def clear_masked(self) -> None:
        """Set to 0 what the mask leaves out of the kernel, which no output depends on."""
        if self.mask is not None:
            self.kernel.assign(self._masked())

    def _masked(self) -> Any:
        assert self.mask is not None
        return ops.where(boolean_tensor(self.mask), self.kernel, 0.0)


class Dense(keras.layers.Dense):
    """Keras's dense layer, whose product is a `Product`."""

    def build(self, input_shape: Any) -> None:
        """Make the weights."""
        super().build(input_shape)
        self.product = Product(self.kernel)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """[..., in] -> [..., units]."""
        y = self.product(inputs)
        y = y if self.bias is None else ops.add(y, self.bias)
        return y if self.activation is None else self.activation(y)
