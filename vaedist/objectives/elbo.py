"""The evidence lower bound and its parts: each formula once, for training, evaluation and tests.

    ELBO(x) = E_q [ log p(x|z) + log p(z) - log q(z|x) ]  <=  log p(x)

in nats an image (Kingma and Welling 2014, equation 2).
"""

import math
from typing import Any, NamedTuple

from keras import ops

from vaedist.models.model import Score


class Bound(NamedTuple):
    """One-sample estimates of each image, S = [B], or [B, K] for K samples of it, in nats.

    Attributes:
        elbo: reconstruction - kl.
        reconstruction: estimate of E_q log p(x|z).
        kl: estimate of KL(q(z|x) || p(z)), summed over layers and groups.
        by_layer: the same by stochastic layer.
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
    """Returns the bits that a code for an image takes per pixel value, -log p(x) / (D ln 2) + log2(levels).

    A density of x in [0, 1]^D, spread over bins of width 1 / levels, gives a bin the probability p(x) levels^-D, of
    which -log2, divided by D, is the above. With levels = 256 the constant is 8 bits. Where log_px is a lower bound,
    so is the probability, and the bits are an upper bound.

    Args:
        log_px: log p(x) in nats an image, or a bound on it, any shape.
        dims: D, pixel values of an image.
        levels: bins that x was spread over; 1 where log_px is the logarithm of a probability. See `Model.levels`.
    """
    return -log_px / (dims * math.log(2)) + math.log2(levels)
