"""The evidence lower bound (ELBO) and its parts.

    ELBO(x) = E_q [ log p(x|z) + log p(z) - log q(z|x) ]  <=  log p(x)

in nats per image (Kingma and Welling 2014, equation 2).
"""

import math
from typing import Any, NamedTuple

from keras import ops

from vaedist.models.model import Score


class Bound(NamedTuple):
    """One-sample estimates of each image, in nats, of shape S = [B], or [B, K] for K samples of each image.

    Attributes:
        elbo: reconstruction - kl.
        reconstruction: estimate of E_q log p(x|z).
        kl: estimate of KL(q(z|x) || p(z)), summed over layers and groups.
        by_layer: the same KL divergence by stochastic layer.
    """

    elbo: Any
    reconstruction: Any
    kl: Any
    by_layer: dict[str, Any]


def bound(score: Score) -> Bound:
    """Returns the ELBO and its parts, from a model's score."""
    by_layer = {name: ops.sum(groups, axis=-1) for name, groups in score.kl.items()}
    first, *others = by_layer.values()
    kl = sum(others, start=first)
    return Bound(score.log_px - kl, score.log_px, kl, by_layer)


def bits_per_dim(log_px: Any, dims: int, levels: int) -> Any:
    """Returns the code length of an image in bits per pixel value, -log p(x) / (D ln 2) + log2(levels).

    For a density of x in [0, 1]^D that was dequantised from bins of width 1 / levels, a bin has the probability
    p(x) levels^-D, and the formula is -log2 of it, divided by D. With levels = 256 the constant is 8 bits. If log_px is
    a lower bound, the result is an upper bound.

    Args:
        log_px: log p(x) in nats per image, or a bound on it, of any shape.
        dims: D, number of pixel values of an image.
        levels: number of bins of a pixel value; 1 if log_px is the logarithm of a probability. See `Model.levels`.
    """
    return -log_px / (dims * math.log(2)) + math.log2(levels)
