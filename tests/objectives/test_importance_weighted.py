"""The importance-weighted bound in training against NumPy, the ELBO and the evaluation, and on two devices."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from mlp_vae import vae
from small_models import Layered, Plain

from vaedist.data.manifest import load_manifest
from vaedist.data.rows import SplitRows
from vaedist.devices.batches import Batch
from vaedist.devices.compilation import compiled
from vaedist.evaluation import importance
from vaedist.evaluation.bounds import importance_bounds
from vaedist.evaluation.scoring import score
from vaedist.models.model import Score
from vaedist.models.products import Factors
from vaedist.models.rng import POSTERIOR, row_noise
from vaedist.objectives.objective import Objective, log_mean_exp
from vaedist.training.batch_gradient import BatchGradient, ReplicaVariables

SEED, K = 5, 5
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 1), dtype=np.uint8)


class AlongAnAxis(Objective):
    """The importance-weighted bound of one sample, whose noise has an axis of samples."""

    is_elbo, drawn = False, 1


def batch_of(images, count=None):
    rows = len(images)
    return Batch(
        tf.constant(images), tf.constant(0, tf.int64), tf.constant(count or rows), tf.range(rows, dtype=tf.int64)
    )


def gradients_of(model, objective, images, *, count=None, step=0, means=None, factored=False, how=compiled):
    """Returns the gradient of -L / rows by each weight, and the sums of the columns by name."""
    gradient = BatchGradient(
        model, objective, global_batch=len(images), accumulation_steps=1, kernel_first=how is compiled, seed=SEED
    )
    variables = ReplicaVariables(
        [weight.value for weight in model.trainable_variables], [value.value for value in gradient.state], means
    )

    def take(batch, step):
        found, sums = gradient(variables, batch, step, factored=gradient.kernels if factored else ())
        return [part.product() if isinstance(part, Factors) else part for part in found], sums

    found, sums = how(take)(batch_of(images, count), tf.constant(step, tf.int64))
    return [part.numpy() for part in found], dict(zip(gradient.columns, sums.numpy().tolist(), strict=False))


@pytest.mark.parametrize("how", [compiled, lambda function: function], ids=["compiled", "eager"])
@pytest.mark.parametrize(
    "make", [Plain, lambda: vae((4, 4, 1), hidden=6, latent=3, flow_depth=1, flow_width=5)], ids=["layers", "flow"]
)
def test_one_sample_gives_the_gradient_of_the_elbo_bit_by_bit(make, how):
    model = make()
    for options in ({}, {"factored": True}):
        elbo, sums = gradients_of(model, Objective(), IMAGES, how=how, **options)
        one, sums_of_one = gradients_of(model, AlongAnAxis(), IMAGES, how=how, **options)
        assert sums_of_one["objective"] == sums["elbo"] == sums_of_one["elbo"]
        for weight, expected, found in zip(model.trainable_variables, elbo, one, strict=True):
            np.testing.assert_array_equal(found, expected, err_msg=weight.path)


def reference_log_weights(weights, x, eps):
    """log p(x, z) - log q(z|x) of `Plain` in float64, [B, K], from its weights, x [B, D] and eps [B, K, latent]."""
    kernel1, bias1, kernel2, bias2, kernel3, bias3 = weights
    mu, log_sigma = np.split(np.tanh(x @ kernel1 + bias1) @ kernel2 + bias2, 2, axis=-1)
    mu, log_sigma = mu[:, None], log_sigma[:, None]
    z = mu + np.exp(log_sigma) * eps
    logits = z @ kernel3 + bias3
    log_px = np.sum(x[:, None] * logits - np.logaddexp(0, logits), axis=-1)
    half_log_2pi = 0.5 * np.log(2 * np.pi)
    log_p = np.sum(-0.5 * z**2 - half_log_2pi, axis=-1)
    log_q = np.sum(-0.5 * ((z - mu) / np.exp(log_sigma)) ** 2 - log_sigma - half_log_2pi, axis=-1)
    return log_px + log_p - log_q


def drawn_noise(shapes, samples, step=0):
    return row_noise(SEED, POSTERIOR, tf.constant(step, tf.int64), 0, len(IMAGES), shapes, samples)


def test_five_samples_give_the_bound_and_the_gradient_of_numpy():
    """L_K = log 1/K sum_k w_k, and its gradient sum_k w_k / (sum_j w_j) d log w_k, by differences of log w_k."""
    model = Plain()
    found, sums = gradients_of(model, Objective(samples=K), IMAGES)
    x = IMAGES.reshape(len(IMAGES), -1) / 255.0
    eps = drawn_noise(model.noise, K)["z"].numpy().astype(np.float64)
    weights = [weight.numpy().astype(np.float64) for weight in model.trainable_variables]
    log_w = reference_log_weights(weights, x, eps)
    assert log_w.std(axis=1).min() > 0.1  # the samples are different
    bound = np.log(np.exp(log_w).mean(axis=1))
    assert sums["objective"] == pytest.approx(bound.sum(), rel=1e-6)
    assert sums["elbo"] == pytest.approx(log_w.mean(axis=1).sum(), rel=1e-6)
    assert sums["elbo"] < sums["objective"]
    normalised = np.exp(log_w) / np.exp(log_w).sum(axis=1, keepdims=True)
    for i, (weight, gradient) in enumerate(zip(weights, found, strict=True)):
        expected = np.zeros_like(weight)
        for place in np.ndindex(*weight.shape):
            sides = []
            for shift in (1e-5, -1e-5):
                moved = [one.copy() for one in weights]
                moved[i][place] += shift
                sides.append(reference_log_weights(moved, x, eps))
            expected[place] = -np.sum(normalised * (sides[0] - sides[1])) / 2e-5 / len(IMAGES)
        np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_the_bound_of_training_is_that_of_evaluation_on_the_same_noise(small_dataset, monkeypatch):
    monkeypatch.setattr(importance, "IMPORTANCE", POSTERIOR)
    rows = SplitRows(str(small_dataset), load_manifest(str(small_dataset)), "test")
    images = rows.read(0, 19)
    model = vae((4, 6, 3), hidden=8, latent=3, flow_depth=1, flow_width=5)
    evaluator = importance.ImportanceEvaluator(model, rows, samples=K, seed=SEED)
    assert (evaluator.rounds, evaluator.blocks) == (1, 1)  # so that sample k of row r has the same noise in both
    evaluated = evaluator.summary(list(evaluator.scores()))
    _, sums = gradients_of(model, Objective(samples=K), images)
    assert sums["objective"] / 19 == pytest.approx(evaluated.bounds[K].mean, rel=1e-6)
    assert sums["elbo"] / 19 == pytest.approx(evaluated.bounds[1].mean, rel=1e-6)
    assert sums["kl"] / 19 == pytest.approx(evaluated.kl.mean, rel=1e-5)


def test_the_bound_of_training_is_the_formula_of_evaluation():
    log_w = np.random.default_rng(0).normal(-90, 4, (7, 8)).astype(np.float32)
    np.testing.assert_allclose(log_mean_exp(tf.constant(log_w)), importance_bounds(log_w)[8], rtol=1e-6)


def test_columns_are_means_over_samples_and_padding_does_not_count():
    model = Plain()
    padded = np.concatenate([IMAGES, np.full((2, *IMAGES.shape[1:]), 255, np.uint8)])
    found, sums = gradients_of(model, Objective(samples=K), padded, count=len(IMAGES))
    alone, expected = gradients_of(model, Objective(samples=K), IMAGES)
    assert sums["rows"] == len(IMAGES)
    assert sums == pytest.approx(expected, rel=1e-6)
    for gradient, whole in zip(found, alone, strict=True):  # of -L / 8 and of -L / 6
        np.testing.assert_allclose(8 * gradient, 6 * whole, rtol=1e-4, atol=1e-6)
    scored = score(model, tf.constant(IMAGES), drawn_noise(model.noise, K), None, samples=K)
    kl = scored.kl["z"].numpy().sum(axis=-1)
    assert kl.shape == (len(IMAGES), K)
    assert expected["kl"] == pytest.approx(kl.mean(axis=1).sum(), rel=1e-5)
    assert expected["reconstruction"] == pytest.approx(scored.log_px.numpy().mean(axis=1).sum(), rel=1e-5)


def by_hand(score, *, beta, free_bits, group, means):
    """log w of each sample, [B, K], in float64: warm-up, and free bits by groups of each layer."""
    log_w = score.log_px.numpy().astype(np.float64)
    j = 0
    for kl in score.kl.values():
        values, size = kl.numpy().astype(np.float64), group or kl.shape[-1]
        for first in range(0, values.shape[-1], size):
            summed = values[..., first : first + size].sum(axis=-1)
            log_w = log_w - beta * (summed if means[j] > free_bits else free_bits)
            j += 1
    assert j == len(means)
    return log_w


@pytest.mark.parametrize(("group", "groups"), [(0, 2), (1, 5), (2, 3)])
def test_warm_up_and_free_bits_by_layer_apply_to_the_term_of_each_sample(group, groups):
    """The model has two layers, of 2 and 3 latents; a group size of 0 makes each layer one group."""
    model, step = Layered(), 2
    scored = score(model, tf.constant(IMAGES), drawn_noise(model.noise, K, step=step), None, samples=K)
    plain = Objective(group=group)
    assert plain.groups({"z2": 2, "z1": 3}) == groups
    means = plain.group_kl(scored).numpy().mean(axis=(0, 1))
    assert means.shape == (groups,)
    free_bits = float(np.sort(means)[:2].mean())  # so that some groups are below it, and some above
    objective = Objective(warmup=4, free_bits=free_bits, group=group, samples=K)
    log_w = by_hand(scored, beta=0.75, free_bits=free_bits, group=group, means=means)
    expected = np.log(np.exp(log_w).mean(axis=1))
    np.testing.assert_allclose(objective.value(scored, step, tf.constant(means)), expected, rtol=1e-5)
    _, sums = gradients_of(model, objective, IMAGES, step=step, means=tf.constant(means))
    assert sums["objective"] == pytest.approx(expected.sum(), rel=1e-5)
    assert sums["kl_z2"] + sums["kl_z1"] == pytest.approx(sums["kl"], rel=1e-5)


def test_groups_below_their_free_bits_have_no_gradient():
    layers = {"a": tf.Variable([[0.5, 0.5, 0.5]]), "b": tf.Variable([[0.5, 0.5]])}
    objective = Objective(free_bits=1.2, group=0)
    with tf.GradientTape() as tape:
        scored = Score(tf.zeros(1), {name: 1.0 * kl for name, kl in layers.items()}, {})
        value = objective.value(scored, 0, tf.reduce_mean(objective.group_kl(scored), axis=0))
    a, b = tape.gradient(value, list(layers.values()))
    assert value.numpy().tolist() == pytest.approx([-1.5 - 1.2])  # all of "a", 1.5 nats, and the bound in place of "b"
    np.testing.assert_array_equal(a, [[-1.0, -1.0, -1.0]])
    np.testing.assert_array_equal(b, [[0.0, 0.0]])


# Updates on one and on two devices, of whole batches and of three micro-batches; the last batch has padding.
DEVICES = """
import json, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from vaedist.devices.strategy import configure_devices, make_strategy
configure_devices(threads=1, gpus=0, logical_devices=2)
import tensorflow as tf
from small_models import Layered, Plain
from vaedist.data.lanes import LanePlan
from vaedist.data.lane_reader import LaneReader
from mlp_vae import vae
from vaedist.objectives.objective import Objective
from vaedist.training.optimizer import Adam, Schedule
from vaedist.training.step import TrainStep

