"""The bound against models with a closed form of the evidence, the posterior or the KL."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from linear_gaussian import LinearGaussian, closed_kl, normal, plain_score, score_of, within_standard_errors
from mlp_vae import vae

from vaedist.models.flow_vae import Encoding
from vaedist.models.flows.inverse_autoregressive import InverseAutoregressiveFlow
from vaedist.objectives.elbo import bits_per_dim, bound

toy = LinearGaussian()


def test_the_elbo_is_reconstruction_less_kl():
    score = vae((2, 2, 3), hidden=5, latent=3, flow_depth=2, flow_width=6)(np.zeros((4, 2, 2, 3), np.uint8))
    parts = bound(score)
    assert [part.shape for part in tf.nest.flatten(parts)] == [(4,)] * 4
    np.testing.assert_array_equal(parts.elbo, parts.reconstruction - parts.kl)
    np.testing.assert_array_equal(parts.reconstruction, score.log_px)
    np.testing.assert_array_equal(parts.by_layer["z"], parts.kl)


def test_the_kl_is_the_sum_of_its_units():
    score = plain_score(normal(4, 3), normal(4, 3, seed=1), normal(4, 3, seed=2))
    assert score.kl["z"].shape == (4, 3)
    np.testing.assert_allclose(bound(score).kl, score.kl["z"].numpy().sum(axis=1), atol=1e-12)


@pytest.mark.parametrize("samples", [(), (5,)])
def test_the_kl_is_the_sum_of_the_groups_of_all_layers(samples):
    layers = {name: normal(4, *samples, groups, seed=groups) for name, groups in (("a", 3), ("b", 1), ("c", 2))}
    score = score_of(normal(4, *samples), tf.zeros((4, 1)), 0.0)._replace(kl=layers)
    parts = bound(score)
    assert list(parts.by_layer) == ["a", "b", "c"]
    for name, groups in layers.items():
        np.testing.assert_allclose(parts.by_layer[name], groups.sum(axis=-1), atol=1e-12)
    np.testing.assert_allclose(parts.kl, sum(groups.sum(axis=-1) for groups in layers.values()), atol=1e-12)
    np.testing.assert_allclose(parts.elbo, score.log_px - parts.kl, atol=1e-12)


@given(st.integers(1, 6), st.integers(1, 5))
def test_chapter_fault_the_kl_is_summed_over_latents_so_it_grows_with_their_number(latent, times):
    """A mean over (image, latent), as in textbook code, makes the KL too small by the number of latents."""
    mu, log_sigma, eps = normal(3, latent), normal(3, latent, seed=1), normal(3, latent, seed=2)
    once = plain_score(mu, log_sigma, eps)
    often = plain_score(*(np.tile(part, (1, times)) for part in (mu, log_sigma, eps)))
    kl, grown = (bound(score).kl.numpy() for score in (once, often))
    assert kl.shape == (3,)  # one number per image, without a mean over images
    np.testing.assert_allclose(grown, times * kl, rtol=1e-10)


def test_without_a_flow_the_mean_of_the_kl_estimates_is_the_closed_form():
    model = vae((2, 2, 3), hidden=5, latent=3, flow_depth=0, dtype="float64")
    mu, log_sigma, count = np.array([0.5, -1.0, 0.0]), np.array([-0.7, 0.3, 0.0]), 100_000
    x, h = (tf.zeros((count, size), tf.float64) for size in (12, 0))
    encoding = Encoding(x, *(tf.constant(np.broadcast_to(v, (count, 3))) for v in (mu, log_sigma)), h)
    units = model.score(encoding, {"z": tf.constant(normal(count, 3))}).kl["z"].numpy()
    for unit, expected in enumerate(closed_kl(mu, log_sigma)[:2]):
        assert within_standard_errors(units[:, unit], expected)
    np.testing.assert_allclose(units[:, 2], 0, atol=1e-12)  # q is the prior
    assert within_standard_errors(units.sum(axis=1), closed_kl(mu, log_sigma).sum())


def test_the_toy_has_a_diagonal_posterior():
    assert (toy.w.T @ toy.w)[0, 1] == pytest.approx(0)


def test_at_the_exact_posterior_every_estimate_of_the_elbo_is_the_evidence():
    estimates = toy.elbo(plain_score(toy.mu, toy.log_sigma, normal(1000, 2)))
    np.testing.assert_allclose(estimates, toy.evidence, atol=1e-10)


@pytest.mark.parametrize("shift", [0.2, -1.0])
@pytest.mark.parametrize("widen", [-0.5, 0.0, 0.4])
def test_elsewhere_the_elbo_is_below_the_evidence_by_the_kl_to_the_exact_posterior(shift, widen):
    mu, log_sigma = toy.mu + shift * np.exp(toy.log_sigma), toy.log_sigma + widen
    gap = closed_kl(np.full(2, shift), np.full(2, widen)).sum()
    estimates = toy.elbo(plain_score(mu, log_sigma, normal(50_000, 2)))
    assert within_standard_errors(estimates, toy.evidence - gap)
    assert toy.evidence - gap < toy.evidence


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_no_flow_raises_the_elbo_above_the_evidence_and_the_mean_weight_is_the_evidence(depth, seed):
    """E exp(log p(x, z) - log q(z)) = p(x) for any flow, unless log_det is wrong."""
    model = vae((1, 1, 3), hidden=2, latent=2, flow_depth=depth, flow_width=6, dtype="float64")
    rng = np.random.default_rng(seed)
    assert isinstance(model.flow, InverseAutoregressiveFlow)
    model.flow.set_weights([rng.normal(0, 0.5, w.shape) for w in model.flow.get_weights()])
    count = 50_000
    wide = toy.log_sigma + 0.7  # q must cover the posterior, so that the variance of the average is meaningful
    encoding = Encoding(None, *(tf.constant(np.broadcast_to(v, (count, 2))) for v in (toy.mu, wide, toy.mu)))
    posterior = model.posterior(encoding, {"z": tf.constant(normal(count, 2, seed=seed))})
    estimates = toy.elbo(score_of(0.0, posterior.z, posterior.log_q))
    assert estimates.mean() < toy.evidence
    weights = np.exp(estimates - toy.evidence)
    assert weights.mean() == pytest.approx(1, abs=5 * weights.std() / np.sqrt(count))


def test_bits_per_dim_by_hand():
    assert bits_per_dim(-4 * np.log(2), 4, 1) == pytest.approx(1)
    assert bits_per_dim(0.0, 3072, 256) == pytest.approx(8)  # the uniform density on [0, 1]: 8 bits a pixel
    assert bits_per_dim(3072 * np.log(256), 3072, 256) == pytest.approx(0)  # all of it in one bin
