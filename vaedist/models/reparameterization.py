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
        weights: factors on the gradients with respect to the samples, [B, K]; to be set before gradients are taken.
        samples: number of tensors of samples that were made.
    """

    weights: Any = None
    samples: int = field(default=0, init=False)

    def scaled(self, z: Any) -> Any:
        """Returns z, [B, K, ...] or [B K, ...]; in the backward pass its gradient is multiplied by `weights`."""
        self.samples += 1

        def multiplied(dz: Any) -> Any:
            factors = tf.reshape(tf.cast(self.weights, dz.dtype), (-1, 1))
            return tf.reshape(factors * tf.reshape(dz, (factors.shape[0], -1)), dz.shape)

        @tf.custom_gradient
        def identity(z: Any) -> tuple[Any, Any]:
            return tf.identity(z), multiplied

        return identity(z)


_PATH: ContextVar[PathGradients | None] = ContextVar("path", default=None)


@contextmanager
def doubly_reparameterized() -> Iterator[PathGradients]:
    """Makes `sample_normal` doubly reparameterized in this context (Tucker et al. 2019).

    Densities then depend on the posterior's parameters through the samples alone, and gradients with respect to
    the samples are multiplied by the context's weights. With log w = log p(x, z) - log q(z|x), normalised importance
    weights w_k, the objective L_K = log 1/K sum_k exp(log w_k), and the weights w_k here, the gradient with respect to
    mu and sigma is sum_k w_k^2 d log w_k/dz_k dz_k/d(mu, sigma), which is unbiased for that of E L_K, and whose
    signal-to-noise ratio does not fall with K.

    With a flow z_T = f(z_0), it is the base sample z_0 whose gradient is multiplied. As
    log w = log p(x, f(z_0)) + log |det df/dz_0| - log N(z_0; mu, sigma^2), the flow and the prior together are an
    explicit function of z_0, to which this applies as it does to log p(x, z). It holds for any values of
    whatever else log w depends on, such as the weights of the flow and of the decoder and the flow's context: their
    gradients at given z_0 are the plain ones, sum_k w_k d log w_k, and the sum of both parts is unbiased.

    That takes one reparameterized sample. Where a second one depends on it, its gradient would be multiplied twice.
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
