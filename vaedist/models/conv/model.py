"""The VAE with gated convolutions (van den Berg et al. 2018, section 6.1), see `FlowVAE`.

A gated layer computes a * sigmoid(b), where a and b are convolutions, or dense layers, with kernels of their own.
"""

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from vaedist.models.conv.options import ConvOptions
from vaedist.models.convolutions import Resize, convolution_of, over_images
from vaedist.models.flow_vae import FlowVAE
from vaedist.models.initializers import SeededInitializer
from vaedist.models.products import Dense, Product
from vaedist.models.seeds import derived_seeds

Sizes = Sequence[tuple[int, Resize]]  # output channels and resizing of each convolution

KERNEL = 5  # height and width of the kernels


class GatedConvolution(keras.layers.Layer):
    """A gated convolution: [..., H, W, inputs] -> [..., H', W', outputs].

    Args:
        inputs: number of input channels.
        outputs: number of output channels.
        resize: "half" for stride 2, "double" for the transposed convolution of stride 2; None keeps the size.
        seed: seed of the initial weights.
    """

    def __init__(self, inputs: int, outputs: int, resize: Resize = None, *, seed: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.inputs, self.outputs, self.seed = inputs, outputs, seed
        self.convolve = convolution_of(resize)

    def build(self, input_shape: Any = None) -> None:
        """Creates the kernel and the bias."""
        limit = math.sqrt(6 / (KERNEL * KERNEL * (self.inputs + self.outputs)))  # Glorot's
        initializer = keras.initializers.RandomUniform(-limit, limit, seed=self.seed)
        shape = (KERNEL, KERNEL, self.inputs, 2 * self.outputs)
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer=initializer)
        self.bias = self.add_weight(name="bias", shape=(2 * self.outputs,), initializer="zeros")
        self.built = True

    def call(self, x: Any) -> Any:
        """Returns the gated outputs, for any number of leading axes."""
        kernel = ops.convert_to_tensor(self.kernel)
        return over_images(lambda images: gated(self.convolve(images, kernel) + self.bias), x)


