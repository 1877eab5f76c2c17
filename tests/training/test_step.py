"""The compiled step against an eager one with Keras's optimizer."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from vaedist.bench.hlo_cost import work_of
from vaedist.models import VAE
from vaedist.models.products import Factors
from vaedist.models.rng import OBSERVATION, POSTERIOR, row_normal, row_uniform
from vaedist.objectives.elbo import bound
from vaedist.objectives.objective import Objective
from vaedist.training.optimizer import Adam
from vaedist.training.schedule import Schedule
from vaedist.training.step import TrainStep

import keras  # isort: skip

SEED, BATCH, RATE = 11, 16, 0.01
ADAM, ELBO = Adam(Schedule(RATE)), Objective()
FREE_BITS = Objective(warmup=2, free_bits=0.05, group=2)


@pytest.fixture(scope="module")
def compiled():
    """Returns a cache of compiled steps and their models, as compilation takes most of a test's time."""
    return {}


@pytest.fixture
def get_step(compiled, make_model, strategy):
    """Returns a function that makes a step with a fresh model and fresh slots, compiled only once."""

    def get(likelihood="bernoulli", **changes):
        key = (likelihood, *sorted(changes.items()))
        fresh = make_model(likelihood=likelihood)
        if key not in compiled:
            compiled[key] = make_step(fresh, strategy, **changes)
            return compiled[key]
        step = compiled[key]
        step.model.set_weights(fresh.get_weights())
        for variable in itertools.chain(*step.slots.values()):
            variable.assign(tf.zeros_like(variable))
        if step.group_means is not None:
            step.group_means.assign(tf.fill(step.group_means.shape, tf.float32.max))
        return step

    return get


def make_step(model, strategy, optimizer=ADAM, objective=ELBO, **changes):
    settings = {"global_batch": BATCH, "steps_per_call": 3, "norm_every": 1, "seed": SEED} | changes
    return TrainStep(model, strategy, optimizer, objective, **settings)


def snapshot(model):
    return {variable.path: variable.numpy() for variable in model.trainable_variables}


def eager_epoch(model, reader, steps):
    """Trains eagerly over the first steps of an epoch; returns each step's means and the norm of its gradient."""
    optimizer, rows = keras.optimizers.Adam(RATE), []
    for step in range(steps):
        chunk = reader.read(0, step, 1, 1)
        count = int(chunk.counts[0, 0])
        images = chunk.images[0, 0, :count]
        eps = {"z": row_normal(SEED, POSTERIOR, step, 0, count, model.latent)}
        u = tf.reshape(row_uniform(SEED, OBSERVATION, step, 0, count, model.pixels), images.shape)
        with tf.GradientTape() as tape:
            terms = bound(model(images, eps, u if model.preprocessing.noisy else None))
            loss = -tf.reduce_sum(terms.elbo) / BATCH
        weights = model.trainable_variables
        gradients = tape.gradient(loss, [weight.value for weight in weights])
        optimizer.apply(gradients, weights)
        rows.append([count, float(tf.reduce_sum(terms.elbo)), float(tf.linalg.global_norm(gradients))])
    return np.array(rows)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_the_compiled_step_is_the_eager_one(get_step, reader, likelihood):
    step, lanes = get_step(likelihood), reader(BATCH)
    eager = VAE.from_config(step.model.get_config())  # outside the strategy, with the same first weights
    first, finite = step.run(lanes.read(0, 0, 3, 3), 0)
    last, also_finite = step.run(lanes.read(0, 3, 1, 3), 3)  # 53 rows: the last batch has 5
    assert finite
    assert also_finite
    metrics = np.concatenate([first, last])
    expected = eager_epoch(eager, lanes, 4)
    names = step.names
    assert metrics[:, 0].tolist() == [16, 16, 16, 5]
    np.testing.assert_allclose(metrics[:, [0, names.index("elbo"), names.index("gradient_norm")]], expected, rtol=2e-4)
    for name, weight in snapshot(eager).items():
        np.testing.assert_allclose(snapshot(step.model)[name], weight, rtol=1e-3, atol=2e-5, err_msg=name)


def test_steps_per_call_changes_nothing(get_step, reader):
    results = []
    for calls in ([3, 1], [1, 1, 1, 1], [2, 2]):
        step, lanes, taken = get_step(), reader(BATCH), 0
        for count in calls:
            step.run(lanes.read(0, taken, count, 3), taken)
            taken += count
        results.append(snapshot(step.model))
    for other in results[1:]:
        assert all(np.array_equal(results[0][name], other[name]) for name in other)


