"""The interface of models: all that training, evaluation, sampling and checks know of them."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras
from keras import ops
from keras.src.utils import naming  # the public keras.utils.clear_session resets far more than layer numbers

from vaedist.models.flows.flow import FlowCase
from vaedist.models.likelihoods import Likelihood
from vaedist.models.preprocessing import Preprocessing
from vaedist.models.products import Product


class Score(NamedTuple):
    """Log-likelihood and KL divergence of a mini-batch, at one sample of the latents per image or at K of them.

    S is [B] for one sample of each image and [B, K] for K samples.

    Attributes:
        log_px: log p(x|z), S, in nats.
        kl: the sample's log q(z|x) - log p(z) by stochastic layer, S + [groups], in nats. Groups are what free bits
            apply to, such as units or channels; [..., 1] where only a total is known. The sum over layers and groups
            estimates KL(q(z|x) || p(z)).
        latents: the sample of z by stochastic layer, S + shape.
        metrics: further values, S, which are logged as means over images under these names.
    """

    log_px: Any
    kl: dict[str, Any]
    latents: dict[str, Any]
    metrics: dict[str, Any] = {}  # noqa: RUF012 - never changed


class Model(keras.Model, ABC):
    """A variational autoencoder that vaedist can train.

    A subclass makes its weights in the constructor, and takes all randomness from its arguments: `eps` holds
    standard normal noise by stream, [B, *noise[stream]], and `u` uniform noise in (0, 1), shaped like the images.
    Both are drawn outside, keyed by the row of an image, so that results do not depend on the number of devices.

    Args:
        image_shape: (height, width, channels).
        preprocessing: how uint8 pixels become the x that is encoded and scored.
        seed: key of the initial weights.

    Attributes:
        noise: shape of one image's standard normal noise, by stream, such as {"z": (64,)}.
        broadcasts: whether `score` takes K samples of each image at once: noise [B, K, ...] with an encoding whose
            tensors are [B, 1, ...]. Otherwise K samples are scored as K copies of the image.
        clips: whether decoded pixel values are cut off at 0 and 1, outside of which p(x|z) has mass.
    """

    noise: Mapping[str, tuple[int, ...]]
    broadcasts: bool = False
    clips: bool = False

    def __init__(
        self, image_shape: Sequence[int], *, preprocessing: Preprocessing, seed: int = 0, **kwargs: Any
    ) -> None:
        # Keras numbers unnamed layers per process; after a reset, every instance has the same variable paths.
        naming.reset_uids()
        super().__init__(**kwargs)
        height, width, channels = image_shape
        self.image_shape = (int(height), int(width), int(channels))
        self.preprocessing, self.seed = preprocessing, seed

    @abstractmethod
    def encode(self, images: Any, u: Any = None, *, training: bool = False) -> Any:
        """Returns all that the posterior and the likelihood need of some images, as a nest of tensors [B, ...].

        Args:
            images: uint8, [B, H, W, C].
            u: uniform noise shaped like the images where `preprocessing` takes any.
            training: whether this is a training step, for layers that tell the two apart.
        """

    @abstractmethod
    def score(self, encoding: Any, eps: Mapping[str, Any], *, training: bool = False) -> Score:
        """Returns the sample of q(z|x) that the noise gives, with its log p(x|z) and KL divergence.

        Args:
            encoding: as `encode` returned it.
            eps: standard normal noise by stream.
            training: as for `encode`.
        """

    @abstractmethod
    def decode(self, latents: Mapping[str, Any], u: Any = None) -> Any:
        """Returns images in [0, 1], [B, H, W, C]: the mean E[x|z], or drawn from p(x|z) where `u` is given.

        Args:
            latents: by stochastic layer, as `score` gives them.
            u: uniform noise shaped like the images, for drawing pixels.
        """

    def observe(self, images: Any, u: Any = None) -> Any:
        """Returns the x that is encoded and scored, [B, H, W, C] in [0, 1], in the model's type of numbers.

        Args:
            images: uint8, [B, H, W, C].
            u: uniform noise shaped like the images where `preprocessing` takes any.

        Raises:
            NoiseError: the pixels are seen through noise, and none is given.
        """
        return ops.cast(self.preprocessing(images, u), self.compute_dtype)

    def generate(self, eps: Mapping[str, Any], u: Any = None, temperature: float = 1.0) -> Any:
        """Returns new images in [0, 1], [B, H, W, C], from latents drawn from the prior.

        The prior is N(0, I), unless a subclass says otherwise, and `noise` has the shapes of the latents.

        Args:
            eps: standard normal noise by stream.
            u: as for `decode`.
            temperature: factor on the prior's standard deviation.
        """
        return self.decode({name: temperature * values for name, values in eps.items()}, u)

    def posterior_mean(self, encoding: Any) -> dict[str, Any] | None:
        """Returns E[z|x] by stochastic layer, [B, ...], where it is known exactly; None where it is not."""
        return None

    @property
    def levels(self) -> int | None:
        """Bins that bits per dimension need, see `Preprocessing`; None where there are no bits per dimension."""
        return self.preprocessing.levels

    @property
    def sample_bytes(self) -> int:
        """Memory that scoring one sample of one image takes in its largest tensor, by which evaluation sizes blocks.

        Two float32 numbers a pixel value, unless a subclass knows better.
        """
        return 8 * math.prod(self.image_shape)

    @property
    def products(self) -> Sequence[Product]:
        """Products with kernels whose gradients may be taken as `Factors`; none unless a subclass declares them.

        Each must be applied once in `encode` and `score` together.
        """
        return ()

    def flow_cases(self, images: Any, eps: Mapping[str, Any], u: Any = None) -> Sequence[FlowCase]:
        """Returns the model's flows at the inputs that some images give, to be proven by `vaedist check`."""
        return ()

    def pixel_distribution(self, latents: Mapping[str, Any]) -> tuple[Likelihood, Any] | None:
        """Returns a likelihood and its raw parameters at given latents, [B, outputs * D], to be proven to sum to 1.

        None where the model has no likelihood that is factorised over pixel values.
        """
        return None
