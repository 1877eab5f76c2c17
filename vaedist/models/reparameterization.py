"""Samples of diagonal normal posteriors, whose gradients an objective may ask to be doubly reparameterized."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf
from keras import ops

from vaedist.models.densities import log_normal, log_standard_normal


@dataclass
class PathGradients:
    """Doubly reparameterized samples made in a context, see `doubly_reparameterized`.

    Attributes:
        weights: factors on the gradients with respect to the samples, S; to be set before gradients are taken.
        samples: number of tensors of samples that were made.
    """

    weights: Any = None
    samples: int = field(default=0, init=False)

    def scaled(self, z: Any) -> Any:
        """Returns z, [..., D]; in the backward pass its gradient is multiplied by `weights`, [...]."""
        self.samples += 1

        @tf.custom_gradient
        def identity(z: Any) -> tuple[Any, Any]:
            return tf.identity(z), lambda dz: dz * tf.cast(self.weights, dz.dtype)[..., None]

        return identity(z)


_PATH: ContextVar[PathGradients | None] = ContextVar("path", default=None)


@contextmanager
def doubly_reparameterized() -> Iterator[PathGradients]:
    """Makes `sample_normal` doubly reparameterized in this context (Tucker et al. 2019, equation 8).

    Densities then depend on the posterior's parameters through the samples alone, and gradients with respect to
    the samples are multiplied by the context's weights. With log w = log p(x, z) - log q(z|x), normalised importance
    weights w_k, the objective L_K = log 1/K sum_k exp(log w_k), and the weights w_k here, the gradient with respect to
    mu and sigma is sum_k w_k^2 d log w_k/dz_k dz_k/d(mu, sigma), which is unbiased for that of E L_K, and whose
    signal-to-noise ratio does not fall with K.
    """
    path = PathGradients()
    token = _PATH.set(path)
    try:
        yield path
    finally:
        _PATH.reset(token)


def sample_normal(mu: Any, log_sigma: Any, eps: Any) -> tuple[Any, Any]:
    """Returns z = mu + sigma eps and log N(z; mu, sigma^2) of each component, both [..., D], in nats.

    Args:
        mu: mean, [..., D].
        log_sigma: logarithm of the standard deviation, [..., D].
        eps: standard normal noise, [..., D].
    """
    z = mu + ops.exp(log_sigma) * eps
    path = _PATH.get()
    if path is None:
        return z, log_standard_normal(eps) - log_sigma
    z = path.scaled(z)
    return z, log_normal(z, ops.stop_gradient(mu), ops.stop_gradient(log_sigma))
