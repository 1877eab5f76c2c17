"""Evaluation and inspection of a model with two stochastic layers against the same numbers of single images."""

import numpy as np
import pytest
import tensorflow as tf
from tiny import TinyHierarchy

from vaedist.data.manifest import load_manifest
from vaedist.data.rows import SplitRows
from vaedist.evaluation import importance, inspection
from vaedist.evaluation.active_units import active_units, latent_moments
from vaedist.evaluation.bounds import importance_bounds
from vaedist.evaluation.importance import ImportanceEvaluator
from vaedist.evaluation.scoring import score
from vaedist.evaluation.test_pass import Evaluator
from vaedist.models.preprocessing import Dynamic
from vaedist.models.rng import EVALUATION, IMPORTANCE, INSPECTION, PIXELS, PRIOR, pixel_uniform, row_noise, row_uniform
from vaedist.objectives.elbo import bound

SHAPE, SEED = (4, 6, 3), 9
IMAGES = np.random.default_rng(0).integers(0, 256, (21, *SHAPE), np.uint8)


def make_model(cls=TinyHierarchy):
    made = cls(SHAPE, preprocessing=Dynamic())
    rng = np.random.default_rng(1)
    made.set_weights([rng.normal(0, 0.4, weight.shape) for weight in made.get_weights()])
    return made


@pytest.fixture
def model(strategy):
    with strategy.scope():
        return make_model()


def pixel_noise(numbers):
    return tf.reshape(pixel_uniform(numbers, 72), (-1, *SHAPE))


def flat(parts):
    """Concatenates the latents, or the KL, of both layers, the top layer first."""
    return np.concatenate([parts[name].numpy().reshape(len(parts[name]), -1) for name in ("z_2", "z_1")], axis=1)


def test_the_test_pass_has_the_means_of_all_rows_by_layer(model, strategy, reader):
    lanes, found = reader(16, seed=None), []
    means = Evaluator(model, strategy, lanes, seed=4).run(epoch=2)
    for step in range(lanes.plan.steps):
        chunk = lanes.read(0, step, 1, 1)
        count = int(chunk.counts[0, 0])
        eps = row_noise(4, EVALUATION, 2 * lanes.plan.steps + step, 0, count, model.noise)
        scored = score(model, chunk.images[0, 0, :count], eps, pixel_noise(chunk.numbers[0, 0, :count]))
        kl = {f"kl_{name}": tf.reduce_sum(each, axis=-1) for name, each in scored.kl.items()}
        parts = bound(scored)
        columns = {"elbo": parts.elbo, "reconstruction": parts.reconstruction, "kl": parts.kl, **kl, **scored.metrics}
        found.append({name: values.numpy() for name, values in columns.items()})
    expected = {name: np.concatenate([batch[name] for batch in found]).mean() for name in found[0]}
    assert list(means) == ["rows", "elbo", "reconstruction", "kl", "kl_z_2", "kl_z_1", "away"]
    assert means == pytest.approx({"rows": 53, **expected}, rel=1e-5)
    assert means["kl"] == pytest.approx(means["kl_z_2"] + means["kl_z_1"], rel=1e-6)


