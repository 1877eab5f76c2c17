"""Updates are all or nothing: if one gradient is not finite, no weight changes."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

import vaedist.models  # noqa: F401 - chooses Keras's backend
from vaedist.devices.compilation import compiled
from vaedist.models.products import Factors
from vaedist.training.optimizer import Adam, Adamax, Averaged, Schedule
from vaedist.training.update import Update

CONSTANT = Schedule(0.01)
OPTIMIZERS = {
    "adam": Adam(CONSTANT),
    "adamw": Adam(CONSTANT, weight_decay=0.1),
    "adamax": Adamax(CONSTANT),
    "averaged": Averaged(Adam(CONSTANT), 0.9),
}
LAYERS = {  # shapes of weights in the order of a forward pass
    "with biases": [(3, 4), (4,), (4, 5), (5,)],
    "without biases": [(3, 4), (4, 5), (5, 2)],
    "other ranks": [(2, 2, 3, 4), (), (4, 5)],
}
BAD = [np.inf, -np.inf, np.nan, 1e38, -1e38, 1e25]  # the square of the last three is no float32
FINITE_SUMS = np.array([1.0, 2.0], np.float32)


def make_update(strategy, optimizer, shapes, clip_norm, supports=None):
    rng = np.random.default_rng(0)
    with strategy.scope():
        weights = [tf.Variable(rng.normal(size=shape).astype(np.float32)) for shape in shapes]
        return Update(optimizer, weights, supports or {}, norm_every=1000, clip_norm=clip_norm)


def state(update):
    return [variable.numpy() for variable in update.weights]


def slots(update):
    return [variable.numpy() for variable in itertools.chain(*update.slots.values())]


def poisons(gradients):
    """Yields the gradients with one number of each of them replaced in turn, and a description of the replacement."""
    for i, gradient in enumerate(gradients):
        for bad, place in itertools.product(BAD, {0, gradient.size - 1}):
            poisoned = gradient.copy()
            poisoned.flat[place] = bad
            yield [*gradients[:i], poisoned, *gradients[i + 1 :]], f"{bad} at {place} of gradient {i}"


@pytest.mark.parametrize("clip_norm", [0.0, 0.5])
@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_one_bad_number_in_any_gradient_changes_no_weight(strategy, optimizer, layers, clip_norm):
    shapes, rng = LAYERS[layers], np.random.default_rng(1)
    update = make_update(strategy, OPTIMIZERS[optimizer], shapes, clip_norm)
    apply = compiled(lambda gradients, sums, step: update(gradients, sums, step, 0))
    good = [np.asarray(rng.normal(size=shape), np.float32) for shape in shapes]
    finite, _ = apply(good, FINITE_SUMS, tf.constant(0, tf.int64))
    before = state(update)
    assert finite
    for gradients, what in poisons(good):
        finite, _ = apply(gradients, FINITE_SUMS, tf.constant(1, tf.int64))
        assert not finite, what
        for old, new in zip(before, state(update), strict=True):
            np.testing.assert_array_equal(new, old, err_msg=what)
        assert all(np.isfinite(slot).all() for slot in slots(update)), what
    finite, _ = apply(good, FINITE_SUMS, tf.constant(1, tf.int64))
    assert finite
    assert not any(np.array_equal(old, new) for old, new in zip(before, state(update), strict=True))
    finite, _ = apply(good, FINITE_SUMS * np.nan, tf.constant(2, tf.int64))
    assert not finite


@pytest.mark.parametrize("clip_norm", [0.0, 0.5])
@pytest.mark.parametrize("optimizer", ["adam", "adamax"])
def test_one_bad_number_in_the_factors_of_a_gradient_changes_no_weight(strategy, optimizer, clip_norm):
    shapes, rows, rng = [(3, 4), (4,), (4, 5)], 6, np.random.default_rng(1)
    supports = {2: np.tril(np.ones((4, 5), bool))}
    update = make_update(strategy, OPTIMIZERS[optimizer], shapes, clip_norm, supports)

    def factored(x_0, dy_0, bias, x_2, dy_2, step):
        return update([Factors(x_0, dy_0), bias, Factors(x_2, dy_2)], tf.constant(FINITE_SUMS), step, 0)

    apply = compiled(factored)
    sizes = [(rows, 3), (rows, 4), (4,), (rows, 4), (rows, 5)]
    good = [rng.normal(size=size).astype(np.float32) for size in sizes]
    update.clear(0)
    finite, _ = apply(*good, tf.constant(0, tf.int64))
    before = state(update)
    assert finite
    for parts, what in poisons(good):
        finite, _ = apply(*parts, tf.constant(1, tf.int64))
        assert not finite, what
        for old, new in zip(before, state(update), strict=True):
            np.testing.assert_array_equal(new, old, err_msg=what)
    huge = [1e13 * part if part.ndim == 2 else part for part in good]  # whose products have squares beyond float32
    assert not apply(*huge, tf.constant(1, tf.int64))[0]
    assert not any(not np.isfinite(slot).all() for slot in slots(update))
    assert apply(*good, tf.constant(1, tf.int64))[0]


def test_factors_and_their_product_give_the_same_update(strategy):
    shapes, rng = [(3, 4), (4, 5)], np.random.default_rng(2)
    factors = [Factors(*(rng.normal(size=(6, size)).astype(np.float32) for size in shape)) for shape in shapes]
    results = []
    for gradients in (factors, [gradient.x.T @ gradient.dy for gradient in factors]):
        update = make_update(strategy, OPTIMIZERS["adam"], shapes, 0.0)
        assert compiled(lambda g, step, update=update: update(g, tf.constant(FINITE_SUMS), step, 0))(
            gradients, tf.constant(0, tf.int64)
        )[0]
        results.append(state(update))
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
