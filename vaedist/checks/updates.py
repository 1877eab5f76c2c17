"""Checks of the compiled update against an eager one, and against two devices."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import tensorflow as tf

from vaedist.checks.check import Check, largest
from vaedist.config import Experiment
from vaedist.data.lane_reader import LaneReader
from vaedist.data.lanes import LanePlan
from vaedist.devices.compilation import compiled
from vaedist.evaluation.scoring import score, training_noise
from vaedist.models.model import Model
from vaedist.models.rng import POSTERIOR, row_noise
from vaedist.training.build import build_step
from vaedist.training.step import TrainStep

UPDATES = 3


def eager(experiment: Experiment, make_model: Callable[[], Model], images: np.ndarray) -> Iterator[Check]:
    """Checks compiled updates against eager ones.

    If a gradient is as small as the optimizer's epsilon, 1e-7, its rounding error is amplified accordingly: an error of
    1e-15 becomes 1e-8 of an update.
    """
    compiled, plain = (_step(experiment, make_model, images, 1) for _ in range(2))
    before = _state(plain)
    _update(compiled, images)
    _update_eagerly(plain, images)
    yield Check(f"{UPDATES} compiled updates", "eager ones", _apart(before, _state(compiled), _state(plain)), 1e-7)


def two_devices(experiment: Experiment, make_model: Callable[[], Model], images: np.ndarray) -> Iterator[Check]:
    """Checks updates on one device against updates on two, which share the batches and have a copy of the weights."""
    one, two = (_step(experiment, make_model, images, devices) for devices in (1, 2))
    before = _state(one)
    for step in (one, two):
        _update(step, images)
    apart = [_apart(before, _state(one), _state(two, copy)) for copy in range(2)]
    yield Check(f"{UPDATES} updates on one device", "on two", largest(apart), 1e-7)


def _step(experiment: Experiment, make_model: Callable[[], Model], images: np.ndarray, devices: int) -> TrainStep:
    """Returns the experiment's training step of a new model, for batches of the images."""
    experiment = experiment.with_values({"training.steps_per_call": UPDATES})
    strategy = _strategy(devices)
    with strategy.scope():
        model = make_model()
    step = build_step(experiment, model, strategy, steps_per_epoch=1000, global_batch=_plan(images).global_batch)
    for own in range(devices):
        step.update.clear(own)  # compiled steps do this; the eager update does not
    return step


def _plan(images: np.ndarray) -> LanePlan:
    """Returns a plan of the images as one lane, in `UPDATES` batches, or fewer if there are not enough images."""
    return LanePlan(len(images), 1, -(-len(images) // UPDATES))


def _state(step: TrainStep, copy: int = 0) -> list[np.ndarray]:
    """Returns a device's copy of the weights and of the optimizer's slots."""
    return [
        variable.values[copy].numpy() for variables in (step.weights, *step.slots.values()) for variable in variables
    ]


@cache
def _strategy(devices: int) -> Any:
    """Returns the process's only strategy; a second one would use the same keys for its all-reduces as the first."""
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(devices)])


def _update(step: TrainStep, images: np.ndarray) -> None:
    """Runs a compiled step for each batch."""
    plan = _plan(images)
    reader = LaneReader(plan, [images], replicas=step.strategy.num_replicas_in_sync, seed=None)
    step.run(reader.read(0, 0, plan.steps, step.capacity), 0)


def _update_eagerly(step: TrainStep, images: np.ndarray) -> None:
    """Runs the steps eagerly: objective, gradient, clipping, and the optimizer's formula."""
    objective = step.objective
    for number in range(_plan(images).steps):
        batch = images[number * step.global_batch :][: step.global_batch]
        eps, u, rates = _drawn(step, tf.constant(number, tf.int64), batch)
        with tf.GradientTape() as tape, objective.path() as path:
            scored = score(step.model, batch, eps, u, samples=objective.drawn, training=True)
            loss = -tf.reduce_sum(objective.value(scored, number, step.group_means, path)) / step.global_batch
        gradients = tape.gradient(loss, step.weights, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        if step.update.clip_norm:
            gradients, _ = tf.clip_by_global_norm(gradients, step.update.clip_norm)
        for variables, gradient in zip(zip(step.weights, *step.slots.values(), strict=True), gradients, strict=True):
            weight, *slots = (tf.convert_to_tensor(variable) for variable in variables)
            for variable, value in zip(variables, step.optimizer.update(rates, weight, gradient, *slots), strict=True):
                variable.assign(value)
        if step.group_means is not None:
            groups = objective.group_kl(scored)
            step.group_means.assign(tf.reduce_mean(groups, axis=range(groups.shape.rank - 1)))


@compiled
def _drawn(step: TrainStep, number: Any, images: Any) -> tuple[Any, ...]:
    """Returns the float32 parts of an update: the noise and the rates.

    They are compiled as in the step, because XLA rounds them differently than eager operations do.
    """
    model, rows = step.model, images.shape[0]
    eps = row_noise(
        step.seed, POSTERIOR, number, 0, rows, model.noise, step.objective.drawn, dtype=model.variable_dtype
    )
    u = training_noise(model, step.seed, number, 0, number * step.global_batch + tf.range(rows, dtype=tf.int64))
    rates = tuple(tf.cast(rate, step.dtype) for rate in step.optimizer.rates(number))
    return eps, u, rates


def _apart(before: list[np.ndarray], a: list[np.ndarray], b: list[np.ndarray]) -> float:
    """Returns the distance of two states relative to their distance from the initial state, maximised over tensors."""
    shares = [
        np.linalg.norm(x - y) / (np.linalg.norm(y - start) + 1e-12) for start, x, y in zip(before, a, b, strict=True)
    ]
    return largest(shares)
