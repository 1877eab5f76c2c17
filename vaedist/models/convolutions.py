"""Convolutions of images whose gradients XLA compiles to fast code, on CPUs, too.

For the gradients that automatic differentiation makes of convolutions, XLA's CPU compiler generates slow code, and
inside loops very slow code. On CPUs, the gradient of the input is therefore a convolution with the flipped kernel, and
inside loops the gradient of the kernel is a product x^T dy for each of its taps. A convolution of stride 2 is one of
stride 1 over blocks of 2x2 pixels, and a transposed convolution of stride 2 produces such blocks. On GPUs, all
convolutions and gradients are TensorFlow's own.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

import keras
import tensorflow as tf

Padding = tuple[tuple[int, int], tuple[int, int]]  # rows above and below, columns to the left and to the right
Resize = Literal["half", "double"] | None  # stride 2, transposed with stride 2, or the same size

_IN_LOOP: ContextVar[bool] = ContextVar("in_loop", default=False)


@contextmanager
def in_loop() -> Iterator[None]:
    """Declares that convolutions which are traced in this context belong to the body of a loop."""
    token = _IN_LOOP.set(True)
    try:
        yield
    finally:
        _IN_LOOP.reset(token)


def convolve(x: Any, kernel: Any, padding: Padding | None = None) -> Any:
    """Returns the convolution of stride 1, [B, H', W', out].

    Args:
        x: [B, H, W, in].
        kernel: [h, w, in, out].
        padding: zeros around x; None keeps the size, as SAME does.
    """
    if padding is None:
        above, before = ((size - 1) // 2 for size in kernel.shape[:2])
        padding = (above, kernel.shape[0] - 1 - above), (before, kernel.shape[1] - 1 - before)
    return _plain(x, kernel, padding) if _on_gpus() else _convolve(x, kernel, padding)


def convolve_half(x: Any, kernel: Any) -> Any:
    """Returns the convolution of stride 2 with SAME padding, [B, H/2, W/2, out].

    Args:
        x: [B, H, W, in], H and W even.
        kernel: [k, k, in, out], k odd.
    """
    if _on_gpus():
        return tf.nn.conv2d(x, kernel, 2, "SAME")
    blocks, padding = _over_blocks(kernel)
    return _convolve(tf.nn.space_to_depth(x, 2), blocks, (padding, padding))


def transposed_double(x: Any, kernel: Any) -> Any:
    """Returns the transposed convolution of stride 2, [B, 2 H, 2 W, out], the adjoint of `convolve_half`.

    Args:
        x: [B, H, W, in].
        kernel: [k, k, in, out], k odd.
    """
    swapped = tf.transpose(kernel, (0, 1, 3, 2))
    if _on_gpus():
        shape = [tf.shape(x)[0], 2 * x.shape[1], 2 * x.shape[2], kernel.shape[3]]
        return tf.nn.conv2d_transpose(x, swapped, shape, 2, "SAME")
    blocks, (before, after) = _over_blocks(swapped)  # [m, m, 4 out, in]
    padding = (after, before)
    return tf.nn.depth_to_space(_convolve(x, _flipped(blocks), (padding, padding)), 2)


def convolution_of(resize: Resize, padding: Padding | None = None) -> Callable[[Any, Any], Any]:
    """Returns the convolution of images and a kernel that changes the size so; `padding` if it keeps the size."""
    if resize is None:
        return lambda x, kernel: convolve(x, kernel, padding)
    return convolve_half if resize == "half" else transposed_double


def over_images(function: Callable[[Any], Any], x: Any) -> Any:
    """Returns function(images) for images [..., H, W, C] with any number of leading axes, which the result keeps.

    Args:
        function: maps [B, H, W, C] to [B, H', W', C'].
        x: the images.
    """
    y = function(tf.reshape(x, (-1, *x.shape[-3:])))
    return tf.reshape(y, (*keras.ops.shape(x)[:-3], *y.shape[1:]))


def _over_blocks(kernel: Any) -> tuple[Any, tuple[int, int]]:
    """Returns the kernel over blocks of 2x2 pixels of a convolution of stride 2 over pixels.

    For even sizes, SAME padding puts max(0, k - 2) // 2 zeros before the image, so that output i reads the k pixels
    from 2 i - (k - 2) // 2 on.

    Returns:
        The kernel, [m, m, 4 in, out], with inputs in the order of `space_to_depth`, and the numbers of blocks of zeros
        before and after the image.
    """
    size, _, inputs, outputs = kernel.shape
    first = max(0, size - 2) // 2  # pixels before 2 i
    before = -(-first // 2)  # blocks before block i
    lead = 2 * before - first
    blocks = -(-(lead + size) // 2)
    tail = 2 * blocks - lead - size
    padded = tf.pad(kernel, ((lead, tail), (lead, tail), (0, 0), (0, 0)))
    parts = tf.reshape(padded, (blocks, 2, blocks, 2, inputs, outputs))
    arranged = tf.reshape(tf.transpose(parts, (0, 2, 1, 3, 4, 5)), (blocks, blocks, 4 * inputs, outputs))
    return arranged, (before, blocks - 1 - before)


def _convolve(x: Any, kernel: Any, padding: Padding) -> Any:
    """Returns the convolution of stride 1 with the gradients above."""
    kernel_gradient = _products if _IN_LOOP.get() else _backprop_filter

    @tf.custom_gradient
    def convolution(x: Any, kernel: Any) -> Any:
        def gradient(dy: Any) -> tuple[Any, Any]:
            return _input_gradient(dy, kernel, padding), kernel_gradient(x, dy, kernel.shape, padding)

        return _plain(x, kernel, padding), gradient

    return convolution(
        tf.convert_to_tensor(x), tf.convert_to_tensor(kernel)
    )  # no variables: each has its gradient here


def _plain(x: Any, kernel: Any, padding: Padding) -> Any:
    return tf.nn.conv2d(x, kernel, 1, [[0, 0], *map(list, padding), [0, 0]])


def _backprop_filter(x: Any, dy: Any, shape: Any, padding: Padding) -> Any:
    """Returns the gradient of the kernel by TensorFlow's operation."""
    return tf.raw_ops.Conv2DBackpropFilter(
        input=x, filter_sizes=shape, out_backprop=dy, strides=[1] * 4, padding="EXPLICIT",
        explicit_paddings=[0, 0, *padding[0], *padding[1], 0, 0],
    )  # fmt: skip


def _input_gradient(dy: Any, kernel: Any, padding: Padding) -> Any:
    height, width = kernel.shape[:2]
    (above, below), (before, after) = padding
    around = (height - 1 - above, height - 1 - below), (width - 1 - before, width - 1 - after)
    return _plain(dy, _flipped(kernel), around)


def _products(x: Any, dy: Any, shape: Any, padding: Padding) -> Any:
    """Returns x^T dy for each tap, with the pixels of x that the tap reads, [h, w, in, out]."""
    height, width, inputs, outputs = shape
    rows, columns = dy.shape[1], dy.shape[2]
    padded = tf.pad(x, [[0, 0], *map(list, padding), [0, 0]])
    flat = tf.reshape(dy, (-1, outputs))
    taps = [
        tf.matmul(tf.reshape(padded[:, i : i + rows, j : j + columns], (-1, inputs)), flat, transpose_a=True)
        for i in range(height)
        for j in range(width)
    ]
    return tf.reshape(tf.stack(taps), shape)


def _flipped(kernel: Any) -> Any:
    """Returns a kernel with its taps in reverse, and its inputs and outputs exchanged."""
    return tf.transpose(tf.reverse(kernel, (0, 1)), (0, 1, 3, 2))


def _on_gpus() -> bool:
    return bool(tf.config.list_logical_devices("GPU"))
