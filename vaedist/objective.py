"""The evidence lower bound and its parts: each formula once, for training, evaluation and tests.

    ELBO(x) = E_q [ log p(x|z) + log p(z) - log q(z|x) ]  <=  log p(x)

in nats an image (Kingma and Welling 2014, equation 2; log q through the flow as in Kingma et al. 2016,
equation 11).
"""

from typing import Any, NamedTuple

from keras import ops

from vaedist.model import Posterior, VAEOutput
from vaedist.model.densities import log_standard_normal


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


def active_units(samples: Any, threshold: float = 0.01) -> Any:
    """How many latents carry information: Var_x(E_q[z_i]) > threshold (Burda et al. 2016, section 5.2).

    E_q[z] is estimated by the mean of K samples; the part of its variance over images that comes from K being
    finite, E_x[Var_q(z_i)] / K, is taken off, so that a dead unit is not counted for its noise.

    Args:
        samples: [K, N, latent], K >= 2 samples of z for each of N images.
        threshold: in squared units of z.
    """
    count = samples.shape[0]
    between = ops.var(ops.mean(samples, axis=0), axis=0)
    within = ops.mean(ops.var(samples, axis=0), axis=0) / (count - 1)
    return ops.sum(ops.cast(between - within > threshold, "int32"))
