"""A VAE with MLP encoder and decoder and an inverse autoregressive flow posterior.

    x -> encoder -> mu, log_sigma, h; z_0 = mu + sigma * eps; z_T = flow(z_0; h); z_T -> decoder -> p(x|z_T)

The prior is N(0, I) on z_T, so a new image is decode(z) with z ~ N(0, I): no flow at generation.
"""

import math
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from vaedist.models.densities import log_standard_normal
from vaedist.models.flows.inverse_autoregressive import InverseAutoregressiveFlow
from vaedist.models.likelihoods import LIKELIHOODS, preprocessing_of
from vaedist.models.products import Dense, Product


class Encoding(NamedTuple):
    """Parameters of q(z_0|x), each [B, latent], and the flow's context.

    sigma is a standard deviation. h is [B, latent], or [B, 0] where the flow takes no context.
    """

    mu: Any
    log_sigma: Any
    h: Any


class Posterior(NamedTuple):
    """A sample of q(z|x) and what it took.

    z: z_T, [..., latent].
    log_q: what each unit adds to log q(z|x), [..., latent], in nats; their sum over the latents is the
        log-density.
    log_scales: of each flow step, see `FlowOutput`.
    encoding: as it came from the encoder.
    """

    z: Any
    log_q: Any
    log_scales: tuple[Any, ...]
    encoding: Encoding


class VAEOutput(NamedTuple):
    """log p(x|z), [B] or [B, K], in nats, at the sample `posterior.z`."""

    log_px: Any
    posterior: Posterior


