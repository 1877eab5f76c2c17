"""Samples of diagonal normal posteriors, optionally with doubly reparameterized gradients."""

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
    """Doubly reparameterized samples in a context, see `doubly_reparameterized`.

    Attributes:
        weights: factors on the gradients with respect to the samples, [B, K]; must be set before the backward pass.
        samples: number of sample tensors drawn so far.
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
    """Makes the gradients of `sample_normal` doubly reparameterized in this context (Tucker et al. 2019).

    Densities then depend on the posterior's parameters only through the samples, and gradients with respect to the
    samples are multiplied by the context's `weights`. Let log w_k = log p(x, z_k) - log q(z_k|x), the objective be
    L_K = log 1/K sum_k w_k, and `weights` the normalised importance weights v_k = w_k / sum_j w_j. The gradient with
    respect to mu and sigma is then sum_k v_k^2 d log w_k/dz_k dz_k/d(mu, sigma). It is an unbiased estimate of that of
    E L_K, and its signal-to-noise ratio does not decrease with K.

    With a flow z_T = f(z_0), the gradient of the base sample z_0 is multiplied. In
    log w = log p(x, f(z_0)) + log |det df/dz_0| - log N(z_0; mu, sigma^2), flow and prior together are an explicit
    function of z_0, which takes the place of log p(x, z) in the argument above. Other parameters of log w, such as the
    weights of the flow and of the decoder and the flow's context, have their plain gradient at fixed z_0,
    sum_k v_k d log w_k. The sum of both parts is unbiased.

    The estimator needs a single reparameterized sample: if a second one depended on it, the gradient of the first would
    be multiplied twice.
    """
    path = PathGradients()
    token = _PATH.set(path)
    try:
        yield path
    finally:
        _PATH.reset(token)


def sample_normal(mu: Any, log_sigma: Any, eps: Any) -> tuple[Any, Any]:
    """Returns z = mu + sigma eps and log N(z; mu, sigma^2) by component, both [..., D], the latter in nats.

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
