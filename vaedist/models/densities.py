"""Log-densities of normal distributions, in nats."""

import math
from typing import Any

from keras import ops

import vaedist.models.keras_backend  # noqa: F401 - refuses other backends

LOG_2PI = math.log(2 * math.pi)


def log_normal(x: Any, mu: Any, log_sigma: Any) -> Any:
    """Returns log N(x; mu, sigma^2) by component: x, mu, log_sigma and the result are [..., D].

    `log_sigma` is the logarithm of the standard deviation.
    """
    scaled = (x - mu) * ops.exp(-log_sigma)
    return -0.5 * (ops.square(scaled) + LOG_2PI) - log_sigma


def log_standard_normal(z: Any) -> Any:
    """Returns log N(z; 0, 1) by component, [..., D]."""
    return -0.5 * (ops.square(z) + LOG_2PI)
