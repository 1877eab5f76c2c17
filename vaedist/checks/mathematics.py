"""Masks, log-determinant, inverse, probabilities and gradient, against what is slow and plain."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from vaedist.checks.check import Check, largest
from vaedist.models import VAE
from vaedist.models.flows.autoregressive import AutoregressiveNetwork
from vaedist.models.likelihoods import Bernoulli, ContinuousBernoulli, DiscretizedLogistic, Gaussian
from vaedist.objectives.elbo import bound

PIXELS = 200  # of an image, that probabilities are added up for
DIRECTIONS = 3  # that the gradient is looked at along
DIFFERENCES = (1e-2, 1e-3, 1e-4)  # steps of finite differences; 1 changes what goes into a unit by about 1


def masks(model: VAE) -> Iterator[Check]:
    """No parameter of a latent depends on that latent or on a later one, in the order of the step."""
    z, h = _normal(1, model.latent), _normal(1, model.context, seed=1)
    for number, (network, context) in enumerate(zip(model.flow.networks, model.flow.contexts(h), strict=True), 1):
        order = np.array(network.order)
        for part in range(network.parameters):
            found = _jacobian(partial(_parameter, network, context, part), z)[0][order][:, order]
            yield Check(
                f"mask of step {number}, parameter {part + 1}", "zeros of the Jacobian", largest(np.triu(found)), 0.0
            )


def log_determinant(model: VAE, images: np.ndarray) -> Iterator[Check]:
    """The sum of the steps' log-scales is the log-determinant of the flow."""
    z, h = _start(model, images)
    expected = np.linalg.slogdet(_jacobian(lambda z: model.flow(z, h).z, z))[1]
    found = tf.reduce_sum(model.flow(z, h).log_det, axis=-1)
    yield Check("log-determinant", "the dense Jacobian's", largest(found - expected), 1e-8)


def inverse(model: VAE, images: np.ndarray) -> Iterator[Check]:
    """The flow can be undone, and log q(z|x) at what comes back is what it was."""
    z, h = _start(model, images)
    out = model.flow(z, h)
    back = model.flow.inverse(out.z, h)
    yield Check("inverse of the flow", "z before it", largest(back - z), 1e-6)
    again = model.flow(back, h)
    difference = tf.reduce_sum(again.log_det - out.log_det, axis=-1)
    yield Check("log q(z|x) after the round trip", "before it", largest(difference), 1e-6)


def probabilities(model: VAE) -> Iterator[Check]:
    """The distribution of a pixel adds up, or integrates, to 1."""
    likelihood = model.likelihood
    raw = model.decoder(_normal(4, model.latent)).numpy()
    each = np.stack(np.split(raw, likelihood.outputs, axis=-1), axis=-1).reshape(-1, likelihood.outputs)
    each = each[:: max(1, len(each) // PIXELS)]
    values, weights = SUMS[type(likelihood)](each)
    p = np.exp(likelihood.log_prob(tf.constant(each[:, None]), tf.constant(values[..., None])).numpy())
    yield Check("probabilities of a pixel", "1", largest((p * weights).sum(axis=1) - 1), 1e-9)


def gradient(model: VAE, images: np.ndarray) -> Iterator[Check]:
    """The gradient of the ELBO, along random directions in all weights.

    The error is relative to the root mean square of what such directions give. Of several steps h the one that suits
    best counts: terms of order h^4 show in long ones, and rounding, of order 1e-16 ELBO / h, in short ones.
    """
    eps, noise = _normal(len(images), model.latent), _uniform(len(images), model.pixels)

    def elbo() -> Any:
        return tf.reduce_mean(bound(model(images, eps, noise)).elbo)

    variables = [variable.value for variable in model.trainable_variables]
    start = [variable.numpy() for variable in variables]

    def elbo_at(t: float, direction: Sequence[np.ndarray]) -> float:
        for variable, weight, part in zip(variables, start, direction, strict=True):
            variable.assign(weight + t * part)
        return float(elbo())

    with tf.GradientTape() as tape:
        value = elbo()
    found = [part.numpy() for part in tape.gradient(value, variables)]
    scales = [len(weight) ** -0.5 if weight.ndim > 1 else 1.0 for weight in start]
    typical = np.sqrt(sum(np.sum((scale * part) ** 2) for scale, part in zip(scales, found, strict=True)))
    errors = []
    for seed in range(DIRECTIONS):
        rng = np.random.default_rng(seed)
        direction = [scale * rng.normal(size=weight.shape) for scale, weight in zip(scales, start, strict=True)]
        slope = sum(np.vdot(part, way) for part, way in zip(found, direction, strict=True))
        differences = [_derivative(partial(elbo_at, direction=direction), h) - slope for h in DIFFERENCES]
        errors.append(np.fmin.reduce(np.abs(differences)) / typical)
    elbo_at(0.0, start)
    yield Check("gradient of the ELBO", "finite differences", largest(errors), 1e-8)


def _one_of(values: np.ndarray) -> Callable[[np.ndarray], tuple[np.ndarray, Any]]:
    """To add up over some values, [M]."""
    return lambda raw: (values[None], 1.0)


def _between_0_and_1(raw: np.ndarray) -> tuple[np.ndarray, Any]:
    """To integrate from 0 to 1 by Gauss and Legendre's rule in 128 parts, for steep densities too."""
    nodes, weights = np.polynomial.legendre.leggauss(12)
    parts = np.arange(128)[:, None]
    return ((parts + 0.5 * (nodes + 1)) / 128).reshape(1, -1), np.tile(0.5 * weights / 128, 128)


def _around_the_mean(raw: np.ndarray) -> tuple[np.ndarray, Any]:
    """To integrate over 12 standard deviations on both sides of the mean; the rest is below 1e-30."""
    nodes, weights = np.polynomial.legendre.leggauss(200)
    mu, sigma = raw[:, :1], np.exp(raw[:, 1:])
    return mu + 12 * sigma * nodes, 12 * sigma * weights


# For each likelihood, from the raw outputs of pixels, [N, outputs], the values to add up over and their weights.
SUMS: dict[type, Callable[[np.ndarray], tuple[np.ndarray, Any]]] = {
    Bernoulli: _one_of(np.array([0.0, 1.0])),
    ContinuousBernoulli: _between_0_and_1,
    Gaussian: _around_the_mean,
    DiscretizedLogistic: _one_of((np.arange(256) + 0.5) / 256),
}


def _start(model: VAE, images: np.ndarray) -> tuple[Any, Any]:
    """z_0 and h of some images."""
    encoding = model.encode(model.observe(images, _uniform(len(images), model.pixels)))
    return encoding.mu + tf.exp(encoding.log_sigma) * _normal(len(images), model.latent), encoding.h


def _normal(*shape: int, seed: int = 0) -> Any:
    return tf.constant(np.random.default_rng(seed).normal(size=shape))


def _uniform(*shape: int) -> Any:
    return tf.constant(np.random.default_rng(0).uniform(1e-6, 1 - 1e-6, shape), tf.float32)


def _jacobian(function: Callable[[Any], Any], x: Any) -> np.ndarray:
    """The derivatives of function(x) by x, image by image, [B, out, in]."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    return tape.batch_jacobian(y, x).numpy()


def _derivative(function: Callable[[float], float], h: float) -> float:
    """f'(0) by central differences, but for terms of order h^4."""
    near, far = (function(t) - function(-t) for t in (h, 2 * h))
    return (8 * near - far) / (12 * h)


def _parameter(network: AutoregressiveNetwork, context: Any, part: int, z: Any) -> Any:
    return network(z, context)[part]