class MLP(keras.layers.Layer):
    """One tanh hidden layer and a linear output: [..., inputs] -> [..., outputs]."""

    def __init__(self, inputs: int, hidden: int, outputs: int, *, seed: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.inputs = inputs
        first, second = (
            keras.initializers.GlorotUniform(int(s)) for s in np.random.SeedSequence(seed).generate_state(2)
        )
        dtype = self.dtype_policy
        self.hidden = Dense(hidden, activation="tanh", kernel_initializer=first, name="hidden", dtype=dtype)
        self.out = Dense(outputs, kernel_initializer=second, name="out", dtype=dtype)

    def build(self, input_shape: Any) -> None:
        """Make the weights of both layers."""
        self.hidden.build((None, self.inputs))
        self.out.build((None, self.hidden.units))

    @property
    def products(self) -> list[Product]:
        """Those of both layers."""
        return [self.hidden.product, self.out.product]

    def call(self, x: Any) -> Any:
        """[..., inputs] -> [..., outputs]."""
        return self.out(self.hidden(x))


@keras.saving.register_keras_serializable("vaedist")
class VAE(keras.Model):
    """The model, usable by itself: `VAE((32, 32, 3))(images)` scores a batch of uint8 images.

    Args:
        image_shape: (height, width, channels).
        hidden: units of the hidden layer of encoder and decoder.
        latent: number of latents.
        likelihood: a key of `LIKELIHOODS`.
        binarize: "none", or "threshold", "dynamic" or "fixed" to see pixels as 0 or 1; for the likelihood "bernoulli".
        flow_depth: number of flow steps; 0 is the plain VAE.
        flow_width, flow_layers: hidden layers of each step's autoregressive network.
        flow_transform: what a step does, "gated", "affine" or "location"; see `transforms`.
        flow_context: whether the encoder gives the flow a context h beside z_0.
        gate_bias: added to the gate's logits of gated steps.
        seed: of the initial weights; the same seed gives the same weights in the same dtype, and others in another.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        hidden: int = 500,
        latent: int = 500,
        likelihood: str = "bernoulli",
        binarize: str = "none",
        flow_depth: int = 3,
        flow_width: int = 500,
        flow_layers: int = 1,
        flow_transform: str = "gated",
        flow_context: bool = True,
        gate_bias: float = 2.0,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("name", "vae")
        super().__init__(**kwargs)
        self._arguments = {
            "image_shape": tuple(image_shape), "hidden": hidden, "latent": latent, "likelihood": likelihood,
            "binarize": binarize, "flow_depth": flow_depth, "flow_width": flow_width, "flow_layers": flow_layers,
            "flow_transform": flow_transform, "flow_context": flow_context, "gate_bias": gate_bias, "seed": seed,
        }  # fmt: skip
        height, width, channels = image_shape
        self.image_shape, self.latent, self.pixels = (height, width, channels), latent, math.prod(image_shape)
        self.likelihood = LIKELIHOODS[likelihood]
        self.observation = preprocessing_of(likelihood, binarize)
        encoder, flow, decoder = (int(s) for s in np.random.SeedSequence(seed).generate_state(3))
        dtype, outputs = self.dtype_policy, self.likelihood.outputs * self.pixels
        self.context = latent if flow_context and flow_depth else 0
        self.encoder = MLP(self.pixels, hidden, 2 * latent + self.context, seed=encoder, name="encoder", dtype=dtype)
        self.flow = InverseAutoregressiveFlow(
            latent,
            flow_depth,
            flow_width,
            flow_layers,
            context=self.context,
            transform=flow_transform,
            gate_bias=gate_bias,
            seed=flow,
            name="flow",
            dtype=dtype,
        )
        self.decoder = MLP(latent, hidden, outputs, seed=decoder, name="decoder", dtype=dtype)
        self.build((None, *self.image_shape))

    @property
    def noisy(self) -> bool:
        """Whether `observe` is to be given noise."""
        return self.observation.noisy

    @property
    def levels(self) -> int | None:
        """What bits/dim need to know of the pixels, see `Observation`; None where there are no bits/dim."""
        return self.observation.levels

    @property
    def products(self) -> list[Product]:
        """All products with kernels."""
        return [*self.encoder.products, *self.flow.products, *self.decoder.products]

    def build(self, input_shape: Any) -> None:
        """Make every weight, so that they exist before the first call."""
        self.encoder.build((None, self.pixels))
        self.flow.build((None, self.latent))
        self.decoder.build((None, self.latent))
        self.built = True

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, from which `from_config` makes the model again."""
        return {**self._arguments, "name": self.name, "dtype": self.dtype_policy.name}

    def observe(self, images: Any, noise: Any = None) -> Any:
        """uint8 images [B, H, W, C] -> x [B, D] in [0, 1], with uniform noise [B, D] where the model is `noisy`.

        Raises:
            NoiseError: the model is `noisy`, and no noise is given.
        """
        x = self.observation(ops.reshape(images, (-1, self.pixels)), noise)
        return ops.cast(x, self.compute_dtype)

    def encode(self, x: Any) -> Encoding:
        """X [B, D] -> mu and log_sigma, each [B, latent], and the context h, [B, latent or 0]."""
        return Encoding(*ops.split(self.encoder(x), [self.latent, 2 * self.latent], axis=-1))

    def sample_posterior(self, encoding: Encoding, eps: Any) -> Posterior:
        """z_T from q(z|x) at the noise eps ~ N(0, I), [B, latent].

        Several samples of an image, eps [B, K, latent], may share its encoding, [B, 1, latent].

        log_q = log N(eps; 0, I) - sum log sigma - sum of steps' log_det (Kingma et al. 2016, equation 11).
        """
        mu, log_sigma, h = encoding
        units = log_standard_normal(eps) - log_sigma
        flow = self.flow(mu + ops.exp(log_sigma) * eps, h)
        return Posterior(flow.z, units - flow.log_det, flow.log_scales, encoding)

    def posterior_mean(self, encoding: Encoding) -> Any:
        """E_q[z|x], [B, latent], where it is known: mu, without a flow; else None."""
        return None if self.flow.networks else encoding.mu

    def decode(self, z: Any) -> Any:
        """Z [B, latent] -> the mean image E[x|z], [B, H, W, C], in [0, 1]."""
        return ops.reshape(self.likelihood.mean(self.decoder(z)), (-1, *self.image_shape))

    def sample_pixels(self, z: Any, uniform: Any) -> Any:
        """Z [B, latent] and uniform noise [B, D] -> an image drawn from p(x|z), [B, H, W, C], in [0, 1]."""
        return ops.reshape(self.likelihood.sample(self.decoder(z), uniform), (-1, *self.image_shape))

    def call(self, images: Any, eps: Any = None, noise: Any = None) -> VAEOutput:
        """Score uint8 images with one sample of z each.

        Args:
            images: [B, H, W, C], uint8.
            eps: standard normal noise [B, latent]; drawn when not given.
            noise: uniform noise [B, D] where the model is `noisy`, or 0.5 to see pixels at its middle.

        Raises:
            NoiseError: the model is `noisy`, and no noise is given.
        """
        x = self.observe(images, noise)
        encoding = self.encode(x)
        if eps is None:
            eps = keras.random.normal(ops.shape(encoding.mu), dtype=self.compute_dtype)
        return self.score(x, encoding, eps)

    def score(self, x: Any, encoding: Encoding, eps: Any) -> VAEOutput:
        """Take the sample of z that the noise eps gives, and score x [B, D], which is encoded already.

        Several samples of an image, eps [B, K, latent], may share its x, [B, 1, D], and its encoding, [B, 1, latent].
        """
        posterior = self.sample_posterior(encoding, eps)
        return VAEOutput(self.likelihood.log_prob(self.decoder(posterior.z), x), posterior)