@pytest.mark.parametrize("shares", [True, False])
@pytest.mark.parametrize("samples", [1, 6])
def test_importance_weighted_bounds_are_those_of_single_images(small_dataset, monkeypatch, samples, shares):
    """The cases are a model that shares encodings among samples, and one that does not."""
    monkeypatch.setattr(importance, "BLOCK_BYTES", 16 * 8 * 72)
    monkeypatch.setattr(importance, "SAMPLES_AT_ONCE", 4)
    model = make_model(TinyHierarchy if shares else type("Copying", (TinyHierarchy,), {"broadcasts": False}))
    rows = SplitRows(str(small_dataset), load_manifest(str(small_dataset)), "test")
    evaluator = ImportanceEvaluator(model, rows, samples=samples, seed=SEED)
    found = evaluator.summary([evaluator.score(number) for number in range(evaluator.blocks)])
    assert evaluator.blocks > 1
    assert rows.rows % evaluator.block
    images, numbers, scores = rows.read(0, 19), rows.numbers(0, 19), []
    for number in range(19):
        first, place = divmod(number, evaluator.block)
        draws = []
        for t in range(evaluator.rounds):
            first_row, at_once = first * evaluator.block, evaluator.at_once
            block = row_noise(SEED, IMPORTANCE, t, first_row, evaluator.block, model.noise, at_once)
            draws += [{name: eps[place, k][None] for name, eps in block.items()} for k in range(at_once)]
        u = pixel_noise(numbers[number : number + 1])
        scores.append([score(model, images[number : number + 1], eps, u) for eps in draws[:samples]])
    log_w, log_px = (
        np.array([[float(f(one)[0]) for one in image] for image in scores])
        for f in (lambda one: bound(one).elbo, lambda one: one.log_px)
    )
    kl, z = (
        np.array([[flat(f(one))[0] for one in image] for image in scores])
        for f in (lambda one: one.kl, lambda one: one.latents)
    )
    for k, values in importance_bounds(log_w).items():
        assert found.bounds[k].mean == pytest.approx(values.mean(), rel=1e-5)
    assert found.reconstruction.mean == pytest.approx(log_px.mean(), rel=1e-5)
    assert found.kl.mean == pytest.approx(kl.sum(axis=-1).mean(), rel=1e-4)
    np.testing.assert_allclose(found.kl_per_unit, kl.mean(axis=(0, 1)), rtol=1e-3, atol=1e-4)
    for name, groups in (("z_2", kl[..., :2]), ("z_1", kl[..., 2:])):
        each = groups.sum(axis=-1).mean(axis=1)
        assert found.kl_by_layer[name].mean == pytest.approx(each.mean(), rel=1e-4)
        assert found.kl_by_layer[name].standard_error == pytest.approx(each.std(ddof=1) / np.sqrt(19), rel=1e-3)
    assert (found.latents, found.channels) == (8, {"z_1": 3})
    assert found.active_channels == {"z_1": np.sum(kl[..., 2:].mean(axis=(0, 1)) > 0.01)}
    if samples > 1:
        moments = [evaluator.score(number).moments for number in range(evaluator.blocks)]
        expected = latent_moments(z.sum(axis=1), (z**2).sum(axis=1), samples)
        np.testing.assert_allclose(sum(part.mean for part in moments), expected.mean, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(sum(part.within for part in moments), expected.within, rtol=1e-3, atol=1e-4)


@pytest.fixture
def shown(model, monkeypatch):
    """Returns the scores of images with the noise of inspection, in blocks of a few images."""
    monkeypatch.setattr(inspection, "BLOCK", 8)
    eps = row_noise(SEED, INSPECTION, 0, 0, 21, model.noise)
    return score(model, IMAGES, eps, pixel_noise(np.arange(21)))


def test_latents_of_all_layers_are_concatenated_and_decoded(model, shown):
    z = inspection.encode(model, IMAGES, seed=SEED)
    assert z.shape == (21, 2 + 6)
    np.testing.assert_allclose(z, flat(shown.latents), rtol=1e-4, atol=1e-5)
    pictures = model.decode(shown.latents)
    np.testing.assert_allclose(inspection.decode(model, z), pictures, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(inspection.reconstruct(model, IMAGES, seed=SEED), pictures, rtol=1e-4, atol=1e-5)
    paths = inspection.interpolate(model, IMAGES[:4], steps=5, seed=SEED).reshape(2, 5, *SHAPE)
    np.testing.assert_allclose(paths[:, 0], pictures[0:4:2], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(paths[:, -1], pictures[1:4:2], rtol=1e-3, atol=1e-4)
    half = {}
    for name, values in shown.latents.items():  # a great circle in each layer
        a, b = (tf.reshape(values, (21, -1)).numpy()[start:4:2] for start in (0, 1))
        cosine = np.sum(a * b, axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        half[name] = ((a + b) / np.sqrt(2 + 2 * cosine[:, None])).reshape(-1, *values.shape[1:])
    np.testing.assert_allclose(paths[:, 2], model.decode(half), rtol=1e-3, atol=1e-4)


def test_a_projection_of_many_latents_keeps_distances(model, monkeypatch):
    z = inspection.encode(model, IMAGES, seed=SEED)
    np.testing.assert_array_equal(inspection.projected(model, IMAGES, dims=8, seed=SEED), z)
    monkeypatch.setattr(inspection, "BLOCK", 8)
    found = inspection.projected(model, IMAGES, dims=7, seed=SEED)
    linear, *_ = np.linalg.lstsq(z, found, rcond=None)
    np.testing.assert_allclose(found, z @ linear, atol=1e-4)
    ratios = []
    for seed in range(12):  # of squared distances; the noise of z is that of the seed
        z = inspection.encode(model, IMAGES[:2], seed=seed)
        near = inspection.projected(model, IMAGES[:2], dims=7, seed=seed)
        ratios.append(np.sum((near[0] - near[1]) ** 2) / np.sum((z[0] - z[1]) ** 2))
    assert np.mean(ratios) == pytest.approx(1, abs=4 * np.sqrt(2 / 7 / 12))


def test_the_score_of_an_image_has_the_kl_of_each_layer(model, shown):
    found = inspection.score(model, IMAGES, seed=SEED)
    for name in ("z_2", "z_1"):
        np.testing.assert_allclose(found.by_layer[name], np.sum(shown.kl[name], axis=-1), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.elbo, bound(shown).elbo, rtol=1e-5)


@pytest.mark.parametrize("pixels", ["mean", "sample"])
def test_new_images_come_from_the_models_own_prior(model, pixels, monkeypatch):
    monkeypatch.setattr(inspection, "BLOCK", 8)
    found = inspection.sample(model, 13, seed=SEED, pixels=pixels, temperature=0.8)
    eps = row_noise(SEED, PRIOR, 0, 0, 13, model.noise)
    z_2 = 0.8 * eps["top"]
    mu, log_sigma = np.split(model.prior(z_2).numpy(), 2, axis=1)
    z_1 = mu + 0.8 * np.exp(0.5 * np.tanh(log_sigma)) * eps["bottom"].numpy().reshape(13, 6)
    p = 1 / (1 + np.exp(-model.out(z_1).numpy().reshape(13, *SHAPE)))
    if pixels == "mean":
        np.testing.assert_allclose(found, p, rtol=1e-4, atol=1e-5)
        return
    u = row_uniform(SEED, PIXELS, 0, 0, 13, 72).numpy().reshape(13, *SHAPE)
    sure = np.abs(u - p) > 1e-4
    np.testing.assert_array_equal(found[sure], (u < p)[sure])


def test_statistics_of_the_latents_are_by_layer(model, monkeypatch):
    monkeypatch.setattr(inspection, "BLOCK", 8)
    found = inspection.latent_statistics(model, IMAGES, samples=95, seed=SEED)
    encoding = model.encode(IMAGES, pixel_noise(np.arange(21)))
    draws = [model.score(encoding, row_noise(SEED, INSPECTION, k, 0, 21, model.noise)) for k in range(95)]
    assert list(found.kl) == ["z_2", "z_1"]
    for name, kl in found.kl.items():
        np.testing.assert_allclose(kl, np.mean([draw.kl[name] for draw in draws], axis=(0, 1)), rtol=1e-4, atol=1e-4)
    sums, squares = (sum(flat(draw.latents).astype(np.float64) ** power for draw in draws) for power in (1, 2))
    assert found.active_units == active_units(latent_moments(sums, squares, 95)) > 0
    assert found.active_channels == {"z_1": 3}


def test_a_channel_that_is_the_prior_is_not_active(model):
    """A posterior that depends on nothing but z_2, as the prior does."""
    for name in ("q_bottom", "q_from_top", "prior"):
        getattr(model, name).set_weights([np.zeros_like(weight) for weight in getattr(model, name).get_weights()])
    model.q_bottom.bias.assign(np.r_[np.zeros(4), 1.0, np.zeros(7)])  # of channel 2 at the second position
    assert inspection.latent_statistics(model, IMAGES, seed=SEED).active_channels == {"z_1": 1}


def test_progressive_reconstructions_take_fewer_and_fewer_layers_from_the_image(model, shown, monkeypatch):
    found = inspection.progressive(model, IMAGES, seed=SEED)
    assert (found.layers, found.kept) == (2, (2, 1, 0))
    assert found.images.shape == (21, 3, *SHAPE)
    np.testing.assert_allclose(found.images[:, 0], inspection.reconstruct(model, IMAGES, seed=SEED), rtol=1e-5)
    np.testing.assert_allclose(found.images[:, 2], inspection.sample(model, 21, seed=SEED), rtol=1e-5)
    eps = row_noise(SEED, PRIOR, 0, 0, 21, model.noise)["bottom"].numpy().reshape(21, 6)
    mu, log_sigma = np.split(model.prior(shown.latents["z_2"]).numpy(), 2, axis=1)
    z_1 = mu + np.exp(0.5 * np.tanh(log_sigma)) * eps
    p = 1 / (1 + np.exp(-model.out(z_1).numpy().reshape(21, *SHAPE)))
    np.testing.assert_allclose(found.images[:, 1], p, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("layers", "columns"), [(2, 7), (6, 7), (7, 7), (20, 7), (20, 2), (128, 7)])
def test_the_columns_are_evenly_chosen_from_all_layers_to_none(layers, columns):
    kept = inspection.kept_layers(layers, columns)
    assert (kept[0], kept[-1], len(kept)) == (layers, 0, min(columns, layers + 1))
    steps = -np.diff(kept)
    assert steps.min() > 0
    assert steps.max() - steps.min() <= 1
