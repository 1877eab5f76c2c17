"""Active units of latents with known posterior means."""

import numpy as np
import pytest
from linear_gaussian import normal

from vaedist.evaluation.active_units import (
    active_channels,
    active_units,
    active_units_doubt,
    dead_unit_noise,
    exact_moments,
    latent_moments,
    samples_to_count,
)


def samples_with(spreads, *, sigma=1.0, count=4, images=2000):
    """Returns samples [K, N, latent] whose posterior means have these standard deviations over images."""
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
def test_the_noise_of_a_dead_unit_is_as_predicted(images, count):
    """For units that follow the prior, the compared value has the predicted standard deviation."""
    moments = moments_of(samples_with([0.0] * 4000, count=count, images=images))
    between = moments.square / images - (moments.mean / images) ** 2 - moments.within / images
    assert 3 * between.std() == pytest.approx(dead_unit_noise(images, count), rel=0.06)


@pytest.mark.parametrize("images", [1, 2, 19, 100, 128, 1000, 10_000, 179_999, 10**6])
def test_the_number_of_samples_needed_is_the_smallest(images):
    needed = samples_to_count(images)
    assert dead_unit_noise(images, needed) <= 0.01
    assert needed == 2 or dead_unit_noise(images, needed - 1) > 0.01


def test_a_count_that_may_be_noise_is_rejected_with_the_samples_that_it_needs():
    few = moments_of(samples_with([0.0, 1.0], count=16, images=100))
    assert active_units_doubt(few) == (
        "3 sqrt(2 / (N K (K - 1))) = 0.027, three standard deviations of the estimate for a latent that carries "
        "nothing, with N = 100 images and K = 16 samples of z, is above the threshold 0.01; "
        "this needs K = 43 or N = 750"
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


def test_channels_with_more_than_a_hundredth_of_a_nat_are_active():
    assert active_channels(np.array([0.0, -0.001, 0.0099, 0.0101, 3.0])) == 2
    assert active_channels(np.array([0.0, 3.0]), threshold=4.0) == 0
