"""Proofs on a built model, in float64: what the mathematics promises, and what the compiled step computes.

Each check compares two ways to the same numbers, of which one is slow and plain: autograd Jacobians, finite
differences, sums over all values of a pixel, an eager update.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import tensorflow as tf

from vaedist.config import Experiment
from vaedist.data.stream import Chunk
from vaedist.model import VAE
from vaedist.model.autoregressive import AutoregressiveNetwork
from vaedist.model.noise import OBSERVATION, POSTERIOR, row_normal, row_uniform
from vaedist.objective import bound
from vaedist.training.build import build_step
from vaedist.training.step import TrainStep

IMAGES = 8
UPDATES = 2
PIXELS = 200  # that probabilities are added up for
DIFFERENCE = 1e-3  # length of the step of a finite difference


@dataclass(frozen=True)
class Check:
    """What came of a comparison.

    Attributes:
        name: what was checked.
        against: what with.
        error: the largest that was found.
        allowed: the largest that passes.
    """

    name: str
    against: str
    error: float
    allowed: float

    @property
    def passed(self) -> bool:
        """Whether the error is allowed; one that is not a number is not."""
        return self.error <= self.allowed


def run_checks(
    experiment: Experiment,
    make_model: Callable[[], VAE],
    images: np.ndarray,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Check]:
    """All checks that apply to a model; TensorFlow must have two CPU devices.

    Args:
        experiment: names the optimizer and the objective.
        make_model: builds the model in float64, each time with the same weights.
        images: uint8, [n, H, W, C], n >= 2 and even.
        progress: told how many checks are done, of how many.
    """
    experiment = experiment.with_overrides(f"training.steps_per_call={UPDATES}")
    model = make_model()
    checks: list[Callable[[], Iterator[Check]]] = [lambda: probabilities(model)]
    if model.flow.networks:
        checks += [lambda: masks(model), lambda: log_determinant(model, images), lambda: inverse(model, images)]
    checks += [
        lambda: gradient(model, images),
        lambda: eager(experiment, make_model, images),
        lambda: two_devices(experiment, make_model, images),
    ]
    found: list[Check] = []
    for number, check in enumerate(checks):
        progress(number, len(checks))
        found.extend(check())
    progress(len(checks), len(checks))
    return found


def masks(model: VAE) -> Iterator[Check]:
    """No parameter of a latent depends on that latent or on a later one, in the order of the step."""
    z, h = _normal(1, model.latent), _normal(1, model.context, seed=1)
    for number, (network, context) in enumerate(zip(model.flow.networks, model.flow.contexts(h), strict=True), 1):
        order = np.array(network.order)
        for part in range(network.parameters):
            found = _jacobian(partial(_parameter, network, context, part), z)[0][order][:, order]
            yield Check(
                f"mask of step {number}, parameter {part + 1}", "zeros of the Jacobian", _largest(np.triu(found)), 0.0
            )


def log_determinant(model: VAE, images: np.ndarray) -> Iterator[Check]:
    """The sum of the steps' log-scales is the log-determinant of the flow."""
    z, h = _start(model, images)
    expected = np.linalg.slogdet(_jacobian(lambda z: model.flow(z, h).z, z))[1]
    found = tf.reduce_sum(model.flow(z, h).log_det, axis=-1)
    yield Check("log-determinant", "the dense Jacobian's", _largest(found - expected), 1e-8)


def inverse(model: VAE, images: np.ndarray) -> Iterator[Check]:
    """The flow can be undone, and log q(z|x) at what comes back is what it was."""
    z, h = _start(model, images)
    out = model.flow(z, h)
    back = model.flow.inverse(out.z, h)
    yield Check("inverse of the flow", "z before it", _largest(back - z), 1e-6)
    again = model.flow(back, h)
    difference = tf.reduce_sum(again.log_det - out.log_det, axis=-1)
    yield Check("log q(z|x) after the round trip", "before it", _largest(difference), 1e-6)