class Encoder(keras.layers.Layer):
    """Five gated convolutions, a gated dense layer and a linear one: [B, D] -> [B, outputs].

    Args:
        image_shape: (height, width, channels).
        width: channels at the image's resolution.
        hidden: units of the gated dense layer.
        outputs: number of outputs.
        seed: seed of the initial weights.
        out_initializer: returns the initializer of the last kernel for a seed.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        *,
        width: int,
        hidden: int,
        outputs: int,
        seed: int,
        out_initializer: SeededInitializer,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.image_shape, (first, second, last) = image_shape, derived_seeds(seed, 3)
        sizes: Sizes = ((width, None), (width, "half"), (2 * width, None), (2 * width, "half"), (2 * width, None))
        self.convolutions = _stack(image_shape[-1], sizes, first, self.dtype_policy)
        self.hidden = _dense(2 * hidden, second, "hidden", self.dtype_policy)
        self.out = Dense(outputs, kernel_initializer=out_initializer(last), name="out", dtype=self.dtype_policy)
        self.features = math.prod(_smallest(image_shape, 2 * width))

    def build(self, input_shape: Any) -> None:
        """Creates all weights."""
        for layer in self.convolutions:
            layer.build()
        self.hidden.build((None, self.features))
        self.out.build((None, self.hidden.units // 2))
        self.built = True

    @property
    def products(self) -> list[Product]:
        """Products of the dense layers."""
        return [self.hidden.product, self.out.product]

    def call(self, x: Any) -> Any:
        """Maps pixel values in [0, 1], [B, D], to [B, outputs]."""
        h = ops.reshape(x, (-1, *self.image_shape))
        for layer in self.convolutions:
            h = layer(h)
        return self.out(gated(self.hidden(ops.reshape(h, (-1, self.features)))))


class Decoder(keras.layers.Layer):
    """A gated dense layer, five gated convolutions and a 1x1 convolution: [..., latent] -> [..., H, W, outputs].

    Args:
        image_shape: (height, width, channels).
        latent: number of latents.
        width: channels at the image's resolution.
        outputs: number of output channels.
        seed: seed of the initial weights.
    """

    def __init__(
        self, image_shape: Sequence[int], *, latent: int, width: int, outputs: int, seed: int, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.latent, (first, second, last) = latent, derived_seeds(seed, 3)
        self.smallest = _smallest(image_shape, 2 * width)
        sizes: Sizes = ((2 * width, None), (width, "double"), (width, None), (width, "double"), (width, None))
        self.dense = _dense(2 * math.prod(self.smallest), first, "dense", self.dtype_policy)
        self.convolutions = _stack(2 * width, sizes, second, self.dtype_policy)
        self.out = _dense(outputs, last, "out", self.dtype_policy)

    def build(self, input_shape: Any) -> None:
        """Creates all weights."""
        self.dense.build((None, self.latent))
        for layer in self.convolutions:
            layer.build()
        self.out.build((None, self.convolutions[-1].outputs))
        self.built = True

    @property
    def products(self) -> list[Product]:
        """Product of the first layer."""
        return [self.dense.product]

    def call(self, z: Any) -> Any:
        """Maps latents [..., latent] to the channels of an image."""
        h = ops.reshape(gated(self.dense(z)), (*ops.shape(z)[:-1], *self.smallest))
        for layer in self.convolutions:
            h = layer(h)
        return self.out(h)


class ConvVAE(FlowVAE):
    """A VAE with gated convolutional encoder and decoder.

    The options are `ConvOptions`; see `LikelihoodModel` for the arguments.

    Raises:
        ValueError: the height or width of the images is not divisible by 4.
    """

    Options = ConvOptions

    def make_encoder(self, outputs: int, seed: int) -> Encoder:
        """Returns the encoder."""
        sizes = {"width": self.options.width, "hidden": self.options.hidden, "outputs": outputs}
        common = {"out_initializer": self.posterior_initializer, "name": "encoder", "dtype": self.dtype_policy}
        return Encoder(self.image_shape, **sizes, seed=seed, **common)

    def make_decoder(self, seed: int) -> Decoder:
        """Returns the decoder."""
        outputs = self.likelihood.outputs * self.image_shape[-1]
        sizes = {"latent": self.latent, "width": self.options.width, "outputs": outputs}
        return Decoder(self.image_shape, **sizes, seed=seed, name="decoder", dtype=self.dtype_policy)

    def raw(self, decoded: Any) -> Any:
        """Returns the raw parameters of the likelihood, [..., outputs * D], from the channels of an image."""
        return self.raw_of(decoded)

    @property
    def sample_bytes(self) -> int:
        """Bytes of the output of the decoder's last convolution for one sample."""
        height, width, _ = self.image_shape
        return max(super().sample_bytes, 4 * height * width * 2 * self.options.width)


def gated(values: Any) -> Any:
    """Returns a * sigmoid(b) for the halves a, b of the last axis."""
    a, b = ops.split(values, 2, axis=-1)
    return a * ops.sigmoid(b)


def _stack(channels: int, sizes: Sizes, seed: int, dtype: Any) -> list[GatedConvolution]:
    """Returns gated convolutions with these output channels and resizings, one after the other."""
    layers = []
    for number, ((outputs, resize), each) in enumerate(zip(sizes, derived_seeds(seed, len(sizes)), strict=True), 1):
        layers.append(GatedConvolution(channels, outputs, resize, seed=each, name=f"convolution_{number}", dtype=dtype))
        channels = outputs
    return layers


def _dense(units: int, seed: int, name: str, dtype: Any) -> Dense:
    return Dense(units, kernel_initializer=keras.initializers.GlorotUniform(seed), name=name, dtype=dtype)


def _smallest(image_shape: Sequence[int], channels: int) -> tuple[int, int, int]:
    """Returns the shape of the smallest feature maps."""
    return image_shape[0] // ConvOptions.factor, image_shape[1] // ConvOptions.factor, channels
