"""Statistics of the latents against the same statistics computed sample by sample, and exceptions of users' code."""

import numpy as np
import pytest
import tensorflow as tf
from mlp_vae import vae
from small_models import Plain
from toys import NAME

from vaedist.config import Experiment
from vaedist.errors import UserCodeError
from vaedist.evaluation import inspection
from vaedist.evaluation.active_units import active_units, latent_moments
from vaedist.models.build import build_model
from vaedist.models.rng import INSPECTION, pixel_uniform, row_normal
from vaedist.training.run_logger import STATISTICS_IMAGES

SEED = 5


@pytest.mark.parametrize("binarize", ["dynamic", pytest.param("none", marks=pytest.mark.slow)])
def test_statistics_of_the_latents_are_those_of_samples_taken_one_by_one(binarize, monkeypatch):
    shape = (4, 6, 1 if binarize == "dynamic" else 3)
    model = vae(shape, hidden=12, latent=5, flow_depth=2, flow_width=9, binarize=binarize, seed=1)
    model.encoder.set_weights([3 * weight for weight in model.encoder.get_weights()])  # so that some units are active
    monkeypatch.setattr(inspection, "BLOCK", 8)
    images = np.random.default_rng(0).integers(0, 256, (21, *shape), np.uint8)

    found = inspection.latent_statistics(model, images, samples=95, seed=SEED)

    u = None
    if model.preprocessing.noisy:
        u = tf.reshape(pixel_uniform(np.arange(21), model.pixels), images.shape)
    encoding = model.encode(images, u)
    draws = [model.score(encoding, {"z": row_normal(SEED, INSPECTION, k, 0, 21, 5)}) for k in range(95)]
    sums, squares = (sum(draw.latents["z"].numpy().astype(np.float64) ** power for draw in draws) for power in (1, 2))
    kl = np.mean([draw.kl["z"] for draw in draws], axis=(0, 1))
    assert list(found.kl) == ["z"]
    np.testing.assert_allclose(found.kl["z"], kl, rtol=1e-5, atol=1e-5)
    assert found.active_units == active_units(latent_moments(sums, squares, 95)) > 0
    assert inspection.latent_statistics(model, images, samples=4, seed=SEED).active_units is None


@pytest.mark.parametrize("count", [STATISTICS_IMAGES, 20])
def test_hardly_any_dead_unit_is_active(count):
    """Tests the number of images used after each epoch, or fewer; the expected number of active units is 1 in 1,400."""
    model = vae((4, 6, 3), hidden=12, latent=500, flow_depth=1, flow_width=2, flow_transform="location", seed=1)
    model.set_weights([0 * weight for weight in model.get_weights()])  # q(z|x) = N(0, I) for all x
    images = np.random.default_rng(0).integers(0, 256, (count, 4, 6, 3), np.uint8)
    assert inspection.latent_statistics(model, images, seed=SEED).active_units <= 2


def test_without_a_flow_units_are_counted_by_the_encoders_mean():
    model = vae((4, 6, 3), hidden=12, latent=50, flow_depth=0, seed=1)
    model.encoder.out.set_weights([0 * weight for weight in model.encoder.out.get_weights()])
    kernel = np.zeros(model.encoder.out.kernel.shape)
    kernel[:, :7] = np.random.default_rng(0).normal(0, 1, (12, 7))
    model.encoder.out.kernel.assign(kernel)
    images = np.random.default_rng(0).integers(0, 256, (10, 4, 6, 3), np.uint8)
    assert inspection.latent_statistics(model, images, samples=2, seed=SEED).active_units == 7
    assert inspection.latent_statistics(model, images[:1], samples=2, seed=SEED).active_units is None


class Opaque(Plain):
    def posterior_mean(self, encoding):
        raise ZeroDivisionError("no posterior mean")


def test_exceptions_of_users_code_in_pictures_and_statistics_are_shown_with_its_lines(toy_package):
    images = np.zeros((4, 4, 4, 1), np.uint8)
    small = ("model.hidden=7", "model.latent=4", "model.flow.depth=0", f"model.likelihood={NAME}.likelihoods:Unseen")
    model = build_model(Experiment().with_overrides(*small), (4, 4, 1))
    for call, task, file, reason in (
        (lambda: inspection.reconstruct(model, images), "decode latents", "likelihoods.py", "no mean"),
        (lambda: inspection.interpolate(model, images), "decode latents", "likelihoods.py", "no mean"),
        (lambda: inspection.sample(model, 3), "generate images", "likelihoods.py", "no mean"),
        (lambda: inspection.sample(model, 3, pixels="sample"), "generate images", "likelihoods.py", "no sample"),
        (lambda: inspection.latent_statistics(Opaque(), images), "score images", "test_inspection.py", "no posterior"),
    ):
        with pytest.raises(UserCodeError) as error:
            call()
        first, heading, line, *_, last = str(error.value).splitlines()
        assert first.endswith(f": it cannot {task}:")
        assert heading.startswith("Traceback")
        assert file in line
        assert last.startswith(f"ZeroDivisionError: {reason}")


def test_other_exceptions_pass_through_unchanged():
    model = vae((4, 4, 1), hidden=7, latent=4, flow_depth=0)
    with pytest.raises(tf.errors.InvalidArgumentError):
        inspection.decode(model, np.zeros((2, 3)))