def probabilities(model: VAE) -> Iterator[Check]:
    """The distribution of a pixel adds up, or integrates, to 1."""
    likelihood = model.likelihood
    raw = model.decoder(_normal(4, model.latent)).numpy()
    each = np.stack(np.split(raw, likelihood.outputs, axis=-1), axis=-1).reshape(-1, likelihood.outputs)
    each = each[:: max(1, len(each) // PIXELS)]
    values, weights = SUMS[type(likelihood).__name__](each)
    p = np.exp(likelihood.log_prob(tf.constant(each[:, None]), tf.constant(values[..., None])).numpy())
    yield Check("probabilities of a pixel", "1", _largest((p * weights).sum(axis=1) - 1), 1e-9)


def gradient(model: VAE, images: np.ndarray) -> Iterator[Check]:
    """The gradient of the ELBO, weight by weight along a random direction.

    The error is relative to what such a direction is expected to give, the gradient's norm over the root of its size.
    """
    eps, noise = _normal(len(images), model.latent), _uniform(len(images), model.pixels)

    def elbo() -> Any:
        return tf.reduce_mean(bound(model(images, eps, noise)).elbo)

    variables = [variable.value for variable in model.trainable_variables]
    with tf.GradientTape() as tape:
        value = elbo()
    errors = []
    for seed, (variable, found) in enumerate(zip(variables, tape.gradient(value, variables), strict=True)):
        direction = _normal(*variable.shape, seed=seed)
        direction *= DIFFERENCE / tf.norm(direction)
        ends = []
        for sign in (1.0, -2.0):  # forward, and then as far back
            variable.assign_add(sign * direction)
            ends.append(elbo())
        variable.assign_add(direction)
        slope, expected = (ends[0] - ends[1]) / (2 * DIFFERENCE), tf.reduce_sum(found * direction) / DIFFERENCE
        scale = tf.norm(found) / float(np.sqrt(np.prod(variable.shape)))
        errors.append((slope - expected) / tf.maximum(scale, 1e-3))
    yield Check("gradient of the ELBO", "finite differences", _largest(errors), 1e-4)


def eager(experiment: Experiment, make_model: Callable[[], VAE], images: np.ndarray) -> Iterator[Check]:
    """Compiled updates, and the same ones taken one operation at a time.

    What is allowed comes from the noise: it is float32, and programs that are compiled differently round the last bit
    of some of it differently.
    """
    compiled, plain = (_step(experiment, make_model, len(images), 1) for _ in range(2))
    before = _state(plain)
    compiled.run(_chunk(images, 1), 0)
    _update_eagerly(plain, images)
    yield Check(f"{UPDATES} compiled updates", "eager ones", _apart(before, _state(compiled), _state(plain)), 1e-4)


def two_devices(experiment: Experiment, make_model: Callable[[], VAE], images: np.ndarray) -> Iterator[Check]:
    """Updates on one device, and on two that share the batch and have a copy of the weights each."""
    one, two = (_step(experiment, make_model, len(images), devices) for devices in (1, 2))
    before = _state(one)
    one.run(_chunk(images, 1), 0)
    two.run(_chunk(images, 2), 0)
    apart = [_apart(before, _state(one), _state(two, copy)) for copy in range(2)]
    yield Check(f"{UPDATES} updates on one device", "on two", _largest(apart), 1e-8)


def _step(experiment: Experiment, make_model: Callable[[], VAE], rows: int, devices: int) -> TrainStep:
    """The experiment's update of batches of `rows`, for a model made anew."""
    strategy = _strategy(devices)
    with strategy.scope():
        model = make_model()
    return build_step(experiment, model, strategy, steps_per_epoch=1000, global_batch=rows)


def _state(step: TrainStep, copy: int = 0) -> list[np.ndarray]:
    """A device's copy of the weights and of the optimizer's slots."""
    return [
        variable.values[copy].numpy() for variables in (step.weights, *step.slots.values()) for variable in variables
    ]


@cache
def _strategy(devices: int) -> Any:
    """One for a process: a second strategy would number its all-reduces like the first, and mix them up with its."""
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(devices)])


def _chunk(images: np.ndarray, replicas: int) -> Chunk:
    """The same batch for each update, in equal parts for the replicas."""
    rows = len(images) // replicas
    parts = np.zeros((replicas, UPDATES, rows, images[0].size), np.uint8)
    parts[:] = images.reshape(replicas, 1, rows, -1)
    first_rows = np.repeat(np.arange(replicas)[:, None] * rows, UPDATES, axis=1)
    return Chunk(0, 0, UPDATES, parts, first_rows, np.full((replicas, UPDATES), rows, np.int32))


def _update_eagerly(step: TrainStep, images: np.ndarray) -> None:
    """What the step is to compute: objective, gradient, clipping and the optimizer's formula, in turn."""
    for number in range(UPDATES):
        eps, noise = _drawn(step.seed, number, len(images), step.model)
        with tf.GradientTape() as tape:
            output = step.model(images, tf.cast(eps, step.dtype), noise)
            means = tf.stop_gradient(tf.reduce_mean(step.objective.group_kl(output.posterior), axis=0))
            terms = step.objective.value(bound(output), output.posterior, number, means)
            loss = -tf.reduce_mean(terms)
        gradients = tape.gradient(loss, step.weights)
        if step.clip_norm:
            gradients, _ = tf.clip_by_global_norm(gradients, step.clip_norm)
        rates = tuple(tf.cast(rate, step.dtype) for rate in step.optimizer.rates(number))
        for variables, gradient in zip(zip(step.weights, *step.slots.values(), strict=True), gradients, strict=True):
            weight, *slots = (tf.convert_to_tensor(variable) for variable in variables)
            for variable, value in zip(variables, step.optimizer.update(rates, weight, gradient, *slots), strict=True):
                variable.assign(value)


@tf.function(jit_compile=True)
def _drawn(seed: int, number: int, rows: int, model: VAE) -> tuple[Any, Any]:
    """The noise of an update, compiled, for the last bits of a number that is drawn eagerly are others."""
    eps = row_normal(seed, POSTERIOR, number, 0, rows, model.latent)
    return eps, row_uniform(seed, OBSERVATION, number, 0, rows, model.pixels)


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
SUMS: dict[str, Callable[[np.ndarray], tuple[np.ndarray, Any]]] = {
    "Bernoulli": _one_of(np.array([0.0, 1.0])),
    "ContinuousBernoulli": _between_0_and_1,
    "Gaussian": _around_the_mean,
    "DiscretizedLogistic": _one_of((np.arange(256) + 0.5) / 256),
}


def _start(model: VAE, images: np.ndarray) -> tuple[Any, Any]:
    """z_0 and h of some images."""
    encoding = model.encode(model.observe(images))
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


def _apart(before: list[np.ndarray], a: list[np.ndarray], b: list[np.ndarray]) -> float:
    """How far two states are apart, as a share of how far they came from the one before; of the tensor at worst."""
    shares = [
        np.linalg.norm(x - y) / (np.linalg.norm(y - start) + 1e-12) for start, x, y in zip(before, a, b, strict=True)
    ]
    return _largest(shares)


def _parameter(network: AutoregressiveNetwork, context: Any, part: int, z: Any) -> Any:
    return network(z, context)[part]


def _largest(x: Any) -> float:
    """The largest absolute value; NaN where one is."""
    return float(np.max(np.abs(np.asarray(x))))
