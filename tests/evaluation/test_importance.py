"""Evaluation with many samples against the same numbers computed for one image and one sample at a time."""

import numpy as np
import pytest
import tensorflow as tf
from mlp_vae import vae
from synthetic import source

from vaedist.data.manifest import load_manifest
from vaedist.data.prepare import prepare
from vaedist.data.rows import SplitRows
from vaedist.errors import RunError
from vaedist.evaluation import importance
from vaedist.evaluation.active_units import active_units_doubt, latent_moments
from vaedist.evaluation.bounds import effective_sample_size, half_bound, importance_bounds, monte_carlo_variances
from vaedist.evaluation.importance import ImportanceEvaluator
from vaedist.models.rng import IMPORTANCE, pixel_uniform, row_normal
from vaedist.objectives.elbo import bits_per_dim, bound

SHAPE, SEED = (4, 6, 3), 9


def model(**sizes):
    made = vae(SHAPE, **({"hidden": 16, "latent": 5, "flow_depth": 2, "flow_width": 7, "seed": 3} | sizes))
    rng = np.random.default_rng(0)
    made.set_weights([rng.normal(0, 0.3, w.shape) for w in made.get_weights()])
    return made


@pytest.fixture
def rows(small_dataset):
    def make(limit=None):
        return SplitRows(str(small_dataset), load_manifest(str(small_dataset)), "test", limit)

    return make


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Limits blocks to a few images: 16 rows of a decoder with one output for each pixel value."""
    monkeypatch.setattr(importance, "BLOCK_BYTES", 16 * 4 * 72)
    monkeypatch.setattr(importance, "SAMPLES_AT_ONCE", 4)


def evaluate(evaluator):
    return evaluator.summary([evaluator.score(number) for number in range(evaluator.blocks)])


def one_by_one(made, evaluator, images):
    """Returns log w [N, K], log p(x|z) [N, K], z [N, K, latent] and KL by unit, without sharing or padding."""
    found = []
    for number in range(len(images)):
        first, place = divmod(number, evaluator.block)
        u = None
        if made.preprocessing.noisy:
            u = pixel_uniform(evaluator.rows.numbers(number, number + 1), made.pixels)
            u = tf.reshape(u, (1, *SHAPE))
        draws = []
        for t in range(evaluator.rounds):
            block = row_normal(
                SEED, IMPORTANCE, t, first * evaluator.block, evaluator.block, evaluator.at_once * made.latent
            )
            draws.extend(tf.reshape(block[place], (evaluator.at_once, made.latent)))
        scores = [made(images[number : number + 1], {"z": eps[None]}, u) for eps in draws[: evaluator.samples]]
        found.append(
            [
                (
                    bound(score).elbo.numpy()[0],
                    score.log_px.numpy()[0],
                    score.latents["z"].numpy()[0],
                    score.kl["z"].numpy()[0],
                )
                for score in scores
            ]
        )
    return [np.array([[sample[part] for sample in image] for image in found]) for part in range(4)]


@pytest.mark.parametrize("samples", [6, *(pytest.param(k, marks=pytest.mark.slow) for k in (1, 4, 11))])
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_each_number_is_that_of_single_images_and_samples(rows, likelihood, samples):
    made = model(likelihood=likelihood)
    evaluator = ImportanceEvaluator(made, rows(), samples=samples, seed=SEED)
    assert evaluator.blocks > 1
    assert rows().rows % evaluator.block
    found = evaluate(evaluator)
    log_w, log_px, z, units = one_by_one(made, evaluator, rows().read(0, 19))
    bounds = importance_bounds(log_w)
    assert (found.images, found.samples) == (19, samples)
    assert list(found.bounds) == list(bounds)
    for k, values in bounds.items():
        assert found.bounds[k].mean == pytest.approx(values.mean(), rel=1e-5)
        assert found.bounds[k].standard_error == pytest.approx(values.std(ddof=1) / np.sqrt(19), rel=1e-4)
    assert found.elbo == found.bounds[1]
    assert found.log_p == found.bounds[samples]
    assert found.gap.mean == pytest.approx((bounds[samples] - bounds[1]).mean(), abs=1e-3)
    assert found.reconstruction.mean == pytest.approx(log_px.mean(), rel=1e-5)
    assert found.kl.mean == pytest.approx(units.sum(-1).mean(), rel=1e-4)
    assert found.elbo.mean == pytest.approx(found.reconstruction.mean - found.kl.mean, rel=1e-5)
    assert found.effective_sample_size.mean == pytest.approx(effective_sample_size(log_w).mean(), rel=1e-3)
    np.testing.assert_allclose(found.kl_per_unit, units.mean(axis=(0, 1)), rtol=1e-4, atol=1e-5)
    errors = monte_carlo_variances(log_w)
    for k in bounds:
        expected = np.sqrt(errors[k].sum()) / 19
        assert found.monte_carlo_errors[k] == pytest.approx(expected, rel=1e-3, abs=1e-4, nan_ok=True)
    assert found.active_units is None
    if samples == 1:
        assert found.rise is found.still_rises is None
        assert "a single sample of z" in found.active_units_withheld
    else:
        rise = bounds[samples] - half_bound(log_w)
        assert found.rise.mean == pytest.approx(rise.mean(), abs=1e-4)
        assert found.rise.standard_error == pytest.approx(rise.std(ddof=1) / np.sqrt(19), abs=1e-4)
        assert found.still_rises == (rise.mean() > 2 * rise.std(ddof=1) / np.sqrt(19))
        moments = latent_moments(z.sum(1), (z**2).sum(1), samples)
        assert found.active_units_withheld == active_units_doubt(moments)
    np.testing.assert_array_equal(found.scores.rows, rows().numbers(0, 19))
    assert sorted(found.scores.rows) == list(range(19))
    for name, values in {"elbo": bounds[1], "importance_bound": bounds[samples], "reconstruction": log_px.mean(1),
                         "kl": units.sum(-1).mean(1)}.items():  # fmt: skip
        np.testing.assert_allclose(getattr(found.scores, name), values, rtol=1e-4, atol=1e-3)
    assert "scores" not in found.to_dict()
    if likelihood == "bernoulli":
        assert found.bits_per_dim is None
    else:
        assert found.bits_per_dim[1].mean == pytest.approx(bits_per_dim(bounds[1].mean(), 72, 256), rel=1e-5)
        assert found.bits_per_dim[samples].mean == pytest.approx(
            bits_per_dim(bounds[samples].mean(), 72, 256), rel=1e-5
        )


def test_the_scores_do_not_depend_on_which_worker_scores_a_block(rows):
    made = model()
    one = ImportanceEvaluator(made, rows(), samples=6, seed=SEED)
    other = ImportanceEvaluator(made, rows(), samples=6, seed=SEED)
    scores = {number: other.score(number) for number in reversed(range(other.blocks))}
    assert other.summary([scores[number] for number in range(other.blocks)]) == evaluate(one)


def test_a_limit_scores_the_first_rows_alike(rows):
    made = model()
    whole = ImportanceEvaluator(made, rows(), samples=3, seed=SEED)
    part = ImportanceEvaluator(made, rows(9), samples=3, seed=SEED)
    together = np.concatenate([whole.score(number).bounds for number in range(whole.blocks)])
    found = evaluate(part)
    assert found.images == 9
    assert found.log_p.mean == pytest.approx(together[:9, -1].mean(), rel=1e-12)


def test_another_seed_draws_other_samples(rows):
    made = model()
    first, second = (evaluate(ImportanceEvaluator(made, rows(), samples=3, seed=seed)) for seed in (0, 1))
    assert first.elbo.mean != second.elbo.mean
    assert first.elbo.mean == pytest.approx(second.elbo.mean, abs=6 * (first.gap.mean + 1))


def test_dead_latents_are_not_active_and_live_ones_are(rows):
    """Two latents depend on the brightness of the image, and three on nothing."""
    made = model(flow_depth=0)
    kernel, bias = made.encoder.out.kernel, made.encoder.out.bias
    weights = np.zeros(kernel.shape, np.float32)
    weights[:, :2] = np.random.default_rng(0).normal(0, 2, (16, 2))
    kernel.assign(weights)
    bias.assign(np.zeros(bias.shape))
    found = evaluate(ImportanceEvaluator(made, rows(), samples=40, seed=SEED))
    assert found.active_units == 2
    kl = np.array(found.kl_per_unit)
    assert (kl[:2] > 0.1).all()
    np.testing.assert_allclose(kl[2:], 0, atol=1e-5)


@pytest.fixture(scope="module")
def hundred(tmp_path_factory):
    """Returns 100 test images."""
    out = tmp_path_factory.mktemp("hundred") / "numbers"
    prepare(source(train=8, test=100), str(out), shards=8)
    return SplitRows(str(out), load_manifest(str(out)), "test")


def thirty_of_200(**flow):
    """Returns a model of 200 latents, of which 30 depend on the image; the others are N(0, 1)."""
    made = vae(SHAPE, hidden=16, latent=200, seed=3, **flow)
    for weight in [*made.flow.weights, *made.encoder.out.weights]:
        weight.assign(np.zeros(weight.shape))
    kernel = np.zeros(made.encoder.out.kernel.shape, np.float32)
    kernel[:, :30] = np.random.default_rng(0).normal(0, 2, (16, 30))
    made.encoder.out.kernel.assign(kernel)
    return made


def test_active_units_are_counted_or_withheld_but_never_made_up_by_noise(hundred):
    """With an identity flow, 16 samples of 100 images would give about 50 active units; 43 samples are enough."""
    made = thirty_of_200(flow_depth=1, flow_width=8, flow_transform="location")
    few, enough = (evaluate(ImportanceEvaluator(made, hundred, samples=k, seed=SEED)) for k in (16, 43))
    assert few.active_units is None
    assert "N = 100 images and K = 16 samples of z" in few.active_units_withheld
    assert few.active_units_withheld.endswith("this needs K = 43 or N = 750")
    assert (enough.active_units, enough.active_units_withheld) == (30, None)
    assert evaluate(ImportanceEvaluator(made, hundred, samples=1, seed=SEED)).active_units is None


@pytest.mark.parametrize("samples", [1, 2])
def test_without_a_flow_active_units_are_exact_with_few_samples(hundred, samples):
    found = evaluate(ImportanceEvaluator(thirty_of_200(flow_depth=0), hundred, samples=samples, seed=SEED))
    assert (found.active_units, found.active_units_withheld) == (30, None)


def test_differences_are_paired_image_by_image(rows):
    one, other = (evaluate(ImportanceEvaluator(model(seed=s), rows(), samples=4, seed=s)) for s in (0, 1))
    found = one.against(other)
    for name in ("elbo", "importance_bound", "reconstruction", "kl"):
        apart = getattr(one.scores, name) - getattr(other.scores, name)
        assert getattr(found, name).mean == pytest.approx(apart.mean())
        assert getattr(found, name).standard_error == pytest.approx(apart.std(ddof=1) / np.sqrt(19))
    assert found.images == 19
    assert found.elbo.mean == pytest.approx(one.elbo.mean - other.elbo.mean)
    assert one.against(one).elbo == type(found.elbo)(0.0, 0.0)


def test_evaluations_of_other_images_or_samples_are_not_paired(rows):
    whole = evaluate(ImportanceEvaluator(model(), rows(), samples=4, seed=SEED))
    for limit, samples in ((7, 4), (None, 3)):
        other = evaluate(ImportanceEvaluator(model(), rows(limit), samples=samples, seed=SEED))
        with pytest.raises(RunError, match="are not paired: both must be of the same images"):
            whole.against(other)


def test_one_image_has_no_standard_error(rows):
    found = evaluate(ImportanceEvaluator(model(), rows(1), samples=2, seed=SEED))
    assert found.images == 1
    assert np.isnan(found.elbo.standard_error)
    assert found.still_rises is None
    assert found.active_units is None
