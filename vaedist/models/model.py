"""The interface of models, which is all that training, evaluation, sampling and checks use of them."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import keras
from keras import ops
from keras.src.utils import naming  # the public keras.utils.clear_session resets far more than layer numbers

from vaedist.config import ModelOptions
from vaedist.errors import ModelError
from vaedist.models.build import layers_of
from vaedist.models.flows.flow import FlowCase
from vaedist.models.likelihoods import Likelihood
from vaedist.models.preprocessing import BINARIZE, Preprocessing
from vaedist.models.products import Product


class Score(NamedTuple):
    """Log-likelihood and KL divergence of a mini-batch, at one or K samples of the latents per image.

    The shape S is [B] for one sample per image and [B, K] for K samples.

    Attributes:
        log_px: log p(x|z), S, in nats.
        kl: log q(z|x) - log p(z) of the sample by stochastic layer, S + [groups], in nats. Free bits apply to groups,
            such as units or channels; S + [1] if only the total is known. The sum over layers and groups is an estimate
            of KL(q(z|x) || p(z)).
        latents: sample of z by stochastic layer, S + shape; the layers are in the order in which the prior draws them,
            from the top.
        metrics: further values by name, S, whose means over images are logged.
    """

    log_px: Any
    kl: dict[str, Any]
    latents: dict[str, Any]
    metrics: dict[str, Any] = {}  # noqa: RUF012 - never changed


class Model(keras.Model, ABC):
    """A variational autoencoder that vaedist can train.

    A subclass creates its weights in the constructor and takes all randomness from its arguments: `eps` holds
    standard normal noise by stream, [B, *noise[stream]], and `u` uniform noise in (0, 1), shaped like the images.
    The caller draws both, keyed by the row of an image, so that results do not depend on the number of devices.

    Every subclass is registered with Keras: `model.save` writes the options with the weights, and
    `keras.models.load_model` restores the model once its class has been imported.

    Args:
        image_shape: (height, width, channels).
        preprocessing: mapping of uint8 pixels to the x that is encoded and scored.
        seed: seed of the initial weights.

    Attributes:
        Options: class of the options.
        noise: shape of the standard normal noise of one image, by stream, such as {"z": (64,)}.
        broadcasts: True if `score` supports K samples per image: noise [B, K, ...] with an encoding whose tensors are
            [B, 1, ...]. If False, K samples are scored as K copies of the image.
        clips: True if p(x|z) has mass outside [0, 1], and decoded pixel values are clipped to it.
        initial_rows: number of training images that `initialise` needs; 0 if the model does not define it.
    """

    Options: ClassVar[type[ModelOptions]]
    noise: Mapping[str, tuple[int, ...]]
    broadcasts: bool = False
    clips: bool = False
    initial_rows: int = 0

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Registers a subclass with Keras, under the names of its module and its own."""
        super().__init_subclass__(**kwargs)
        keras.saving.register_keras_serializable(cls.__module__)(cls)

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Keeps the options among the arguments of the constructor, for `get_config`."""
        made: Self = super().__new__(cls, *args, **kwargs)
        made._given = next((each for each in (*args, *kwargs.values()) if isinstance(each, ModelOptions)), None)
        return made

    def __init__(
        self, image_shape: Sequence[int], *, preprocessing: Preprocessing, seed: int = 0, **kwargs: Any
    ) -> None:
        # Keras numbers unnamed layers per process; after a reset, every instance has the same variable paths.
        naming.reset_uids()
        super().__init__(**kwargs)
        height, width, channels = image_shape
        self.image_shape = (int(height), int(width), int(channels))
        self.preprocessing, self.seed = preprocessing, seed
        self.built = True  # a subclass creates its weights in the constructor

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor as JSON values, for `from_config`.

        Raises:
            ModelError: the options do not make the model's preprocessing for any `data.binarize`.
        """
        options, kind = self._given or type(self).Options(), type(self.preprocessing)
        binarize = next((name for name, each in BINARIZE.items() if type(each) is kind), "none")
        if type(options.preprocessing(binarize)) is not kind:
            raise ModelError(
                f"model {type(self).__name__} cannot be saved: its options do not make its preprocessing, "
                f"{kind.__qualname__}, for any data.binarize"
            )
        return {
            "image_shape": list(self.image_shape),
            "options": options.model_dump(mode="json"),
            "binarize": binarize,
            "seed": self.seed,
            "dtype": self.dtype_policy.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Returns a model with the arguments that `get_config` returned, and with initial weights."""
        config = dict(config)
        options = cls.Options.model_validate(config.pop("options"))
        preprocessing = options.preprocessing(config.pop("binarize"))
        with layers_of(config["dtype"]):
            # a subclass has the options as its second argument
            return cls(config.pop("image_shape"), options, preprocessing=preprocessing, **config)  # type: ignore[misc,arg-type]

    @abstractmethod
    def encode(self, images: Any, u: Any = None, *, training: bool = False) -> Any:
        """Returns all that the posterior and the likelihood need from images, as a nest of tensors [B, ...].

        Args:
            images: uint8, [B, H, W, C].
            u: uniform noise shaped like the images, if `preprocessing` needs noise.
            training: True in a training step, for layers that behave differently there.
        """

    @abstractmethod
    def score(self, encoding: Any, eps: Mapping[str, Any], *, training: bool = False) -> Score:
        """Samples q(z|x) with the given noise, and returns the sample with its log p(x|z) and KL divergence.

        Args:
            encoding: result of `encode`.
            eps: standard normal noise by stream.
            training: as in `encode`.
        """

    @abstractmethod
    def decode(self, latents: Mapping[str, Any], u: Any = None) -> Any:
        """Returns images in [0, 1], [B, H, W, C]: the mean E[x|z], or a sample of p(x|z) if `u` is given.

        Args:
            latents: latents by stochastic layer, as in `Score.latents`.
            u: uniform noise shaped like the images, to sample pixels.
        """

    def observe(self, images: Any, u: Any = None) -> Any:
        """Returns the x that is encoded and scored, [B, H, W, C], in [0, 1], in the dtype of the weights.

        Args:
            images: uint8, [B, H, W, C].
            u: uniform noise shaped like the images, if `preprocessing` needs noise.

        Raises:
            NoiseError: `preprocessing` needs noise, and `u` is None.
        """
        return ops.cast(self.preprocessing(images, u), self.variable_dtype)

    def generate(
        self,
        eps: Mapping[str, Any],
        u: Any = None,
        temperature: float = 1.0,
        given: Mapping[str, Any] | None = None,
    ) -> Any:
        """Returns new images in [0, 1], [B, H, W, C], decoded from samples of the prior.

        The default is the prior N(0, I) of all layers, for models whose `noise` has the shapes of the latents.

        Args:
            eps: standard normal noise by stream.
            u: as in `decode`.
            temperature: factor on the prior's standard deviation.
            given: latents of some layers, by name as in `Score.latents`; only the other layers are sampled, given
                those. Pictures by layer need this of models of several layers.
        """
        return self.decode({name: temperature * values for name, values in eps.items()} | dict(given or {}), u)

    def initialise(self, images: Any, eps: Mapping[str, Any], u: Any = None) -> None:
        """Sets weights from a batch of training images, once before the first update (data-dependent initialisation).

        It is called eagerly if `initial_rows` is positive, and must be deterministic. The default does nothing.

        Args:
            images: uint8, [initial_rows, H, W, C], or all training images if there are fewer.
            eps: standard normal noise by stream.
            u: uniform noise shaped like the images, if `preprocessing` needs noise.
        """

    def posterior_mean(self, encoding: Any) -> dict[str, Any] | None:
        """Returns E[z|x] by stochastic layer, [B, ...], or None if it is not known exactly."""
        return None

    def posterior_base(self, encoding: Any) -> dict[str, tuple[Any, Any]] | None:
        """Returns the base distribution of the posterior by stochastic layer, or None, the default.

        It is the diagonal normal distribution N(mean, exp(log_sigma)^2) of z_0: of the latents themselves, or if the
        posterior has a flow, of the flow's input. It must depend on the image alone. In a hierarchical model whose
        posteriors depend on the latents above, most layers have no such distribution.

        Args:
            encoding: result of `encode`.

        Returns:
            Mean and log_sigma by layer, each [B, ...] in the shape of the layer's latents; None if there is none.
        """
        return None

    @property
    def levels(self) -> int | None:
        """Number of bins for bits per dimension, see `Preprocessing`; None if bits per dimension are undefined."""
        return self.preprocessing.levels

    @property
    def sample_bytes(self) -> int:
        """Bytes per sample of the largest tensor in `score`, from which evaluation computes the size of its blocks.

        The default is two float32 numbers per pixel value.
        """
        return 8 * math.prod(self.image_shape)

    @property
    def products(self) -> Sequence[Product]:
        """Products with kernels whose gradients can be computed as `Factors`; empty by default.

        `encode` and `score` together must apply each of them exactly once.
        """
        return ()

    def flow_cases(self, images: Any, eps: Mapping[str, Any], u: Any = None) -> Sequence[FlowCase]:
        """Returns the model's flows with their inputs for the given images, for `vaedist check`."""
        return ()

    def pixel_distribution(self, latents: Mapping[str, Any]) -> tuple[Likelihood, Any] | None:
        """Returns a likelihood and its raw parameters at the given latents, [B, outputs * D], for `vaedist check`.

        Returns None if the model's likelihood is not factorised over pixel values.
        """
        return None
