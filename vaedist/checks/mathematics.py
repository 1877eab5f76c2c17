"""Checks of flows, likelihoods and gradients against slow and simple computations."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from vaedist.checks.check import Check, largest
from vaedist.evaluation.scoring import score
from vaedist.models.flows.flow import Autoregressive, FlowCase, Invertible
from vaedist.models.model import Model
from vaedist.objectives.elbo import bound

PIXELS = 200  # pixel values whose probabilities are summed
DIRECTIONS = 3  # along which the gradient is checked
GRADIENT_ALLOWED = 1e-6  # differences of a deep model's ELBO, which is large, have errors above 1e-8
DIFFERENCES = (1e-2, 1e-3, 1e-4, 1e-5)  # steps of finite differences; a step of 1 changes a unit's input by about 1


def flows(model: Model, images: np.ndarray) -> Sequence[FlowCase]:
    """Returns the model's flows at fixed noise."""
    return model.flow_cases(images, noise(model, len(images)), uniform(model, len(images)))


def dependencies(case: FlowCase) -> Iterator[Check]:
    """Checks that no autoregressive parameter of a latent depends on that latent or on a later one."""
    if not isinstance(case.flow, Autoregressive):
        return
    z, h = _normal(1, case.z.shape[-1]), _normal(1, case.h.shape[-1], seed=1)
    for claim in case.flow.dependencies(h):
        order = np.array(claim.order)
        found = _jacobian(claim.function, z)[0][order][:, order]
        yield Check(claim.name, "zeros of the Jacobian", largest(np.triu(found)), 0.0)


def log_determinant(case: FlowCase) -> Iterator[Check]:
    """Checks that the log-determinant is that of the dense Jacobian."""
    flow, z, h = case
    expected = np.linalg.slogdet(_jacobian(lambda z: flow(z, h).z, z))[1]
    found = tf.reduce_sum(flow(z, h).log_det, axis=-1)
    yield Check("log-determinant", "the dense Jacobian's", largest(found - expected), 1e-8)


def inverse(case: FlowCase) -> Iterator[Check]:
    """Checks the inverse of the flow, and that a round trip does not change log q(z|x)."""
    flow, z, h = case
    if not isinstance(flow, Invertible):
        return
    out = flow(z, h)
    back = flow.inverse(out.z, h)
    yield Check("inverse of the flow", "z before it", largest(back - z), 1e-6)
    again = flow(back, h)
    difference = tf.reduce_sum(again.log_det - out.log_det, axis=-1)
    yield Check("log q(z|x) after the round trip", "before it", largest(difference), 1e-6)


def probabilities(model: Model, images: np.ndarray) -> Iterator[Check]:
    """Checks that the distribution of a pixel value adds up, or integrates, to 1."""
    encoding = model.encode(images, uniform(model, len(images)))
    z = {name: _normal(4, *values.shape[1:]) for name, values in
         model.score(encoding, noise(model, len(images))).latents.items()}  # fmt: skip
    if (found := model.pixel_distribution(z)) is None:
        return
    likelihood, raw = found
    each = np.stack(np.split(raw.numpy(), likelihood.outputs, axis=-1), axis=-1).reshape(-1, likelihood.outputs)
    each = each[:: max(1, len(each) // PIXELS)]
    if (rule := likelihood.quadrature(each)) is None:
        return
    values, weights = rule
    # For each pixel value, its outputs are [N, 1, outputs], and the values of x are [N or 1, M, 1].
    p = np.exp(likelihood.log_prob(tf.constant(each[:, None]), tf.constant(values[..., None])).numpy())
    yield Check("probabilities of a pixel", "1", largest((p * weights).sum(axis=1) - 1), 1e-9)


def gradient(model: Model, images: np.ndarray) -> Iterator[Check]:
    """Checks the gradient of the ELBO with respect to all weights, along random directions.

    The error is relative to the root mean square of the derivative along such directions. The best of several steps h
    counts, since long steps have an error of order h^4, and short steps a rounding error of order 1e-16 ELBO / h.
    """
    eps, u = noise(model, len(images)), uniform(model, len(images))

    def elbo() -> Any:
        return tf.reduce_mean(bound(score(model, images, eps, u)).elbo)

    variables = [variable.value for variable in model.trainable_variables]
    start = [variable.numpy() for variable in variables]

    def elbo_at(t: float, direction: Sequence[np.ndarray]) -> float:
        for variable, weight, part in zip(variables, start, direction, strict=True):
            variable.assign(weight + t * part)
        return float(elbo())

    with tf.GradientTape() as tape:
        value = elbo()
    gradients = tape.gradient(value, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    found = [part.numpy() for part in gradients]
    scales = [(weight.size / weight.shape[-1]) ** -0.5 if weight.ndim > 1 else 1.0 for weight in start]  # of fan-in
    typical = np.sqrt(sum(np.sum((scale * part) ** 2) for scale, part in zip(scales, found, strict=True)))
    errors = []
    for seed in range(DIRECTIONS):
        rng = np.random.default_rng(seed)
        direction = [scale * rng.normal(size=weight.shape) for scale, weight in zip(scales, start, strict=True)]
        slope = sum(np.vdot(part, way) for part, way in zip(found, direction, strict=True))
        differences = [_derivative(partial(elbo_at, direction=direction), h) - slope for h in DIFFERENCES]
        errors.append(np.fmin.reduce(np.abs(differences)) / typical)
    elbo_at(0.0, start)
    yield Check("gradient of the ELBO", "finite differences", largest(errors), GRADIENT_ALLOWED)


def noise(model: Model, rows: int) -> dict[str, Any]:
    """Returns fixed standard normal noise for a number of images, in float64."""
    return {name: _normal(rows, *shape, seed=seed) for seed, (name, shape) in enumerate(model.noise.items())}


def uniform(model: Model, rows: int) -> Any:
    """Returns fixed pixel noise for a number of images; None if the model uses none."""
    if not model.preprocessing.noisy:
        return None
    shape = (rows, *model.image_shape)
    return tf.constant(np.random.default_rng(0).uniform(1e-6, 1 - 1e-6, shape), tf.float32)


def _normal(*shape: int, seed: int = 0) -> Any:
    return tf.constant(np.random.default_rng(seed).normal(size=shape))


def _jacobian(function: Callable[[Any], Any], x: Any) -> np.ndarray:
    """Returns the Jacobian of function(x) with respect to x for each image, [B, out, in]."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    return tape.batch_jacobian(y, x).numpy()


def _derivative(function: Callable[[float], float], h: float) -> float:
    """Returns f'(0) by central differences, with an error of order h^4."""
    near, far = (function(t) - function(-t) for t in (h, 2 * h))
    return (8 * near - far) / (12 * h)
