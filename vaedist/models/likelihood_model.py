"""Base class of the built-in models: options with a likelihood, and use on their own."""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import keras
from keras import ops

from vaedist.models.model import Model, Score
from vaedist.models.options import LikelihoodOptions, make_likelihood
from vaedist.models.preprocessing import Preprocessing


class LikelihoodModel(Model):
    """A model whose decoder computes the parameters of a `Likelihood`, with options that include the likelihood's name.

    It can be used on its own: `model(images)` scores uint8 images. A subclass creates its layers in `create_layers`,
    and their weights in `build`.

    Args:
        image_shape: (height, width, channels).
        options: options of the model; None uses the defaults.
        preprocessing: mapping of uint8 pixels to x; None uses that of the likelihood.
        seed: seed of the initial weights, which also depend on the dtype.

    Raises:
        ValueError: the model cannot process images of this shape, see `ModelOptions.check_shape`.
    """

    Options: ClassVar[type[LikelihoodOptions]]
    default_name: ClassVar[str]  # first part of the variables' paths

    def __init__(
        self,
        image_shape: Sequence[int],
        options: LikelihoodOptions | None = None,
        *,
        preprocessing: Preprocessing | None = None,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        self.options: Any = options or self.Options()
        self.options.check_shape(image_shape)
        preprocessing = preprocessing or self.options.preprocessing("none")
        kwargs = {"name": self.default_name, **kwargs}
        super().__init__(image_shape, preprocessing=preprocessing, seed=seed, **kwargs)
        self.pixels = math.prod(self.image_shape)
        self.likelihood = make_likelihood(self.options.likelihood)
        self.clips = self.likelihood.clips
        self.create_layers()
        self.build((None, *self.image_shape))

    @abstractmethod
    def create_layers(self) -> None:
        """Creates the layers of the model, which `build` then builds."""

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor, for `from_config`."""
        return super().get_config() | {"name": self.name}

    def call(self, images: Any, eps: Mapping[str, Any] | None = None, u: Any = None) -> Score:
        """Scores uint8 images with one sample of the latents per image.

        Args:
            images: uint8, [B, H, W, C].
            eps: standard normal noise by stream; None draws it.
            u: uniform noise [B, H, W, C], if `preprocessing` needs noise; 0.5 is the middle of its range.

        Raises:
            NoiseError: `preprocessing` needs noise, and `u` is None.
        """
        encoding = self.encode(images, u)
        if eps is None:
            rows = ops.shape(images)[0]
            eps = {
                name: keras.random.normal((rows, *shape), dtype=self.variable_dtype)
                for name, shape in self.noise.items()
            }
        return self.score(encoding, eps)

    def pixel_values(self, raw: Any, u: Any = None) -> Any:
        """Returns images in [0, 1], [B, H, W, C]: the mean E[x|z], or a sample of p(x|z) if `u` is given.

        Args:
            raw: parameters of the likelihood, [B, outputs * D].
            u: uniform noise shaped like the images, to sample pixels.
        """
        if u is None:
            pixels = self.likelihood.mean(raw)
        else:
            pixels = self.likelihood.sample(raw, ops.reshape(u, (-1, self.pixels)))
        return ops.reshape(pixels, (-1, *self.image_shape))

    def raw_of(self, parameters: Any) -> Any:
        """Returns raw parameters, [..., outputs * D], from the channels of an image, [..., H, W, outputs * C]."""
        leading, parts = ops.shape(parameters)[:-3], ops.split(parameters, self.likelihood.outputs, axis=-1)
        return ops.concatenate([ops.reshape(part, (*leading, self.pixels)) for part in parts], axis=-1)