@pytest.mark.parametrize("parts", [3, pytest.param(16, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "objective", [ELBO, pytest.param(FREE_BITS, marks=pytest.mark.slow)], ids=["elbo", "free bits"]
)
def test_gradient_accumulation_gives_the_update_of_the_whole_batch(get_step, reader, objective, parts):
    lanes, results = reader(BATCH), []
    for accumulation_steps in (1, parts):
        step = get_step(objective=objective, accumulation_steps=accumulation_steps)
        metrics = np.concatenate([step.run(lanes.read(0, k, n, 3), k)[0] for k, n in ((0, 3), (3, 1))])
        results.append((metrics, snapshot(step.model), work_of(step.program(lanes.read(0, 0, 3, 3))).flops))
    (metrics, weights, flops), (metrics_of_parts, weights_of_parts, flops_of_a_part) = results
    np.testing.assert_allclose(metrics_of_parts, metrics, rtol=1e-4)  # the last batch has 5 rows: some parts have none
    for name, weight in weights.items():
        np.testing.assert_allclose(weights_of_parts[name], weight, rtol=1e-3, atol=2e-5, err_msg=name)
    assert flops_of_a_part < 0.6 * flops


def test_a_loss_that_is_not_finite_changes_no_weight(get_step, reader):
    step = get_step()
    model = step.model
    bias = model.decoder.out.bias
    bias.assign(np.where(np.arange(bias.shape[0]) == 7, np.nan, bias.numpy()))
    before = snapshot(model)
    metrics, finite = step.run(reader(BATCH).read(0, 0, 3, 3), 0)
    assert not finite
    assert len(metrics) == 1  # no later step has run
    after = snapshot(model)
    assert all(np.array_equal(before[name], after[name], equal_nan=True) for name in before)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id=""),
        pytest.param({"accumulation_steps": 2}, id="parts", marks=pytest.mark.slow),
        pytest.param({"clip_norm": 1.0}, id="clipped", marks=pytest.mark.slow),
    ],
)
def test_a_gradient_that_is_not_finite_changes_no_weight(make_model, strategy, reader, changes):
    model, chunk = make_model(), reader(BATCH).read(0, 0, 3, 3)
    step = make_step(model, strategy, norm_every=1000, **changes)  # found without the norm
    paths, at_fault = [weight.path for weight in model.trainable_variables], tf.Variable(-1)
    gradients = step._gradients

    def poisoned(*args, **options):
        values, sums = gradients(*args, **options)
        for i, value in enumerate(values):
            factor = tf.where(tf.equal(at_fault, i), np.inf, 1.0)
            values[i] = Factors(value.x, value.dy * factor) if isinstance(value, Factors) else value * factor
        return values, sums

    step._gradients = poisoned
    before = snapshot(model)
    for i, path in enumerate(paths):
        at_fault.assign(i)
        metrics, finite = step.run(chunk, 0)
        assert not finite, path
        assert len(metrics) == 1
        assert np.isfinite(metrics[0, : len(step.names) - 1]).all()
        after = snapshot(model)
        assert all(np.array_equal(before[name], after[name]) for name in before), path
        assert all(np.isfinite(v.numpy()).all() for slot in step.slots.values() for v in slot), path
    assert step.weights_at_fault(chunk, 0, 0) == [paths[-1]]
    at_fault.assign(-1)
    assert step.weights_at_fault(chunk, 0, 0) == []
    assert step.run(chunk, 0)[1]


def test_a_product_of_rows_that_overflows_changes_no_weight(make_model, strategy, reader):
    model, chunk = make_model(), reader(BATCH).read(0, 0, 3, 3)
    step = make_step(model, strategy, norm_every=1000)
    model.encoder.hidden[0].kernel.assign(
        1e30 * model.encoder.hidden[0].kernel
    )  # tanh of it is finite, and so is the loss
    model.decoder.hidden[0].kernel.assign(model.decoder.hidden[0].kernel * 0 + 1e-30)
    model.decoder.out.kernel.assign(model.decoder.out.kernel * 0 + 1e30)
    before = snapshot(model)
    metrics, finite = step.run(chunk, 0)
    assert np.isfinite(metrics[0, : len(step.names) - 1]).all()
    assert not finite
    assert all(np.array_equal(before[name], value) for name, value in snapshot(model).items())
    assert step.weights_at_fault(chunk, 0, 0)


@pytest.mark.parametrize("clip_norm", [0.0, 1e9])
def test_a_step_in_mixed_precision_is_close_to_one_in_float32(make_model, strategy, reader, clip_norm):
    chunk, found = reader(BATCH).read(0, 0, 3, 3), []
    for dtype in ("float32", "mixed_bfloat16"):
        model = make_model(dtype=dtype)
        before = snapshot(model)
        metrics, finite = make_step(model, strategy, clip_norm=clip_norm).run(chunk, 0)
        assert finite
        assert {value.dtype.name for value in snapshot(model).values()} == {"float32"}
        moved = np.concatenate([np.ravel(value - before[name]) for name, value in snapshot(model).items()])
        found.append((metrics, moved))
    (exact, moved), (rounded, also_moved) = found
    np.testing.assert_allclose(rounded[:, 1], exact[:, 1], rtol=0.01)
    np.testing.assert_allclose(rounded[:, -1], exact[:, -1], rtol=0.05)  # norms of the gradient
    assert moved @ also_moved / np.linalg.norm(moved) / np.linalg.norm(also_moved) > 0.95


def test_the_norm_is_computed_on_request(get_step, reader):
    step = get_step(norm_every=2)
    metrics, _ = step.run(reader(BATCH).read(0, 0, 3, 3), 0)
    assert metrics[0, -1] == 0
    assert metrics[1, -1] > 0
    assert metrics[2, -1] == 0


def test_a_stop_request_is_seen_in_every_step(get_step, reader):
    step = get_step()
    column = step.names.index("stop")
    for stop in (False, True):
        metrics, _ = step.run(reader(BATCH).read(0, 0, 2, 3), 0, stop=stop)
        assert metrics[:, column].tolist() == [float(stop)] * 2
