"""The bound against models whose evidence, posterior or KL is known in closed form."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from vaedist.evaluation.active_units import (
    active_units,
    active_units_doubt,
    dead_unit_noise,
    exact_moments,
    latent_moments,
    samples_to_count,
)
from vaedist.evaluation.bounds import (
    effective_sample_size,
    group_sizes,
    half_bound,
    importance_bounds,
    monte_carlo_variances,
)
from vaedist.models import VAE, Encoding, Posterior, VAEOutput
from vaedist.models.densities import log_normal
from vaedist.models.flows.inverse_autoregressive import InverseAutoregressiveFlow
from vaedist.objectives.elbo import bits_per_dim, bound, kl_per_unit


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def plain_posterior(mu, log_sigma, eps):
    """A sample of N(mu, sigma^2) without a flow."""
    z = mu + np.exp(log_sigma) * eps
    mu, log_sigma = np.broadcast_to(mu, z.shape), np.broadcast_to(log_sigma, z.shape)
    return Posterior(tf.constant(z), log_normal(z, mu, log_sigma), (), Encoding(mu, log_sigma, None))


def closed_kl(mu, log_sigma):
    """KL(N(mu, sigma^2) || N(0, 1)) of each unit."""
    return 0.5 * (np.exp(2 * log_sigma) + mu**2 - 1) - log_sigma


def within_standard_errors(samples, expected, count=5):
    return abs(samples.mean() - expected) < count * samples.std() / np.sqrt(len(samples))


def test_the_elbo_is_reconstruction_less_kl():
    output = VAE((2, 2, 3), hidden=5, latent=3, flow_depth=2, flow_width=6)(np.zeros((4, 2, 2, 3), np.uint8))
    parts = bound(output)
    assert [part.shape for part in parts] == [(4,)] * 3
    np.testing.assert_array_equal(parts.elbo, parts.reconstruction - parts.kl)
    np.testing.assert_array_equal(parts.reconstruction, output.log_px)


def test_the_kl_is_the_sum_of_its_units():
    posterior = plain_posterior(normal(4, 3), normal(4, 3, seed=1), normal(4, 3, seed=2))
    parts = bound(VAEOutput(tf.zeros(4, tf.float64), posterior))
    assert kl_per_unit(posterior).shape == (4, 3)
    np.testing.assert_allclose(parts.kl, kl_per_unit(posterior).numpy().sum(axis=1), atol=1e-12)


@given(st.integers(1, 6), st.integers(1, 5))
def test_chapter_fault_the_kl_is_summed_over_latents_so_it_grows_with_their_number(latent, times):
    """The chapter takes a mean over (image, latent): its KL is too small by the number of latents."""
    mu, log_sigma, eps = normal(3, latent), normal(3, latent, seed=1), normal(3, latent, seed=2)
    once = plain_posterior(mu, log_sigma, eps)
    often = plain_posterior(*(np.tile(part, (1, times)) for part in (mu, log_sigma, eps)))
    log_px = tf.zeros(3, tf.float64)
    kl, grown = (bound(VAEOutput(log_px, posterior)).kl.numpy() for posterior in (once, often))
    assert kl.shape == (3,)  # one number an image: nothing is averaged over images here
    np.testing.assert_allclose(grown, times * kl, rtol=1e-10)


def test_without_a_flow_the_mean_of_the_kl_estimates_is_the_closed_form():
    model = VAE((2, 2, 3), hidden=5, latent=3, flow_depth=0, dtype="float64")
    mu, log_sigma, count = np.array([0.5, -1.0, 0.0]), np.array([-0.7, 0.3, 0.0]), 100_000
    encoding = Encoding(*(tf.constant(np.broadcast_to(v, (count, 3))) for v in (mu, log_sigma, mu)))
    units = kl_per_unit(model.sample_posterior(encoding, tf.constant(normal(count, 3)))).numpy()
    for unit, expected in enumerate(closed_kl(mu, log_sigma)[:2]):
        assert within_standard_errors(units[:, unit], expected)
    np.testing.assert_allclose(units[:, 2], 0, atol=1e-12)  # q is the prior
    assert within_standard_errors(units.sum(axis=1), closed_kl(mu, log_sigma).sum())


class LinearGaussian:
    """z ~ N(0, I), x ~ N(W z + b, s^2 I) with orthogonal columns of W: evidence and posterior in closed form."""

    w = np.array([[1.2, 0.4], [0.6, -0.8], [0.0, 0.0]])
    b, s, x = np.array([0.3, -0.2, 0.1]), 0.5, np.array([1.0, 0.4, -0.3])

    def __init__(self):
        precision = 1 + (self.w**2).sum(axis=0) / self.s**2
        self.mu, self.log_sigma = (self.x - self.b) @ self.w / self.s**2 / precision, -0.5 * np.log(precision)
        covariance = self.w @ self.w.T + self.s**2 * np.eye(3)
        r = self.x - self.b
        self.evidence = -0.5 * (r @ np.linalg.solve(covariance, r) + np.linalg.slogdet(2 * np.pi * covariance)[1])

    def elbo(self, posterior):
        """One-sample estimates, [B]."""
        mean = posterior.z.numpy() @ self.w.T + self.b
        log_px = tf.reduce_sum(log_normal(self.x, mean, np.log(self.s)), axis=-1)
        return bound(VAEOutput(log_px, posterior)).elbo.numpy()


toy = LinearGaussian()


def test_the_toy_has_a_diagonal_posterior():
    assert (toy.w.T @ toy.w)[0, 1] == pytest.approx(0)


def test_at_the_exact_posterior_every_estimate_of_the_elbo_is_the_evidence():
    estimates = toy.elbo(plain_posterior(toy.mu, toy.log_sigma, normal(1000, 2)))
    np.testing.assert_allclose(estimates, toy.evidence, atol=1e-10)


@pytest.mark.parametrize("shift", [0.2, -1.0])
@pytest.mark.parametrize("widen", [-0.5, 0.0, 0.4])
def test_elsewhere_the_elbo_is_below_the_evidence_by_the_kl_to_the_exact_posterior(shift, widen):
    mu, log_sigma = toy.mu + shift * np.exp(toy.log_sigma), toy.log_sigma + widen
    gap = closed_kl(np.full(2, shift), np.full(2, widen)).sum()
    estimates = toy.elbo(plain_posterior(mu, log_sigma, normal(50_000, 2)))
    assert within_standard_errors(estimates, toy.evidence - gap)
    assert toy.evidence - gap < toy.evidence


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_no_flow_lifts_the_elbo_above_the_evidence_and_its_weights_average_to_the_evidence(depth, seed):
    """E exp(log p(x, z) - log q(z)) = p(x) whatever the flow, which a wrong log_det breaks."""
    model = VAE((1, 1, 3), hidden=2, latent=2, flow_depth=depth, flow_width=6, dtype="float64")
    rng = np.random.default_rng(seed)
    assert isinstance(model.flow, InverseAutoregressiveFlow)
    model.flow.set_weights([rng.normal(0, 0.5, w.shape) for w in model.flow.get_weights()])
    count = 50_000
    wide = toy.log_sigma + 0.7  # q must cover the posterior, or the average has no variance to speak of
    encoding = Encoding(*(tf.constant(np.broadcast_to(v, (count, 2))) for v in (toy.mu, wide, toy.mu)))
    estimates = toy.elbo(model.sample_posterior(encoding, tf.constant(normal(count, 2, seed=seed))))
    assert estimates.mean() < toy.evidence
    weights = np.exp(estimates - toy.evidence)
    assert weights.mean() == pytest.approx(1, abs=5 * weights.std() / np.sqrt(count))


def samples_with(spreads, *, sigma=1.0, count=4, images=2000):
    """[K, N, latent] samples whose posterior means have these standard deviations over images."""
    means = normal(1, images, len(spreads)) * np.asarray(spreads)
    return means + sigma * normal(count, images, len(spreads), seed=1)


def moments_of(samples):
    return latent_moments(samples.sum(0), (samples**2).sum(0), len(samples))


def active(samples, threshold=0.01):
    return active_units(moments_of(samples), threshold)


def test_units_whose_posterior_mean_moves_with_the_image_are_active():
    assert active(samples_with([0.0, 1.0, 0.0, 0.5, 2.0], sigma=0.3)) == 3


@pytest.mark.parametrize("count", [2, 3, 20])
def test_a_dead_unit_is_not_counted_for_the_noise_of_its_mean(count):
    """Var(mean of K) is 1 / K for a unit that follows the prior: far above the threshold."""
    assert active(samples_with([0.0] * 30, count=count, images=20_000), threshold=0.05) == 0


@pytest.mark.parametrize(("images", "count"), [(100, 16), (1000, 2), (50, 5)])
def test_the_noise_of_a_dead_unit_is_what_it_is_said_to_be(images, count):
    """The spread, over units that follow the prior, of what is compared with the threshold."""
    moments = moments_of(samples_with([0.0] * 4000, count=count, images=images))
    between = moments.square / images - (moments.mean / images) ** 2 - moments.within / images
    assert 3 * between.std() == pytest.approx(dead_unit_noise(images, count), rel=0.06)


@pytest.mark.parametrize("images", [1, 2, 19, 100, 128, 1000, 10_000, 179_999, 10**6])
def test_so_many_samples_are_needed_and_no_fewer(images):
    needed = samples_to_count(images)
    assert dead_unit_noise(images, needed) <= 0.01
    assert needed == 2 or dead_unit_noise(images, needed - 1) > 0.01


def test_a_count_that_noise_could_make_up_is_doubted_and_says_what_it_takes():
    few = moments_of(samples_with([0.0, 1.0], count=16, images=100))
    assert active_units_doubt(few) == (
        "3 sqrt(2 / (N K (K - 1))) = 0.027, three standard deviations of the estimate for a latent that carries "
        "nothing, with N = 100 images and K = 16 samples of z, is above the threshold 0.01; it takes K = 43 or N = 750"
    )
    assert active_units_doubt(moments_of(samples_with([0.0, 1.0], count=43, images=100))) is None
    assert active_units_doubt(moments_of(samples_with([0.0, 1.0], count=16, images=750))) is None
    assert active_units_doubt(exact_moments(np.zeros((2, 3)))) is None
    assert "2 images or more" in active_units_doubt(exact_moments(np.zeros((1, 3))))


def test_known_means_are_counted_without_any_noise():
    moments = exact_moments(np.outer([0.0, 1.0, 2.0, 3.0], [0.0, 0.05, 0.2, 5.0]) + 3)  # variances 1.25 times squares
    assert active_units(moments) == 2


def test_a_unit_counts_from_the_threshold_on():
    samples = samples_with([0.2, 0.4], sigma=0.01)  # variances 0.04 and 0.16
    assert [active(samples, threshold) for threshold in (0.01, 0.1, 0.3)] == [2, 1, 0]


def test_the_same_mean_for_every_image_is_no_information():
    assert active(np.full((3, 50, 4), 7.0)) == 0


def test_moments_of_parts_add_up_to_those_of_the_whole():
    samples = samples_with([0.3, 1.0, 0.0], count=5, images=60)

    whole, parts = moments_of(samples), moments_of(samples[:, :17]) + moments_of(samples[:, 17:])
    assert whole.images == parts.images == 60
    for name in ("mean", "square", "within"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-12)
    np.testing.assert_allclose(whole.within, samples.var(0, ddof=1).sum(0) / 5, rtol=1e-10)


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
def test_bounds_never_fall_where_groups_use_up_the_samples_and_are_finite_for_any_weights(j, level, spread, seed):
    log_w = level + spread * normal(3, 2**j, seed=seed)
    bounds = np.stack(list(importance_bounds(log_w).values()))
    assert np.isfinite(bounds).all()
    assert (np.diff(bounds, axis=0) >= -1e-9 * max(1, abs(level))).all()
    assert (bounds <= log_w.max(1) + 1e-9 * max(1, abs(level))).all()


def toy_weights(images, samples, *, shift=0.6, widen=0.3):
    """log w of a posterior that is off, for as many repetitions of the one image."""
    mu, log_sigma = toy.mu + shift * np.exp(toy.log_sigma), toy.log_sigma + widen
    eps = normal(images * samples, 2, seed=3)
    return toy.elbo(plain_posterior(mu, log_sigma, eps)).reshape(images, samples)


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
    """E log((w_1 + w_2) / 2) over both samples by Gauss-Hermite quadrature, one latent off in its mean."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()
    shift = np.array([0.8, 0.0])
    eps = np.stack([nodes, np.zeros_like(nodes)], axis=1)
    log_w = toy.elbo(plain_posterior(toy.mu + shift * np.exp(toy.log_sigma), toy.log_sigma, eps))
    pairs = np.logaddexp(log_w[:, None], log_w[None, :]) - np.log(2)
    expected = weights @ pairs @ weights
    estimates = importance_bounds(toy_weights(50_000, 2, shift=np.array([0.8, 0.0]), widen=0.0))[2]
    assert within_standard_errors(estimates, expected)


@pytest.mark.parametrize(("spread", "low", "high"), [(0.3, 0.93, 1.07), (2, 0.8, 1.05), (10, 0.69, 1.0)])
@pytest.mark.parametrize("samples", [16, 128, 11])
def test_monte_carlo_errors_are_the_spread_over_other_samples(spread, low, high, samples):
    """With weights alike, and with one that outweighs all, where the delta method is several times too small."""
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


def test_the_effective_sample_size_is_k_for_equal_weights_and_1_for_one_that_outweighs_all():
    log_w = np.array([[3.0] * 5, [1000.0, 0, 0, 0, 0], [0.0, 0.0, -2000, -2000, -2000]])
    np.testing.assert_allclose(effective_sample_size(log_w), [5, 1, 2])


def test_bits_per_dim_by_hand():
    assert bits_per_dim(-4 * np.log(2), 4, 1) == pytest.approx(1)
    assert bits_per_dim(0.0, 3072, 256) == pytest.approx(8)  # the uniform density on [0, 1]: 8 bits a pixel
    assert bits_per_dim(3072 * np.log(256), 3072, 256) == pytest.approx(0)  # all of it in one bin
