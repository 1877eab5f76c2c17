import itertools
import math
from typing import get_args

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vaedist.config import ModelSection
from vaedist.model.likelihoods import LIKELIHOODS, Bernoulli, Gaussian

bernoulli, gaussian = Bernoulli(), Gaussian()
pixels = hnp.arrays(np.uint8, (2, 5))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def defined_log_prob(logits, x):
    """The definition, without any rearrangement that makes it stable."""
    p = sigmoid(logits)
    return (x * np.log(p) + (1 - x) * np.log1p(-p)).sum(axis=-1)


def value_and_gradient(function, raw):
    raw = tf.constant(raw)
    with tf.GradientTape() as tape:
        tape.watch(raw)
        value = function(raw)
    return value.numpy(), tape.gradient(value, raw).numpy()


def test_the_experiment_and_the_model_name_the_same_likelihoods():
    assert set(LIKELIHOODS) == set(get_args(ModelSection.model_fields["likelihood"].annotation))


@given(hnp.arrays(np.float64, (3, 4), elements=st.floats(-12, 12)), st.integers(0, 2**31))
def test_bernoulli_log_prob_is_the_definition(logits, seed):
    x = np.random.default_rng(seed).uniform(size=(3, 4))
    found = bernoulli.log_prob(tf.constant(logits), tf.constant(x))
    np.testing.assert_allclose(found, defined_log_prob(logits, x), atol=1e-8)


@given(hnp.arrays(np.float64, (3, 4), elements=st.floats(-1e4, 1e4)), st.integers(0, 2**31))
def test_bernoulli_log_prob_agrees_with_tensorflows_cross_entropy(logits, seed):
    x = np.random.default_rng(seed).uniform(size=(3, 4))
    expected = -tf.reduce_sum(tf.nn.sigmoid_cross_entropy_with_logits(labels=x, logits=logits), axis=-1)
    np.testing.assert_allclose(bernoulli.log_prob(tf.constant(logits), tf.constant(x)), expected, rtol=1e-12)


def test_bernoulli_probabilities_of_all_binary_images_add_up_to_1():
    images = np.array(list(itertools.product([0.0, 1.0], repeat=6)))
    logits = np.random.default_rng(0).normal(0, 2, (1, 6)).repeat(len(images), axis=0)
    assert np.exp(bernoulli.log_prob(logits, images)).sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("logit", [-1e4, -50.0, 0.0, 50.0, 1e4])
@pytest.mark.parametrize("x", [0.0, 0.25, 1.0])
def test_bernoulli_is_finite_for_any_logit_and_so_is_its_gradient(logit, x):
    raw, target = np.full((1, 3), logit, np.float32), np.full((1, 3), x, np.float32)
    value, gradient = value_and_gradient(lambda r: bernoulli.log_prob(r, target), raw)
    assert value == pytest.approx(3 * (x * logit - np.logaddexp(0, logit)), abs=1e-4)
    np.testing.assert_allclose(gradient, x - (logit > 0) if logit else x - 0.5, atol=1e-6)


GREY = np.linspace(0.02, 0.98, 9)


def test_chapter_fault_the_sigmoid_is_applied_once_so_the_best_cross_entropy_is_the_entropy_of_x():
    """A second sigmoid keeps p within (0.5, 0.73): the best of dark and bright pixels is then far above."""
    logits = np.linspace(-30, 30, 6001)[:, None]
    scores = np.stack([bernoulli.log_prob(logits, np.full_like(logits, x)) for x in GREY])
    entropy = -(GREY * np.log(GREY) + (1 - GREY) * np.log(1 - GREY))
    np.testing.assert_allclose(-scores.max(axis=1), entropy, atol=1e-4)
    best = bernoulli.mean(logits)[:, 0].numpy()[scores.argmax(axis=1)]
    np.testing.assert_allclose(best, GREY, atol=2e-3)


def test_chapter_fault_the_sigmoid_is_applied_once_so_pixels_below_0_50_and_above_0_73_can_be_reconstructed():
    mean = bernoulli.mean(np.array([[-5.0, -1.0, 0.0, 1.5, 5.0]])).numpy()
    np.testing.assert_allclose(mean, sigmoid(np.array([[-5.0, -1.0, 0.0, 1.5, 5.0]])), atol=1e-12)
    assert mean.min() < 0.01
    assert mean.max() > 0.99


@given(pixels)
def test_bernoulli_observes_pixels_over_255_whatever_the_noise(images):
    for noise in (None, np.full(images.shape, 0.9, np.float32)):
        x = bernoulli.observe(images, noise).numpy()
        assert x.dtype == np.float32
        np.testing.assert_array_equal(x, images.astype(np.float32) / np.float32(255))


@given(hnp.arrays(np.float64, (2, 8), elements=st.floats(-5, 5)), st.integers(0, 2**31))
def test_gaussian_log_prob_is_the_formula_of_the_normal_density(raw, seed):
    x = np.random.default_rng(seed).uniform(size=(2, 4))
    mu, sigma = raw[:, :4], np.exp(raw[:, 4:])  # the second half is the log of a standard deviation
    expected = (-((x - mu) ** 2) / (2 * sigma**2) - np.log(sigma * math.sqrt(2 * math.pi))).sum(axis=-1)
    np.testing.assert_allclose(gaussian.log_prob(tf.constant(raw), tf.constant(x)), expected, rtol=1e-10)


@pytest.mark.parametrize("log_sigma", [-2.0, 0.0, 1.0])
def test_the_gaussian_density_integrates_to_1(log_sigma):
    x = np.linspace(-40, 40, 20001)[:, None]
    raw = np.broadcast_to([[0.3, log_sigma]], (len(x), 2))
    mass = np.exp(gaussian.log_prob(tf.constant(raw), tf.constant(x))).sum() * (x[1, 0] - x[0, 0])
    assert mass == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("log_sigma", [-20.0, 20.0])
def test_gaussian_is_finite_for_extreme_log_sigma_and_so_are_its_gradients(log_sigma):
    raw = np.concatenate([np.full((1, 3), 0.4), np.full((1, 3), log_sigma)], 1).astype(np.float32)
    x = np.full((1, 3), 0.9, np.float32)
    value, gradient = value_and_gradient(lambda r: gaussian.log_prob(r, x), raw)
    assert np.isfinite(value).all()
    assert np.isfinite(gradient).all()


@given(pixels, st.integers(0, 2**31))
def test_gaussian_spreads_a_pixel_over_its_own_bin(images, seed):
    noise = np.random.default_rng(seed).uniform(size=images.shape).astype(np.float32)
    x = gaussian.observe(images, noise).numpy()
    np.testing.assert_allclose(x * 256, images + noise, atol=1e-4)
    np.testing.assert_allclose(gaussian.observe(images).numpy() * 256, images + 0.5, atol=1e-4)
    assert x.min() >= 0
    assert x.max() <= 1


def test_the_gaussian_mean_is_mu_clipped_to_what_a_picture_can_show():
    raw = np.array([[-0.5, 0.25, 1.5, 9.0, 9.0, 9.0]])
    np.testing.assert_allclose(gaussian.mean(raw), [[0.0, 0.25, 1.0]])


def test_only_the_density_is_dequantised_and_has_two_outputs_a_pixel():
    assert (bernoulli.outputs, bernoulli.dequantised) == (1, False)
    assert (gaussian.outputs, gaussian.dequantised) == (2, True)
