"""A residual block with a stochastic layer, on the bottom-up and on the top-down path."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from vaedist.models.convolutions import Resize
from vaedist.models.densities import log_normal
from vaedist.models.reparameterization import sample_normal
from vaedist.models.resnet.flow import ConvolutionalFlow
from vaedist.models.resnet.options import ResNetOptions
from vaedist.models.seeds import derived_seeds
from vaedist.models.weight_normalization import Convolution


class BottomUp(NamedTuple):
    """The bottom-up path's contributions to a posterior, [..., H, W, channels].

    Attributes:
        mu, log_sigma: added to those of the top-down path, in the dtype of the weights.
        context: added to the context of the top-down path; it has no channels if there is no flow.
    """

    mu: Any
    log_sigma: Any
    context: Any


class TopDown(NamedTuple):
    """The top-down path's outputs at a block, [..., H, W, channels].

    Attributes:
        prior_mu, prior_log_sigma: mean and log-standard deviation of p(z_l | z above).
        mu, log_sigma, context: contributions to the posterior, as in `BottomUp`.
        features: deterministic features of the residual path.
    """

    prior_mu: Any
    prior_log_sigma: Any
    mu: Any
    log_sigma: Any
    context: Any
    features: Any

    def sample(self, eps: Any, temperature: float = 1.0) -> Any:
        """Returns z_l ~ p(z_l | z above) with the given noise; `temperature` is a factor on the standard deviation."""
        return self.prior_mu + temperature * ops.exp(self.prior_log_sigma) * eps


class Block(keras.layers.Layer):
    """A block of both paths with the stochastic layer z_l between them.

    Args:
        options: sizes.
        halves: True if the block halves the resolution on the bottom-up path.
        top: True for the topmost block, at which the bottom-up path ends.
        seed: seed of the initial weights.
    """

    def __init__(self, options: ResNetOptions, *, halves: bool, top: bool, seed: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        width, z, self.halves = options.width, options.latent, halves
        self.residual_scale = options.residual_scale
        self.context = width if options.flow.depth and options.flow.layers else 0
        self.up_sizes = [z, z, self.context, *([] if top else [width])]
        self.down_sizes = [z, z, z, z, self.context, width]
        up, up_out, down, down_out, flow = derived_seeds(seed, 5)
        layer: dict[str, Any] = {"dtype": self.dtype_policy}
        half: Resize = "half" if halves else None
        double: Resize = "double" if halves else None
        self.up_in = Convolution(width, sum(self.up_sizes), resize=half, seed=up, name="up_in", **layer)
        self.up_out = None if top else Convolution(width, width, seed=up_out, name="up_out", **layer)
        self.down_in = Convolution(width, sum(self.down_sizes), seed=down, name="down_in", **layer)
        self.down_out = Convolution(z + width, width, resize=double, seed=down_out, name="down_out", **layer)
        self.flow = ConvolutionalFlow(z, width, options.flow, seed=flow, name="flow", **layer)

    def build(self, input_shape: Any = None) -> None:
        """Creates all weights."""
        for layer in (self.up_in, self.up_out, self.down_in, self.down_out, self.flow):
            if layer is not None:
                layer.build()
        self.built = True

    def up(self, h: Any) -> tuple[Any, BottomUp]:
        """Returns the bottom-up path above the block, and its contributions to the posterior."""
        mu, log_sigma, context, *features = split(self.up_in(ops.elu(h)), self.up_sizes)
        if self.up_out is not None:
            skip = h[..., ::2, ::2, :] if self.halves else h
            h = skip + self.residual_scale * self._exact(self.up_out(ops.elu(features[0])))
        return h, BottomUp(self._exact(mu), self._exact(log_sigma), context)

    def prior(self, h: Any) -> TopDown:
        """Returns the parameters of the prior, and the top-down path's contributions to the posterior."""
        prior_mu, prior_log_sigma, mu, log_sigma, *others = split(self.down_in(ops.elu(h)), self.down_sizes)
        exact = self._exact
        return TopDown(exact(prior_mu), exact(prior_log_sigma), exact(mu), exact(log_sigma), *others)

    def base(self, up: BottomUp, down: TopDown, eps: Any) -> tuple[Any, Any, Any]:
        """Returns a sample z_0 and log q(z_0), [..., H, W, latent], and the flow's context, [..., H, W, width]."""
        z, log_q = sample_normal(up.mu + down.mu, up.log_sigma + down.log_sigma, eps)
        return z, log_q, up.context + down.context

    def posterior(self, up: BottomUp, down: TopDown, eps: Any) -> tuple[Any, Any]:
        """Returns a sample z of the posterior, and log q(z) - log p(z) by latent, both [..., H, W, latent]."""
        z, log_q, context = self.base(up, down, eps)
        z, log_det = self.flow(z, context)
        return z, log_q - log_det - log_normal(z, down.prior_mu, down.prior_log_sigma)

    def down(self, h: Any, down: TopDown, z: Any) -> Any:
        """Returns the top-down path below the block."""
        features = ops.broadcast_to(down.features, (*ops.shape(z)[:-1], down.features.shape[-1]))
        inputs = ops.concatenate([ops.cast(z, features.dtype), features], axis=-1)
        update = self._exact(self.down_out(ops.elu(inputs)))
        if self.halves:
            h = ops.repeat(ops.repeat(h, 2, axis=-3), 2, axis=-2)
        return h + self.residual_scale * update

    def _exact(self, values: Any) -> Any:
        """Returns values in the dtype of the weights, in which means, densities and the residual paths are computed."""
        return ops.cast(values, self.variable_dtype)


def split(values: Any, sizes: Sequence[int]) -> list[Any]:
    """Splits channels into parts of the given sizes."""
    parts: list[Any] = ops.split(values, np.cumsum(sizes)[:-1].tolist(), axis=-1)
    return parts
