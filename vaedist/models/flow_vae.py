"""VAEs with one stochastic layer and a flow posterior; subclasses define the encoder and the decoder.

    x -> encoder -> mu, log_sigma, h; z_0 = mu + sigma * eps; z_T = flow(z_0; h); z_T -> decoder -> p(x|z_T)

The prior is N(0, I) on z_T, so a new image is decode(z) with z ~ N(0, I); generation does not use the flow.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from keras import ops

from vaedist.models.densities import log_standard_normal
from vaedist.models.flows.build import make_flow
from vaedist.models.flows.flow import FlowCase
from vaedist.models.initializers import PosteriorInitializer
from vaedist.models.likelihood_model import LikelihoodModel
from vaedist.models.likelihoods import Likelihood
from vaedist.models.model import Score
from vaedist.models.products import Product
from vaedist.models.reparameterization import sample_normal
from vaedist.models.seeds import derived_seeds

Z = "z"  # name of the stochastic layer and of its noise stream


class Encoding(NamedTuple):
    """The scored pixels, the parameters of q(z_0|x), and the flow's context.

    Attributes:
        x: pixel values in [0, 1], [B, D].
        mu, log_sigma: mean and logarithm of the standard deviation, [B, latent].
        h: context of the flow, [B, context], in the dtype of its networks; [B, 0] if it has none.
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


class FlowVAE(LikelihoodModel):
    """A VAE with latents z, a flow posterior, and networks that a subclass makes.

    The options are `FlowVAEOptions` with the keys `latent` and `flow`. See `LikelihoodModel` for the arguments.
    """

    default_name = "vae"
    broadcasts = True

    def create_layers(self) -> None:
        """Creates the encoder, the flow and the decoder."""
        self.latent, flow = self.options.latent, self.options.flow
        encoder_seed, flow_seed, decoder_seed = derived_seeds(self.seed, 3)
        context = flow.context_width(self.latent) if flow.depth else 0
        self.encoder = self.make_encoder(2 * self.latent + context, encoder_seed)
        layer = {"name": "flow", "dtype": self.dtype_policy}
        self.flow = make_flow(flow, self.latent, context=context, seed=flow_seed, **layer)
        self.decoder = self.make_decoder(decoder_seed)

    @abstractmethod
    def make_encoder(self, outputs: int, seed: int) -> Any:
        """Returns the layer "encoder", which maps x [B, D] to [B, outputs].

        `posterior_initializer` is the initializer of its last kernel.
        """

    @abstractmethod
    def make_decoder(self, seed: int) -> Any:
        """Returns the layer "decoder", whose output for z [..., latent] is the argument of `raw`."""

    def posterior_initializer(self, seed: int) -> PosteriorInitializer:
        """Returns the initializer of the kernel that computes mu, log_sigma and h."""
        return PosteriorInitializer(self.latent, seed)

    def raw(self, decoded: Any) -> Any:
        """Returns the raw parameters of the likelihood, [..., outputs * D], from the decoder's output."""
        return decoded

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

    def encode(self, images: Any, u: Any = None, *, training: bool = False) -> Encoding:
        """Returns x and the parameters of q(z_0|x).

        Raises:
            NoiseError: `preprocessing` needs noise, and `u` is None.
        """
        x = ops.reshape(self.observe(images, u), (-1, self.pixels))
        mu, log_sigma, h = ops.split(self.encoder(x), [self.latent, 2 * self.latent], axis=-1)
        mu, log_sigma = (ops.cast(each, self.variable_dtype) for each in (mu, log_sigma))
        log_sigma = log_sigma + self.options.initial_log_sigma  # the weights of the encoder's log_sigma start at 0
        return Encoding(x, mu, log_sigma, ops.cast(h, self.flow.compute_dtype))

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
        log_px = self.likelihood.log_prob(self._raw(posterior.z), encoding.x)
        return Score(log_px, {Z: posterior.log_q - log_p}, {Z: posterior.z}, dict(posterior.metrics))

    def decode(self, latents: Mapping[str, Any], u: Any = None) -> Any:
        """Returns the mean images E[x|z], [B, H, W, C], in [0, 1], or samples of p(x|z) if `u` is given."""
        return self.pixel_values(self._raw(latents[Z]), u)

    def posterior_mean(self, encoding: Encoding) -> dict[str, Any] | None:
        """Returns E[z|x] = mu, [B, latent], if there is no flow, else None."""
        return None if self.options.flow.depth else {Z: encoding.mu}

    def posterior_base(self, encoding: Encoding) -> dict[str, tuple[Any, Any]]:
        """Returns mu and log_sigma of z_0, [B, latent]; with a flow, z = flow(z_0; h)."""
        return {Z: (encoding.mu, encoding.log_sigma)}

    def flow_cases(self, images: Any, eps: Mapping[str, Any], u: Any = None) -> Sequence[FlowCase]:
        """Returns the flow with z_0 and h of the given images; empty if the depth is 0."""
        if not self.options.flow.depth:
            return ()
        encoding = self.encode(images, u)
        return [FlowCase(self.flow, sample_normal(encoding.mu, encoding.log_sigma, eps[Z])[0], encoding.h)]

    def pixel_distribution(self, latents: Mapping[str, Any]) -> tuple[Likelihood, Any]:
        """Returns the likelihood and its raw parameters, [B, outputs * D]."""
        return self.likelihood, self._raw(latents[Z])

    def _raw(self, z: Any) -> Any:
        """Returns the raw parameters of the likelihood, [..., outputs * D], in the dtype of the weights."""
        return ops.cast(self.raw(self.decoder(z)), self.variable_dtype)
