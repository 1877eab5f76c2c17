"""The evidence lower bound and its parts: each formula once, for training, evaluation and tests.

    ELBO(x) = E_q [ log p(x|z) + log p(z) - log q(z|x) ]  <=  log p(x)

in nats an image (Kingma and Welling 2014, equation 2; log q through the flow as in Kingma et al. 2016,
equation 11).
"""

import math
from typing import Any, NamedTuple

from keras import ops

from vaedist.models import Posterior, VAEOutput
from vaedist.models.densities import log_standard_normal


class Bound(NamedTuple):
    """One-sample estimates for each image, in nats, each [B].

    elbo = reconstruction - kl; reconstruction estimates E_q log p(x|z), kl estimates KL(q(z|x) || p(z)),
    summed over the latents.
    """

    elbo: Any
    reconstruction: Any
    kl: Any


def bound(output: VAEOutput) -> Bound:
    """The ELBO of each image and its two parts, from one sample of z."""
    kl = ops.sum(kl_per_unit(output.posterior), axis=-1)
    return Bound(output.log_px - kl, output.log_px, kl)


def kl_per_unit(posterior: Posterior) -> Any:
    """What each latent adds to the estimate of the KL, log q_i - log p(z_i), [B, latent], in nats.

    Without a flow its mean is the KL of the unit. With one, the units of z_T depend on each other, and only
    the sum over the latents is a KL.
    """
    return posterior.log_q - log_standard_normal(posterior.z)


def bits_per_dim(log_px: Any, dims: int, levels: int) -> Any:
    """Bits that a code for an image takes per pixel value, -log p(x) / (D ln 2) + log2(levels).

    A density of x in [0, 1]^D, spread over bins of width 1 / levels, gives a bin the probability p(x) levels^-D, of
    which -log2, divided by D, is the above. With levels = 256 the constant is 8 bits. Where log_px is a lower bound,
    so is the probability, and the bits are an upper bound.

    Args:
        log_px: log p(x) in nats an image, or a bound on it, any shape.
        dims: D, pixel values of an image.
        levels: bins that x was spread over; 1 where log_px is the logarithm of a probability. See `VAE.levels`.
    """
    return -log_px / (dims * math.log(2)) + math.log2(levels)
