"""Preprocessing of pixels before they are scored."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from mlp_vae import vae

from vaedist.errors import NoiseError
from vaedist.models.preprocessing import Binned, Dequantised, Dynamic, Fixed, Scaled, Threshold

ALL = [Scaled(), Binned(), Dequantised(), Threshold(), Dynamic(), Fixed()]
pixels = hnp.arrays(np.uint8, (2, 5))
LEVELS = np.arange(256, dtype=np.uint8)[None]


def uniform(seed, shape):
    return np.random.default_rng(seed).uniform(1e-6, 1 - 1e-6, shape).astype(np.float32)


@pytest.mark.parametrize("preprocessing", ALL, ids=lambda o: type(o).__name__)
@given(images=pixels, seed=st.integers(0, 2**31))
def test_x_is_float32_in_0_to_1_and_noise_matters_to_noisy_ones_only(preprocessing, images, seed):
    noise = uniform(seed, images.shape)
    quiet, noised = preprocessing(images, 0.5).numpy(), preprocessing(images, noise).numpy()
    for x in (quiet, noised):
        assert x.dtype == np.float32
        assert x.min() >= 0
        assert x.max() <= 1
    if not preprocessing.noisy:
        np.testing.assert_array_equal(quiet, noised)


def test_scaled_pixels_are_over_255_and_binned_ones_in_the_middle_of_256_bins():
    np.testing.assert_allclose(Scaled()(LEVELS), LEVELS / 255, rtol=1e-7)
    assert (Scaled()(LEVELS).numpy()[0, [0, 255]] == [0, 1]).all()
    np.testing.assert_allclose(Binned()(LEVELS) * 256, LEVELS + 0.5, atol=1e-4)


def test_pixels_are_scaled_to_the_same_bits_in_a_compiled_step_and_out_of_it():
    compiled = tf.function(Scaled(), jit_compile=True)
    np.testing.assert_array_equal(compiled(tf.constant(LEVELS)), Scaled()(LEVELS))


@given(pixels, st.integers(0, 2**31))
def test_dequantised_pixels_are_uniform_in_their_bins(images, seed):
    noise = uniform(seed, images.shape)
    np.testing.assert_allclose(Dequantised()(images, noise) * 256, images + noise, atol=1e-4)
    np.testing.assert_allclose(Dequantised()(images, 0.5) * 256, images + 0.5, atol=1e-4)


@pytest.mark.parametrize(
    "arguments", [{"binarize": "dynamic"}, {"binarize": "fixed"}, {"likelihood": "continuous_bernoulli"}], ids=str
)
def test_pixels_that_are_drawn_are_never_taken_without_noise(arguments):
    model, images = vae((2, 2, 1), hidden=3, latent=2, flow_depth=0, **arguments), np.full((3, 2, 2, 1), 90, np.uint8)
    for call in (model, model.encode):
        with pytest.raises(NoiseError, match="noise is missing: this model's pixels are"):
            call(images)
    assert np.isfinite(model(images, u=0.5).log_px.numpy()).all()
    assert np.isfinite(model(images, u=uniform(0, (3, 2, 2, 1))).log_px.numpy()).all()


def test_a_threshold_parts_at_a_half():
    np.testing.assert_array_equal(Threshold()(LEVELS)[0], np.arange(256) >= 128)


def test_dynamic_pixels_are_1_as_often_as_they_are_bright():
    noise = uniform(0, (20_000, 256))
    often = Dynamic()(LEVELS.repeat(len(noise), axis=0), noise).numpy().mean(axis=0)
    expected = LEVELS[0] / 255
    assert (np.abs(often - expected) < 5 * np.sqrt(expected * (1 - expected) / len(noise)) + 1e-9).all()
    assert (often[0], often[255]) == (0, 1)
    np.testing.assert_array_equal(Dynamic()(LEVELS, 0.5), Threshold()(LEVELS))


@pytest.mark.parametrize(
    ("likelihood", "binarize", "levels", "noisy", "proper"),
    [
        ("bernoulli", "none", None, False, False),
        ("bernoulli", "threshold", None, False, True),
        ("bernoulli", "dynamic", None, True, True),
        ("bernoulli", "fixed", None, True, True),
        ("continuous_bernoulli", "none", 256, True, True),
        ("gaussian", "none", 256, True, True),
        ("discretized_logistic", "none", 1, False, True),
    ],
)
def test_a_model_knows_whether_it_has_bits_per_dim(likelihood, binarize, levels, noisy, proper):
    model = vae((2, 2, 1), hidden=3, latent=2, flow_depth=0, likelihood=likelihood, binarize=binarize)
    assert (model.levels, model.preprocessing.noisy, model.preprocessing.proper) == (levels, noisy, proper)
    x = model.encode(np.array([[[[0], [100]], [[200], [255]]]], np.uint8), 0.5).x.numpy()
    assert x.shape == (1, 4)
    assert (set(np.unique(x)) <= {0.0, 1.0}) == (binarize != "none")
