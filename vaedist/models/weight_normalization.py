"""Weight-normalised convolutions (Salimans and Kingma 2016), with data-dependent initialisation."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import keras
import numpy as np
from keras import ops

from vaedist.models.convolutions import Padding, Resize, convolution_of, over_images
from vaedist.models.products import boolean_tensor

DIRECTION_DEVIATION = 0.05  # standard deviation of the initial directions V
CONSTANT = 1e-6  # outputs with a smaller standard deviation do not depend on the data

_INITIALISING: ContextVar[bool] = ContextVar("initialising", default=False)


@contextmanager
def data_dependent_initialisation() -> Iterator[None]:
    """Makes every `Convolution` that is called eagerly in this context set its scales and biases from its input."""
    token = _INITIALISING.set(True)
    try:
        yield
    finally:
        _INITIALISING.reset(token)


class Convolution(keras.layers.Layer):
    """A weight-normalised convolution, y = conv(x, e^g V / |V|) + b: [..., H, W, inputs] -> [..., H', W', outputs].

    |V| is the norm over all weights of an output channel. In `data_dependent_initialisation`, a call first sets g and b
    so that each channel of y has mean 0 and standard deviation `deviation` over all images and positions. The scale of
    a channel that is constant does not change.

    Args:
        inputs: number of input channels.
        outputs: number of output channels.
        size: height and width of the kernel.
        resize: "half" for stride 2, "double" for the transposed convolution of stride 2; None keeps the size.
        padding: zeros around x if the size is kept; None is SAME.
        mask: False for weights that are left out, [height, width, inputs, outputs].
        deviation: standard deviation of the outputs after data-dependent initialisation.
        seed: seed of V.
    """

    def __init__(
        self, inputs: int, outputs: int, size: tuple[int, int] = (3, 3), *,
        resize: Resize = None, padding: Padding | None = None,
        mask: np.ndarray | None = None, deviation: float = 0.1, seed: int, **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(**kwargs)
        self.shape, self.mask, self.deviation, self.seed = (*size, inputs, outputs), mask, deviation, seed
        self.convolve = convolution_of(resize, padding)

    def build(self, input_shape: Any = None) -> None:
        """Creates V, g and b."""
        initializer = keras.initializers.RandomNormal(stddev=DIRECTION_DEVIATION, seed=self.seed)
        exact = {"autocast": False}  # norms are computed in the dtype of the weights, in mixed precision, too
        self.direction = self.add_weight(name="direction", shape=self.shape, initializer=initializer, **exact)
        self.log_scale = self.add_weight(name="log_scale", shape=self.shape[-1:], initializer="zeros", **exact)
        self.bias = self.add_weight(name="bias", shape=self.shape[-1:], initializer="zeros")
        self.built = True

    def call(self, x: Any) -> Any:
        """Returns y, for any number of leading axes."""
        return over_images(self._apply, x)

    def _apply(self, images: Any) -> Any:
        if _INITIALISING.get():
            self._initialise(images)
        kernel = ops.exp(self.log_scale) * self._unit_kernel()
        return self.convolve(images, ops.cast(kernel, images.dtype)) + self.bias

    def _unit_kernel(self) -> Any:
        """Returns V / |V|, with masked weights at 0."""
        v = ops.convert_to_tensor(self.direction)
        if self.mask is not None:
            v = ops.where(boolean_tensor(self.mask), v, 0.0)
        return v * ops.rsqrt(ops.maximum(ops.sum(ops.square(v), axis=(0, 1, 2)), 1e-24))

    def _initialise(self, images: Any) -> None:
        y = self.convolve(ops.cast(images, self.variable_dtype), self._unit_kernel())
        mean, deviation = ops.mean(y, axis=(0, 1, 2)), ops.std(y, axis=(0, 1, 2))
        varies = deviation > CONSTANT
        scale = ops.where(varies, self.deviation / ops.where(varies, deviation, 1.0), 1.0)
        self.log_scale.assign(ops.log(scale))
        self.bias.assign(-mean * scale)
