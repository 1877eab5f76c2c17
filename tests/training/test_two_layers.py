"""The step of a model with two stochastic layers against an eager one with Keras's optimizer."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny import TinyHierarchy

from vaedist.evaluation.scoring import score
from vaedist.models.preprocessing import Dynamic
from vaedist.models.rng import OBSERVATION, POSTERIOR, row_noise, row_uniform
from vaedist.objectives.objective import Objective
from vaedist.training.optimizer import Adam, Schedule
from vaedist.training.step import TrainStep

SHAPE, SEED, BATCH, RATE = (4, 6, 3), 11, 16, 0.01
WARMUP, FREE = 3, 2.0  # nats; in the steps before the last, both layers are above it, then one
OBJECTIVES = {
    "elbo": Objective(),
    "free bits by layer": Objective(WARMUP, FREE, group=0),
    "importance weighted": Objective(samples=3),
}


@pytest.fixture
def make_model(strategy):
    """Creates the model in the strategy's scope."""

    def make():
        with strategy.scope():
            return TinyHierarchy(SHAPE, preprocessing=Dynamic(), seed=3)

    return make


def make_step(model, strategy, objective, **changes):
    return TrainStep(
        model, strategy, Adam(Schedule(RATE)), objective, global_batch=BATCH, steps_per_call=4, norm_every=1, seed=SEED,
        **changes,
    )  # fmt: skip


def snapshot(model):
    return {variable.path: variable.numpy() for variable in model.trainable_variables}


def value_of(objective, scored, step, active):
    """Returns the objective of each image, by its definition for one group in each layer; and the layers above FREE."""
    layers = {name: tf.reduce_sum(kl, axis=-1) for name, kl in scored.kl.items()}
    above = [name for name, kl in layers.items() if tf.reduce_mean(kl) > FREE]
    if objective.free_bits:
        layers = {name: kl if name in active else FREE for name, kl in layers.items()}
    weight = min(1.0, (step + 1) / WARMUP) if objective.warmup else 1.0
    log_w = scored.log_px - weight * sum(layers.values())
    return above, log_w if objective.samples == 1 else tf.reduce_logsumexp(log_w, axis=1) - np.log(3)


def eager_epoch(model, reader, objective):
    """Trains eagerly over the four steps of an epoch; returns each step's columns, and the layers above free bits."""
    optimizer, rows, active = keras.optimizers.Adam(RATE), [], [["z_2", "z_1"]]
    samples = objective.samples if objective.samples > 1 else None
    for step in range(4):
        chunk = reader.read(0, step, 1, 1)
        count = int(chunk.counts[0, 0])
        images = chunk.images[0, 0, :count]
        eps = row_noise(SEED, POSTERIOR, step, 0, count, model.noise, samples)
        u = tf.reshape(row_uniform(SEED, OBSERVATION, step, 0, count, model.pixels), images.shape)
        with tf.GradientTape() as tape:
            scored = score(model, images, eps, u, samples=samples)
            above, values = value_of(objective, scored, step, active[-1])
            loss = -tf.reduce_sum(values) / BATCH
        active.append(above)
        weights = model.trainable_variables
        gradients = tape.gradient(loss, [weight.value for weight in weights], unconnected_gradients="zero")
        optimizer.apply(gradients, weights)
        kl = {f"kl_{name}": tf.reduce_sum(each, axis=-1) for name, each in scored.kl.items()}
        columns = {"reconstruction": scored.log_px, **kl, "away": scored.metrics["away"]}
        columns = {name: tf.reduce_mean(tf.reshape(x, (count, -1)), axis=1) for name, x in columns.items()}
        columns = {"rows": tf.ones(count), **columns, "objective": values}
        norm = float(tf.linalg.global_norm(gradients))
        rows.append({name: float(tf.reduce_sum(x)) for name, x in columns.items()} | {"gradient_norm": norm})
    return rows, active[:-1]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_compiled_step_is_the_eager_one(make_model, strategy, reader, name):
    objective, lanes = OBJECTIVES[name], reader(BATCH)
    model, eager = make_model(), TinyHierarchy(SHAPE, preprocessing=Dynamic(), seed=3)
    step = make_step(model, strategy, objective)
    metrics, finite = step.run(lanes.read(0, 0, 4, 4), 0)  # 53 rows: the last batch has 5
    assert finite
    expected, active = eager_epoch(eager, lanes, objective)
    assert {"kl_z_2", "kl_z_1", "away"} < set(step.names)
    for k, row in enumerate(expected):
        found = dict(zip(step.names, metrics[k], strict=True))
        assert found["kl"] == pytest.approx(found["kl_z_2"] + found["kl_z_1"], rel=1e-4)
        assert found["elbo"] == pytest.approx(found["reconstruction"] - found["kl"], rel=1e-4)
        if objective.is_elbo:
            row["elbo"] = row.pop("objective")
        assert {key: found[key] for key in row} == pytest.approx(row, rel=5e-4, abs=1e-3)
    for path, weight in snapshot(eager).items():
        np.testing.assert_allclose(snapshot(model)[path], weight, rtol=1e-3, atol=5e-5, err_msg=path)
    if objective.free_bits:
        assert [len(layers) for layers in active] == [2, 2, 2, 1]
        last = dict(zip(step.names, metrics[-1], strict=True))
        assert last["rows"] == 5  # and 11 of padding
        means = [last["kl_z_2"] / last["rows"], last["kl_z_1"] / last["rows"]]
        np.testing.assert_allclose(step.group_means, means, rtol=1e-4)


def test_gradient_accumulation_has_the_free_bits_of_the_whole_batch(make_model, strategy, reader):
    results = []
    for parts in (1, 3):
        model = make_model()
        step = make_step(model, strategy, OBJECTIVES["free bits by layer"], accumulation_steps=parts)
        metrics, finite = step.run(reader(BATCH).read(0, 0, 4, 4), 0)
        assert finite
        results.append((metrics, snapshot(model)))
    (metrics, weights), (metrics_of_parts, weights_of_parts) = results
    np.testing.assert_allclose(metrics_of_parts, metrics, rtol=1e-4, atol=1e-4)
    for path, weight in weights.items():
        np.testing.assert_allclose(weights_of_parts[path], weight, rtol=1e-3, atol=2e-5, err_msg=path)
