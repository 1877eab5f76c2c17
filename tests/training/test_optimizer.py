"""Optimizers against Keras's, and averages against their formulas."""

import numpy as np
import pytest
import tensorflow as tf

import vaedist.models  # noqa: F401 - chooses Keras's backend
from vaedist.config import Experiment
from vaedist.devices.compilation import compiled
from vaedist.training.optimizer import Adam, Adamax, Averaged, make_optimizer, mass
from vaedist.training.schedule import Fall, Schedule

import keras  # isort: skip

CONSTANT = Schedule(0.01)


def steps(optimizer, reference, count=50, shape=(5, 3)):
    """Returns the weights after updates with the same gradients, by the optimizer and by Keras's."""
    rng = np.random.default_rng(0)
    start = rng.normal(size=shape).astype(np.float32)
    theirs = keras.Variable(start)
    ours = [tf.constant(start), *(tf.zeros(shape) for _ in optimizer.slots)]
    for step in range(count):
        gradient = tf.constant(rng.normal(scale=10.0 ** (step % 5 - 2), size=shape), tf.float32)
        reference.apply([gradient], [theirs])
        weight, *slots = ours
        ours = optimizer.update(optimizer.rates(tf.constant(step)), weight, gradient, *slots)
    return ours, theirs.numpy()


@pytest.mark.parametrize(
    ("optimizer", "reference"),
    [
        (Adam(CONSTANT), keras.optimizers.Adam(0.01)),
        (Adam(CONSTANT, weight_decay=0.1), keras.optimizers.AdamW(0.01, weight_decay=0.1)),
        (Adamax(CONSTANT), keras.optimizers.Adamax(0.01)),
        (Adam(CONSTANT, epsilon=0.1), keras.optimizers.Adam(0.01, epsilon=0.1)),
        (Adamax(CONSTANT, 0.1), keras.optimizers.Adamax(0.01, epsilon=0.1)),
    ],
    ids=["adam", "adamw", "adamax", "adam with epsilon", "adamax with epsilon"],
)
def test_each_makes_the_steps_that_keras_makes(optimizer, reference):
    ours, theirs = steps(optimizer, reference)
    np.testing.assert_allclose(ours[0], theirs, rtol=2e-5, atol=2e-6)


def test_biases_do_not_decay():
    plain, decaying = (
        steps(Adam(CONSTANT, weight_decay=d), keras.optimizers.Adam(0.01), shape=(4,))[0][0] for d in (0.0, 0.5)
    )
    np.testing.assert_array_equal(plain, decaying)


@pytest.mark.parametrize(
    "optimizer",
    [Adam(CONSTANT), Averaged(Adam(CONSTANT, 0.1), 0.9), Averaged(Adamax(CONSTANT), 0.9)],
    ids=["adam", "averaged adamw", "averaged adamax"],
)
def test_at_rates_of_0_and_a_gradient_of_0_neither_weight_nor_slots_change(optimizer):
    before = [tf.constant([[0.3, -2.0]]) * (1 + i) for i in range(1 + len(optimizer.slots))]
    before[2] = tf.abs(before[2])  # the second moment, or the norm
    rates = tuple(tf.zeros_like(rate) for rate in optimizer.rates(tf.constant(3)))
    for old, new in zip(before, optimizer.update(rates, before[0], tf.zeros((1, 2)), *before[1:]), strict=True):
        np.testing.assert_array_equal(new, old)


@pytest.mark.parametrize("how", ["eager", "compiled"])
def test_bias_corrections_are_those_of_float64(how):
    t = np.arange(1, 10_001)
    first, second = (1 - np.float64(beta) ** t for beta in (0.9, 0.999))
    for optimizer, expected in ((Adam(CONSTANT), np.sqrt(second) / first), (Adamax(CONSTANT), 1 / first)):
        rates = compiled(optimizer.rates) if how == "compiled" else optimizer.rates
        found = rates(tf.constant(t - 1))[0]
        np.testing.assert_allclose(found, np.float64(np.float32(0.01)) * expected, rtol=1e-6)


def test_moments_and_averages_are_those_of_float64():
    decay, count, rng = 0.99999, 4000, np.random.default_rng(0)
    optimizer = Averaged(Adam(CONSTANT), decay)
    weight, *slots = [tf.ones(2000), *(tf.zeros(2000) for _ in range(3))]
    update = compiled(optimizer.update)
    m = v = average = np.zeros(2000)
    for step in range(count):
        gradient = rng.normal(size=2000).astype(np.float32)
        weight, *slots = update(optimizer.rates(tf.constant(step)), weight, gradient, *slots)
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * np.square(gradient, dtype=np.float64)
        average = decay * average + (1 - decay) * weight.numpy()
    np.testing.assert_allclose(slots[0], m, rtol=1e-5, atol=1e-6)
    assert np.mean(slots[1] / v) == pytest.approx(1, abs=2e-6)
    assert np.mean(slots[2] / average) == pytest.approx(1, abs=1e-5)


def test_an_average_weights_earlier_parameters_by_powers_of_the_decay():
    decay, count = 0.9, 30
    optimizer = Averaged(Adam(CONSTANT), decay)
    rng, weight, slots = np.random.default_rng(0), tf.constant([[1.0, -1.0]]), [tf.zeros((1, 2))] * 3
    seen = []
    for step in range(count):
        gradient = tf.constant(rng.normal(size=(1, 2)), tf.float32)
        weight, *slots = optimizer.update(optimizer.rates(tf.constant(step)), weight, gradient, *slots)
        seen.append(weight.numpy())
    powers = decay ** np.arange(count)[::-1]
    expected = np.tensordot(powers, np.array(seen), 1) / powers.sum()
    np.testing.assert_allclose(slots[-1] / mass(decay, count), expected, rtol=1e-5)
    plain = steps(Adam(CONSTANT), keras.optimizers.Adam(0.01))[0][0]
    np.testing.assert_array_equal(steps(optimizer, keras.optimizers.Adam(0.01))[0][0], plain)


def test_an_experiment_names_its_optimizer():
    def made(*overrides):
        return make_optimizer(Experiment().with_overrides(*overrides).training, 3)

    assert made() == Adam(Schedule(1e-4))
    adamw = made("training.optimizer=adamw", "training.weight_decay=0.1", "training.warmup_steps=7")
    assert adamw == Adam(Schedule(1e-4, 7), 0.1)
    assert made("training.optimizer=adamax", "training.schedule=cosine") == Adamax(
        Schedule(1e-4, 0, Fall("cosine", 0, 300))
    )
    assert made("training.epsilon=1e-4") == Adam(Schedule(1e-4), epsilon=1e-4)
    assert made("training.optimizer=adamax", "training.epsilon=1e-4") == Adamax(Schedule(1e-4), 1e-4)
    assert made("training.ema_decay=0.99") == Averaged(Adam(Schedule(1e-4)), 0.99)