both = make_strategy(workers=1)
alone = tf.distribute.MirroredStrategy(both.extended.worker_devices[:1])
images = np.random.default_rng(0).integers(0, 256, (22, 4, 4, 1), dtype=np.uint8)
lanes = [images[lane::4] for lane in range(4)]
FREE = 1.2  # nats, between the two layers
CASES = {
    "samples": (lambda: vae((4, 4, 1), hidden=20, latent=4, flow_depth=0), Objective(samples=5)),
    "dreg": (Plain, Objective(samples=5, gradient="dreg", warmup=4)),
    "free bits": (Layered, Objective(warmup=4, free_bits=FREE, group=0, samples=3)),
}
found = {}
for case, (make, objective) in CASES.items():
    for strategy, parts in ((alone, 1), (alone, 3), (both, 1 if case == "samples" else 3)):
        with strategy.scope():
            model = make()
        step = TrainStep(
            model, strategy, Adam(Schedule(1e-3)), objective, global_batch=8, steps_per_call=3, norm_every=1,
            accumulation_steps=parts, seed=0,
        )
        replicas = strategy.num_replicas_in_sync
        chunk = LaneReader(LanePlan(22, 4, 8), lanes, replicas=replicas, seed=0).read(0, 0, 3, 3)
        metrics, finite = step.run(chunk, 0)
        assert finite
        moments = np.concatenate([moment.numpy().ravel() for moment in step.slots["m"]])
        weights = np.concatenate([weight.numpy().ravel() for weight in step.weights])
        result = [metrics.ravel(), moments, weights]
        if objective.free_bits:
            copies = [copy.numpy() for copy in step.group_means.values]
            assert all(np.array_equal(copy, copies[0]) for copy in copies)
            assert copies[0].min() < FREE < copies[0].max(), copies
            result.append(copies[0])
        first = found.setdefault(case, result)
        apart = [float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(result, first)]
        print(json.dumps([case, replicas, parts, step.names, metrics[:, 0].tolist(), apart]))
"""


def test_devices_and_parts_of_a_batch_give_the_same_updates():
    said = subprocess.run(
        [sys.executable, "-c", DEVICES, str(Path(__file__).parents[1])],
        env=os.environ | {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert said.returncode == 0, said.stderr[-3000:]
    found = [json.loads(line) for line in said.stdout.splitlines() if line.startswith("[")]
    assert len(found) == 9
    for case, replicas, parts, names, rows, apart in found:
        where = f"{case}, {replicas} device(s), {parts} part(s)"
        assert "objective" in names, where
        assert rows == [8, 8, 6], where
        assert max(apart) < 1e-6, (where, apart)
