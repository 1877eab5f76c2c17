"""A VAE with MLP encoder and decoder and a flow posterior.

    x -> encoder -> mu, log_sigma, h; z_0 = mu + sigma * eps; z_T = flow(z_0; h); z_T -> decoder -> p(x|z_T)

The prior is N(0, I) on z_T, so a new image is decode(z) with z ~ N(0, I); generation does not use the flow.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from vaedist.models.densities import log_standard_normal
from vaedist.models.flows.build import make_flow
from vaedist.models.flows.flow import FlowCase
from vaedist.models.likelihoods import Likelihood
from vaedist.models.mlp.options import MLPOptions
from vaedist.models.model import Model, Score
from vaedist.models.options import make_likelihood
from vaedist.models.preprocessing import BINARIZE, Preprocessing
from vaedist.models.products import Dense, Product
from vaedist.models.reparameterization import sample_normal

Z = "z"  # name of the stochastic layer and of its noise stream


class Encoding(NamedTuple):
    """The scored pixels, the parameters of q(z_0|x), and the flow's context.

    Attributes:
        x: pixel values in [0, 1], [B, D].
        mu, log_sigma: mean and logarithm of the standard deviation, [B, latent].
        h: context of the flow, [B, context]; [B, 0] if it has none.
    """

    x: Any
    mu: Any
    log_sigma: Any
    h: Any


class Posterior(NamedTuple):
    """A sample of q(z|x).

    Attributes:
        z: z_T, [..., latent].
        log_q: contributions to log q(z|x), whose sum over the last axis is the log-density in nats: [..., latent], or
            [..., 1] if the flow returns only the total.
        metrics: metrics of the flow.
    """

    z: Any
    log_q: Any
    metrics: Mapping[str, Any]


class MLP(keras.layers.Layer):
    """Tanh hidden layers of one width and a linear output: [..., inputs] -> [..., outputs]."""

    def __init__(self, inputs: int, *, hidden: int, layers: int, outputs: int, seed: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.inputs, dtype = inputs, self.dtype_policy
        *seeds, last = (int(s) for s in np.random.SeedSequence(seed).generate_state(layers + 1))
        self.hidden = [
            Dense(
                hidden,
                activation="tanh",
                kernel_initializer=keras.initializers.GlorotUniform(seed),
                name="hidden" if number == 1 else f"hidden_{number}",
                dtype=dtype,
            )
            for number, seed in enumerate(seeds, 1)
        ]
        initializer = keras.initializers.GlorotUniform(last)
        self.out = Dense(outputs, kernel_initializer=initializer, name="out", dtype=dtype)

    def build(self, input_shape: Any) -> None:
        """Creates the weights of all layers."""
        width = self.inputs
        for layer in (*self.hidden, self.out):
            layer.build((None, width))
            width = layer.units

    @property
    def products(self) -> list[Product]:
        """Products of all layers."""
        return [layer.product for layer in (*self.hidden, self.out)]

    def call(self, x: Any) -> Any:
        """Maps [..., inputs] to [..., outputs]."""
        for layer in self.hidden:
            x = layer(x)
        return self.out(x)


@keras.saving.register_keras_serializable("vaedist")
class VAE(Model):
    """A VAE with MLP encoder and decoder, which can be used on its own: `VAE((32, 32, 3))(images)` scores uint8 images.

    Args:
        image_shape: (height, width, channels).
        options: sizes, flow and likelihood; None uses the defaults.
        preprocessing: mapping of uint8 pixels to x; None uses that of the likelihood, see `MLPOptions.preprocessing`.
        seed: seed of the initial weights, which also depend on the dtype.
    """

    Options = MLPOptions
    broadcasts = True

    def __init__(
        self,
        image_shape: Sequence[int],
        options: MLPOptions | None = None,
        *,
        preprocessing: Preprocessing | None = None,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        self.options = options = options or MLPOptions()
        preprocessing = preprocessing or options.preprocessing("none")
        super().__init__(image_shape, preprocessing=preprocessing, seed=seed, **{"name": "vae", **kwargs})
        self.latent, self.pixels, flow = options.latent, math.prod(image_shape), options.flow
        self.likelihood = make_likelihood(options.likelihood)
        self.clips = self.likelihood.clips
        encoder_seed, flow_seed, decoder_seed = (int(s) for s in np.random.SeedSequence(seed).generate_state(3))
        sizes: dict[str, Any] = {"hidden": options.hidden, "layers": options.layers, "dtype": self.dtype_policy}
        context = flow.context_width(self.latent) if flow.depth else 0
        parameters = 2 * self.latent + context
        self.encoder = MLP(self.pixels, outputs=parameters, seed=encoder_seed, name="encoder", **sizes)
        layer = {"name": "flow", "dtype": self.dtype_policy}
        self.flow = make_flow(flow, self.latent, context=context, seed=flow_seed, **layer)
        outputs = self.likelihood.outputs * self.pixels
        self.decoder = MLP(self.latent, outputs=outputs, seed=decoder_seed, name="decoder", **sizes)
        self.build((None, *self.image_shape))

    @property
    def noise(self) -> Mapping[str, tuple[int, ...]]:  # type: ignore[override]
        """Shape of the only noise stream, that of the latents."""
        return {Z: (self.latent,)}

    @property
    def products(self) -> Sequence[Product]:
        """Products of the encoder, the flow and the decoder."""
        return [*self.encoder.products, *self.flow.products, *self.decoder.products]

    @property
    def sample_bytes(self) -> int:
        """Bytes of the decoder's output for one sample."""
        return 4 * self.likelihood.outputs * self.pixels

    def build(self, input_shape: Any) -> None:
        """Creates all weights, so that they exist before the first call."""
        self.encoder.build((None, self.pixels))
        self.flow.build((None, self.latent))
        self.decoder.build((None, self.latent))
        self.built = True

    def get_config(self) -> dict[str, Any]:
        """Returns a description of the constructor's arguments, for `from_config`."""
        binarize = next((name for name, each in BINARIZE.items() if each is self.preprocessing), "none")
        return {
            "image_shape": self.image_shape,
            "options": self.options.model_dump(),
            "binarize": binarize,
            "seed": self.seed,
            "name": self.name,
            "dtype": self.dtype_policy.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "VAE":
        """Returns the model that `get_config` describes."""
        config = dict(config)
        options = MLPOptions.model_validate(config.pop("options"))
        preprocessing = options.preprocessing(config.pop("binarize"))
        return cls(config.pop("image_shape"), options, preprocessing=preprocessing, **config)

    def encode(self, images: Any, u: Any = None, *, training: bool = False) -> Encoding:
        """Returns x and the parameters of q(z_0|x).

        Raises:
            NoiseError: `preprocessing` needs noise, and `u` is None.
        """
        x = ops.reshape(self.observe(images, u), (-1, self.pixels))
        return Encoding(x, *ops.split(self.encoder(x), [self.latent, 2 * self.latent], axis=-1))

    def posterior(self, encoding: Encoding, eps: Mapping[str, Any]) -> Posterior:
        """Samples z_T ~ q(z|x) with the given noise, [..., latent].

        log q(z_T|x) = log N(z_0; mu, sigma^2) - log |det dz_T/dz_0| (Kingma et al. 2016, equation 11).
        """
        z, log_q = sample_normal(encoding.mu, encoding.log_sigma, eps[Z])
        flow = self.flow(z, encoding.h)
        if flow.log_det.shape[-1] != self.latent:  # the flow returns only the total
            log_q = ops.sum(log_q, axis=-1, keepdims=True)
        return Posterior(flow.z, log_q - flow.log_det, flow.metrics)

    def score(self, encoding: Encoding, eps: Mapping[str, Any], *, training: bool = False) -> Score:
        """Returns log p(x|z) and the KL divergence by latent, for noise [B, latent] or [B, K, latent]."""
        posterior = self.posterior(encoding, eps)
        log_p = log_standard_normal(posterior.z)
        if posterior.log_q.shape[-1] != self.latent:
            log_p = ops.sum(log_p, axis=-1, keepdims=True)
        log_px = self.likelihood.log_prob(self.decoder(posterior.z), encoding.x)
        return Score(log_px, {Z: posterior.log_q - log_p}, {Z: posterior.z}, dict(posterior.metrics))

    def decode(self, latents: Mapping[str, Any], u: Any = None) -> Any:
        """Returns the mean images E[x|z], [B, H, W, C], in [0, 1], or samples of p(x|z) if `u` is given."""
        raw = self.decoder(latents[Z])
        if u is None:
            pixels = self.likelihood.mean(raw)
        else:
            pixels = self.likelihood.sample(raw, ops.reshape(u, (-1, self.pixels)))
        return ops.reshape(pixels, (-1, *self.image_shape))

    def posterior_mean(self, encoding: Encoding) -> dict[str, Any] | None:
        """Returns E[z|x] = mu, [B, latent], if there is no flow, else None."""
        return None if self.options.flow.depth else {Z: encoding.mu}

    def flow_cases(self, images: Any, eps: Mapping[str, Any], u: Any = None) -> Sequence[FlowCase]:
        """Returns the flow with z_0 and h of the given images; empty if the depth is 0."""
        if not self.options.flow.depth:
            return ()
        encoding = self.encode(images, u)
        return [FlowCase(self.flow, sample_normal(encoding.mu, encoding.log_sigma, eps[Z])[0], encoding.h)]

    def pixel_distribution(self, latents: Mapping[str, Any]) -> tuple[Likelihood, Any]:
        """Returns the likelihood and its raw parameters, [B, outputs * D]."""
        return self.likelihood, self.decoder(latents[Z])

    def call(self, images: Any, eps: Mapping[str, Any] | None = None, u: Any = None) -> Score:
        """Scores uint8 images with one sample of z per image.

        Args:
            images: uint8, [B, H, W, C].
            eps: standard normal noise {"z": [B, latent]}; None draws it.
            u: uniform noise [B, H, W, C], if `preprocessing` needs noise; 0.5 is the middle of its range.

        Raises:
            NoiseError: `preprocessing` needs noise, and `u` is None.
        """
        encoding = self.encode(images, u)
        if eps is None:
            eps = {Z: keras.random.normal(ops.shape(encoding.mu), dtype=self.compute_dtype)}
        return self.score(encoding, eps)
