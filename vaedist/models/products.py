"""Matrix products with kernels, whose gradients can be computed as a pair of factors.

The gradient of a kernel [in, out] is x^T dy, with the input x [B, in] and the gradient dy [B, out] of the output. For
few rows B, the factors are smaller than the kernel (Xie et al. 2016, "Lighter-Communication Distributed Machine
Learning via Sufficient Factor Broadcasting").
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
    """Returns a boolean mask as a tensor.

    TensorFlow serialises boolean constants one by one, which would dominate the time to trace a step.
    """
    return ops.cast(ops.convert_to_tensor(mask.view(np.uint8)), "bool")


class Seen(NamedTuple):
    """Input and output of a product, [B, in] and [B, out]; with K samples per image, B counts all samples."""

    x: Any
    y: Any


class Factors(NamedTuple):
    """The gradient of a kernel K as a pair of factors.

    Attributes:
        x: input of the product y = x K, [B, in].
        dy: gradient with respect to y, [B, out].
    """

    x: Any
    dy: Any

    def product(self, dtype: Any = None) -> Any:
        """Returns the gradient of the kernel, x^T dy, [in, out].

        Args:
            dtype: dtype of the result, if it is not that of the factors; requires compilation by XLA.
        """
        if dtype is None or dtype == self.x.dtype:
            return tf.matmul(self.x, self.dy, transpose_a=True)
        return _accumulated_product(self.x, self.dy, tf.as_dtype(dtype))


def _accumulated_product(x: Any, dy: Any, dtype: Any) -> Any:
    """Returns x^T dy, whose sums are accumulated and returned in a more precise dtype than that of the factors."""
    numbers = xla.DotDimensionNumbers(lhs_contracting_dimensions=[0], rhs_contracting_dimensions=[0])
    return xla.dot_general(x, dy, numbers, preferred_element_type=dtype)


class _Watch(NamedTuple):
    """Recorded products by the path of their kernel, and whether to use `kernel_first_product`."""

    seen: dict[str, Seen]
    kernel_first: bool


_WATCH: ContextVar[_Watch | None] = ContextVar("watch", default=None)


@contextmanager
def products_seen(*, kernel_first: bool = False) -> Iterator[dict[str, Seen]]:
    """Records the input and output of each product that is computed in this context, by the path of its kernel.

    Masks are not applied: the caller must ensure that kernels are masked, and mask their gradients.

    Args:
        kernel_first: use `kernel_first_product`; requires compilation by XLA.
    """
    watch = _Watch({}, kernel_first)
    token = _WATCH.set(watch)
    try:
        yield watch.seen
    finally:
        _WATCH.reset(token)


@tf.custom_gradient
def kernel_first_product(x: Any, kernel: Any) -> Any:
    """Returns y = x K, [B, in] x [in, out], with the gradient dx computed as (K dy^T)^T instead of dy K^T.

    On CPUs, XLA first packs the kernel into panels, which takes as long as the product itself for few rows. Packing is
    much faster if the kernel is the left factor and its last axis is contracted: with 32 rows, the product takes 0.5
    to 0.7 of the time. The barrier prevents XLA from rewriting the product.
    """

    def gradient(dy: Any) -> tuple[Any, Any]:
        dx = tf.matmul(kernel, dy, transpose_b=True)
        return tf.transpose(*xla.optimization_barrier(dx)), Factors(x, dy).product()

    return tf.matmul(x, kernel), gradient


class Product:
    """y = x K with an optional mask on the kernel.

    Args:
        kernel: K, [in, out].
        mask: False for entries that are treated as 0, [in, out]; None means no mask.
    """

    def __init__(self, kernel: Any, mask: np.ndarray | None = None) -> None:
        self.kernel, self.mask = kernel, mask

    def __call__(self, x: Any) -> Any:
        """Maps [..., in] to [..., out]."""
        if (watch := _WATCH.get()) is not None:
            if self.kernel.path in watch.seen:
                raise RuntimeError(f"{self.kernel.path} is applied twice, so its gradient is not one product")
            product = kernel_first_product if watch.kernel_first else ops.matmul
            rows = x if len(x.shape) == 2 else ops.reshape(x, (-1, x.shape[-1]))  # K samples per image
            y = product(rows, ops.convert_to_tensor(self.kernel))
            watch.seen[self.kernel.path] = Seen(rows, y)
            return y if rows is x else ops.reshape(y, (*x.shape[:-1], y.shape[-1]))
        return ops.matmul(x, self.kernel if self.mask is None else self._masked())

    def clear_masked(self) -> None:
        """Sets the masked entries of the kernel to 0."""
        if self.mask is not None:
            self.kernel.assign(self._masked())

    def _masked(self) -> Any:
        assert self.mask is not None
        return ops.where(boolean_tensor(self.mask), self.kernel, 0.0)


class Dense(keras.layers.Dense):
    """Keras's dense layer with a `Product`."""

    def build(self, input_shape: Any) -> None:
        """Creates the weights."""
        super().build(input_shape)
        self.product = Product(self.kernel)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Maps [..., in] to [..., units]."""
        y = self.product(inputs)
        y = y if self.bias is None else ops.add(y, self.bias)
        return y if self.activation is None else self.activation(y)
