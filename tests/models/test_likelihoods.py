import itertools
import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import integrate, stats

from vaedist.models import options
from vaedist.models.likelihoods import Bernoulli, ContinuousBernoulli, DiscretizedLogistic, Gaussian
from vaedist.models.options import make_likelihood
from vaedist.models.preprocessing import PREPROCESSING

LIKELIHOODS = {name: make_likelihood(name) for name in options.LIKELIHOODS.built_in}
bernoulli, continuous, gaussian, logistic = Bernoulli(), ContinuousBernoulli(), Gaussian(), DiscretizedLogistic()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def defined_log_prob(logits, x):
    """The definition, without numerical stabilisation."""
    p = sigmoid(logits)
    return (x * np.log(p) + (1 - x) * np.log1p(-p)).sum(axis=-1)


def value_and_gradient(function, raw):
    raw = tf.constant(raw)
    with tf.GradientTape() as tape:
        tape.watch(raw)
        value = function(raw)
    return value.numpy(), tape.gradient(value, raw).numpy()


def test_options_describe_likelihoods_without_keras_as_they_are():
    assert LIKELIHOODS.keys() == PREPROCESSING.keys()
    for name, likelihood in LIKELIHOODS.items():
        assert likelihood.preprocessing is PREPROCESSING[name]
        assert likelihood.binary == (name in options.BINARY)


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
    """With a second sigmoid, p is in (0.5, 0.73), and the smallest loss of dark and bright pixels is far larger."""
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


def test_the_gaussian_mean_is_mu_clipped_to_the_range_of_pixels():
    raw = np.array([[-0.5, 0.25, 1.5, 9.0, 9.0, 9.0]])
    np.testing.assert_allclose(gaussian.mean(raw), [[0.0, 0.25, 1.0]])


# One image of one pixel value for each of many raw outputs, so that log_prob returns a number for each.
LOGITS = np.concatenate([np.linspace(-40, 40, 81), [-1e-3, -1e-9, 0.0, 1e-9, 1e-3, 0.4999, 0.5, 0.5001]])


def test_the_continuous_bernoulli_against_the_definition_normalised_by_quadrature():
    x = 0.3
    for logit in LOGITS:

        def unnormalised(v, logit=logit):
            return np.exp(logit * (v - (logit > 0)))  # lambda^x (1 - lambda)^(1 - x), up to a constant

        mass, _ = integrate.quad(unnormalised, 0, 1, epsabs=1e-13, epsrel=1e-12, points=[float(logit > 0)])
        found = continuous.log_prob(tf.constant([[logit]], tf.float64), np.array([[x]])).numpy().item()
        assert found == pytest.approx(np.log(unnormalised(x) / mass), abs=1e-6), logit
        first, _ = integrate.quad(lambda v: v * unnormalised(v), 0, 1, epsabs=1e-13, epsrel=1e-12)
        mean = continuous.mean(tf.constant([[logit]], tf.float64)).numpy().item()
        assert mean == pytest.approx(first / mass, abs=1e-6), logit


def test_the_continuous_bernoulli_is_the_formula_of_its_paper_away_from_a_half():
    """log C(lambda) = log(2 artanh(1 - 2 lambda) / (1 - 2 lambda)), Loaiza-Ganem and Cunningham 2019, equation 8."""
    p, x = np.array([0.01, 0.2, 0.4, 0.6, 0.97])[:, None], 0.3
    expected = x * np.log(p) + (1 - x) * np.log1p(-p) + np.log(2 * np.arctanh(1 - 2 * p) / (1 - 2 * p))
    found = continuous.log_prob(np.log(p / (1 - p)), np.full_like(p, x))
    np.testing.assert_allclose(found, expected[:, 0], rtol=1e-10)
    mean = p / (2 * p - 1) + 1 / (2 * np.arctanh(1 - 2 * p))
    np.testing.assert_allclose(continuous.mean(np.log(p / (1 - p))), mean, rtol=1e-10)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_continuous_bernoulli_is_smooth_where_its_formulas_meet(dtype):
    raw = tf.constant(np.linspace(-1.2, 1.2, 4801)[:, None], dtype)
    with tf.GradientTape() as tape:
        tape.watch(raw)
        value = continuous.log_prob(raw, tf.constant(0.7, dtype))
    gradient = tape.gradient(value, raw)
    mean = continuous.mean(raw).numpy()
    tolerance = 3e-6 if dtype == "float32" else 1e-9
    np.testing.assert_allclose(gradient, 0.7 - mean, atol=tolerance)  # the score of an exponential family
    assert (np.diff(mean[:, 0]) > 0).all() or dtype == "float32"


def discretised_by_scipy(raw, level):
    """P(level) from scipy's logistic distribution, with the tails in the edge levels."""
    mu, s = raw[0] + 0.5, np.exp(np.clip(raw[1] - 2, -20, 20))
    low, high = (stats.logistic.cdf(v / 256, mu, s) for v in (level, level + 1))
    return {0: high, 255: stats.logistic.sf(255 / 256, mu, s)}.get(level, high - low)


@pytest.mark.parametrize("raw", [(0.0, 0.0), (0.3, -1.0), (-0.7, 1.5), (0.01, -2.5)])
def test_the_discretised_logistic_against_scipys(raw):
    for level in (0, 1, 100, 130, 254, 255):
        expected = discretised_by_scipy(raw, level)
        found = np.exp(logistic.log_prob(np.array([raw]), np.array([[(level + 0.5) / 256]])))
        assert found.item() == pytest.approx(expected, rel=1e-6, abs=1e-12), level


