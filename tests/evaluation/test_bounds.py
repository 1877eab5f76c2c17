"""Importance-weighted bounds against their definition, and against the exact evidence of a linear Gaussian model."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from linear_gaussian import LinearGaussian, normal, plain_score, within_standard_errors

from vaedist.evaluation.bounds import (
    effective_sample_size,
    group_sizes,
    half_bound,
    importance_bounds,
    monte_carlo_variances,
)

toy = LinearGaussian()


def test_group_sizes_double_up_to_the_number_of_samples():
    assert [group_sizes(k) for k in (1, 2, 3, 8, 9)] == [(1,), (1, 2), (1, 2, 3), (1, 2, 4, 8), (1, 2, 4, 8, 9)]


def test_bounds_of_small_k_by_their_definition():
    log_w = normal(4, 6)
    bounds = importance_bounds(log_w)
    assert list(bounds) == [1, 2, 4, 6]
    np.testing.assert_allclose(bounds[1], log_w.mean(1), rtol=1e-12)
    pairs = [np.log((np.exp(log_w[:, i]) + np.exp(log_w[:, i + 1])) / 2) for i in (0, 2, 4)]
    np.testing.assert_allclose(bounds[2], np.mean(pairs, axis=0), rtol=1e-12)
    np.testing.assert_allclose(bounds[4], np.log(np.exp(log_w[:, :4]).mean(1)), rtol=1e-12)
    np.testing.assert_allclose(bounds[6], np.log(np.exp(log_w).mean(1)), rtol=1e-12)


@given(st.integers(0, 7), st.floats(-1e5, 1e5), st.floats(0, 300), st.integers(0, 2**31))
def test_bounds_never_fall_if_groups_cover_all_samples_and_are_finite_for_any_weights(j, level, spread, seed):
    log_w = level + spread * normal(3, 2**j, seed=seed)
    bounds = np.stack(list(importance_bounds(log_w).values()))
    assert np.isfinite(bounds).all()
    assert (np.diff(bounds, axis=0) >= -1e-9 * max(1, abs(level))).all()
    assert (bounds <= log_w.max(1) + 1e-9 * max(1, abs(level))).all()


def toy_weights(images, samples, *, shift=0.6, widen=0.3):
    """Returns log w of an inexact posterior, for repetitions of one image."""
    mu, log_sigma = toy.mu + shift * np.exp(toy.log_sigma), toy.log_sigma + widen
    eps = normal(images * samples, 2, seed=3)
    return toy.elbo(plain_score(mu, log_sigma, eps)).reshape(images, samples)


def test_the_bounds_rise_to_the_known_evidence_and_stay_below_it_on_average():
    bounds = importance_bounds(toy_weights(4000, 256))
    means = {k: values.mean() for k, values in bounds.items()}
    errors = {k: values.std() / np.sqrt(len(values)) for k, values in bounds.items()}
    assert list(means.values()) == sorted(means.values())
    for k in (1, 2, 4, 8):
        assert means[k] + 3 * errors[k] < toy.evidence
    for k, mean in means.items():
        assert mean < toy.evidence + 4 * errors[k]
    assert means[256] == pytest.approx(toy.evidence, abs=5e-3)


def test_the_bound_of_two_samples_is_the_integral_that_defines_it():
    """The bound is E log((w_1 + w_2) / 2) by Gauss-Hermite quadrature, for a posterior with a shifted mean."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()
    shift = np.array([0.8, 0.0])
    eps = np.stack([nodes, np.zeros_like(nodes)], axis=1)
    log_w = toy.elbo(plain_score(toy.mu + shift * np.exp(toy.log_sigma), toy.log_sigma, eps))
    pairs = np.logaddexp(log_w[:, None], log_w[None, :]) - np.log(2)
    expected = weights @ pairs @ weights
    estimates = importance_bounds(toy_weights(50_000, 2, shift=np.array([0.8, 0.0]), widen=0.0))[2]
    assert within_standard_errors(estimates, expected)


@pytest.mark.parametrize(("spread", "low", "high"), [(0.3, 0.93, 1.07), (2, 0.8, 1.05), (10, 0.69, 1.0)])
@pytest.mark.parametrize("samples", [16, 128, 11])
def test_monte_carlo_errors_are_the_spread_over_other_samples(spread, low, high, samples):
    """The cases have similar weights, or one dominant weight, where the delta method is several times too small."""
    log_w = spread * normal(20_000, samples)
    bounds, variances = importance_bounds(log_w), monte_carlo_variances(log_w)
    assert list(variances) == list(bounds)
    for k, values in bounds.items():
        ratio = np.sqrt(variances[k].mean()) / values.std()
        if samples // k > 1:
            assert ratio == pytest.approx(1, abs=0.03)
        elif k == samples:
            assert low < ratio < high
    if spread == 10:
        delta = np.sqrt(((samples / effective_sample_size(log_w) - 1) / (samples - 1)).mean())
        assert delta < 0.35 * bounds[samples].std()


def test_a_single_sample_has_no_monte_carlo_error_and_no_half():
    log_w = normal(5, 1)
    assert np.isnan(monte_carlo_variances(log_w)[1]).all()
    assert np.isnan(half_bound(log_w)).all()


def test_the_bound_of_half_as_many_samples_is_the_mean_of_two():
    log_w = normal(4, 7)
    halves = [np.log(np.exp(log_w[:, first : first + 3]).mean(1)) for first in (0, 3)]
    np.testing.assert_allclose(half_bound(log_w), np.mean(halves, axis=0), rtol=1e-12)
    np.testing.assert_allclose(half_bound(normal(4, 8)), importance_bounds(normal(4, 8))[4], rtol=1e-12)


def test_the_effective_sample_size_is_k_for_equal_weights_and_1_for_a_dominant_one():
    log_w = np.array([[3.0] * 5, [1000.0, 0, 0, 0, 0], [0.0, 0.0, -2000, -2000, -2000]])
    np.testing.assert_allclose(effective_sample_size(log_w), [5, 1, 2])