@given(st.floats(-1e4, 1e4), st.floats(-30, 30))
def test_the_256_levels_add_up_to_1(mu, log_s):
    """In float64, in which rounding in the tails does not affect the sum."""
    x = ((np.arange(256) + 0.5) / 256)[:, None]
    raw = np.broadcast_to([[mu, log_s]], (256, 2))
    assert np.exp(logistic.log_prob(raw, x).numpy()).sum() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("raw", [(0.0, 0.0), (0.45, -1.0), (-0.7, 1.0), (0.2, -4.0)])
def test_the_discretised_logistics_mean_is_that_of_its_levels_within_half_a_level(raw):
    x = (np.arange(256) + 0.5) / 256
    p = np.exp(logistic.log_prob(np.broadcast_to([raw], (256, 2)), x[:, None]).numpy())
    assert logistic.mean(np.array([raw])).numpy().item() == pytest.approx((p * x).sum(), abs=0.5 / 256)


EXTREME = {
    "bernoulli": st.floats(-1e4, 1e4),
    "continuous_bernoulli": st.floats(-1e4, 1e4),
    "gaussian": st.floats(-20, 20),
    "discretized_logistic": st.one_of(st.floats(-20, 20), st.floats(-1e4, 1e4)),
}


@pytest.mark.parametrize("name", LIKELIHOODS)
@given(data=st.data(), pixels=st.sampled_from([0, 1, 127, 128, 254, 255]), u=st.floats(1e-6, 1 - 1e-6))
def test_values_gradients_means_and_samples_are_finite_for_extreme_outputs(name, data, pixels, u):
    likelihood = LIKELIHOODS[name]
    numbers = data.draw(st.lists(EXTREME[name], min_size=3 * likelihood.outputs, max_size=3 * likelihood.outputs))
    raw = np.array([numbers], np.float32)
    noise = np.full((1, 3), u, np.float32)
    x = likelihood.preprocessing(np.full((1, 3), pixels, np.uint8), noise)
    value, gradient = value_and_gradient(lambda r: likelihood.log_prob(r, x), raw)
    assert np.isfinite(value).all()
    assert np.isfinite(gradient).all()
    for picture in (likelihood.mean(raw).numpy(), likelihood.sample(tf.constant(raw), noise).numpy()):
        assert picture.shape == (1, 3)
        assert picture.min() >= 0
        assert picture.max() <= 1


def distribution_function(name, raw, v):
    """P(x <= v), from scipy or by hand."""
    if name == "bernoulli":
        return np.where(v < 1, 1 - sigmoid(raw[0]), 1.0)
    if name == "continuous_bernoulli":
        return np.expm1(raw[0] * v) / np.expm1(raw[0])
    if name == "gaussian":
        return stats.norm.cdf(v, raw[0], np.exp(raw[1]))
    level = np.rint(v * 255)
    return np.where(level < 255, stats.logistic.cdf((level + 1) / 256, raw[0] + 0.5, np.exp(raw[1] - 2)), 1.0)


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("bernoulli", [0.7]),
        ("continuous_bernoulli", [3.0]),
        ("continuous_bernoulli", [-0.4]),
        ("continuous_bernoulli", [60.0]),
        ("gaussian", [0.5, -3.0]),
        ("discretized_logistic", [0.1, -0.5]),
    ],
)
def test_samples_have_the_distribution_that_log_prob_says(name, raw):
    count = 20_000
    uniform = (np.random.default_rng(5).permutation(count) + 0.5) / count  # uniform
    found = LIKELIHOODS[name].sample(tf.constant([raw] * count, tf.float64), uniform[:, None]).numpy()[:, 0]
    for v in (0.05, 0.3, 0.5, 0.62, 0.95):
        level = np.floor(v * 255) / 255 if name == "discretized_logistic" else v
        share = (found <= level + 1e-9).mean()
        assert share == pytest.approx(float(distribution_function(name, np.array(raw), np.array(level))), abs=2e-4), v


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_several_samples_of_an_image_are_scored_like_single_ones(name):
    likelihood, rng = LIKELIHOODS[name], np.random.default_rng(0)
    raw, x = rng.normal(size=(4, 3, 6 * likelihood.outputs)), rng.uniform(size=(4, 1, 6))
    together = likelihood.log_prob(tf.constant(raw), tf.constant(x)).numpy()
    for k in range(3):
        alone = likelihood.log_prob(tf.constant(raw[:, k]), tf.constant(x[:, 0]))
        np.testing.assert_allclose(together[:, k], alone, rtol=1e-12)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_probabilities_add_up_to_1_by_the_likelihoods_own_quadrature(name):
    likelihood = LIKELIHOODS[name]
    raw = np.random.default_rng(0).normal(0, 2, (50, likelihood.outputs))
    values, weights = likelihood.quadrature(raw)
    assert {len(values), len(weights)} <= {1, 50}
    p = np.exp(likelihood.log_prob(tf.constant(raw[:, None]), tf.constant(values[..., None])).numpy())
    np.testing.assert_allclose((p * weights).sum(axis=1), 1, atol=1e-10)


@pytest.mark.parametrize("log_s", [-6.0, -1.0, -0.01, 0.01, 3.0, 8.0, 20.0])
def test_the_mean_of_a_wide_logistic_is_that_of_float64(log_s):
    mu = np.linspace(-2, 3, 101)
    raw = np.concatenate([mu - 0.5, np.full_like(mu, log_s + 2)]).astype(np.float32)
    found = LIKELIHOODS["discretized_logistic"].mean(raw)
    s, v = np.exp(log_s), (np.arange(20_000) + 0.5) / 20_000
    exact = np.mean(1 / (1 + np.exp(np.clip((v[:, None] - mu) / s, -700, 700))), axis=0)
    np.testing.assert_allclose(found, exact, atol=3e-6)
