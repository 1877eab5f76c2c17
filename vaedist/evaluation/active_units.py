"""Active units: how many latents carry information, and whether the count can be relied upon (Burda et al. 2016)."""

import math
from dataclasses import dataclass

import numpy as np

ACTIVE = 0.01  # variance of E_q[z_i] over images, in squared units of z, from which on a latent counts as active


@dataclass(frozen=True)
class LatentMoments:
    """Posterior means of each unit, added up over images, so that parts of a data set can be added.

    Attributes:
        samples: of z, whose mean estimates E_q[z_i]; None where it is known exactly.
        images: how many.
        mean, square: sums over images of E_q[z_i], or of its estimate, and of its square, [latent].
        within: sum over images of the variance of that estimate, [latent].
    """

    samples: int | None
    images: int
    mean: np.ndarray
    square: np.ndarray
    within: np.ndarray

    def __add__(self, other: "LatentMoments") -> "LatentMoments":
        """The moments of both sets of images."""
        return LatentMoments(
            self.samples,
            self.images + other.images,
            self.mean + other.mean,
            self.square + other.square,
            self.within + other.within,
        )


def latent_moments(sums: np.ndarray, squares: np.ndarray, samples: int) -> LatentMoments:
    """The moments of some images, from sums over their samples.

    Args:
        sums: of z, [N, latent].
        squares: of z^2, [N, latent].
        samples: how many there were of each image, at least 2.
    """
    mean = np.asarray(sums, np.float64) / samples
    variance = np.maximum(np.asarray(squares, np.float64) / samples - mean**2, 0) * samples / (samples - 1)
    return LatentMoments(samples, len(mean), mean.sum(0), (mean**2).sum(0), variance.sum(0) / samples)


def exact_moments(mean: np.ndarray) -> LatentMoments:
    """The moments of some images whose E_q[z] is known, [N, latent]: the encoder's mu, where there is no flow."""
    mean = np.asarray(mean, np.float64)
    return LatentMoments(None, len(mean), mean.sum(0), (mean**2).sum(0), np.zeros(mean.shape[1]))


def active_units(moments: LatentMoments, threshold: float = ACTIVE) -> int:
    """How many latents carry information: Var_x(E_q[z_i]) > threshold (Burda et al. 2016, section 5.2).

    The part of the variance over images that comes from E_q[z] being a mean of finitely many samples is taken off, so
    that a dead unit is not counted for its noise. `threshold` is in squared units of z. Whether the count can be relied
    upon is for `active_units_doubt` to say.
    """
    between = moments.square / moments.images - (moments.mean / moments.images) ** 2
    return int(np.sum(between - moments.within / moments.images > threshold))


def dead_unit_noise(images: int, samples: int) -> float:
    """Three standard deviations of what `active_units` compares with its threshold, for a unit that carries nothing.

    Such a unit has the prior's z ~ N(0, 1) for every image. The mean of its K samples has the variance 1 / K, whose
    estimate over N images has the variance 2 / (N K^2); what is taken off, the mean over N images of the samples'
    variance, over K, has 2 / (N (K - 1) K^2) and is independent of it. Their sum is 2 / (N K (K - 1)), so

        3 SD = 3 sqrt(2 / (N K (K - 1))).
    """
    return 3 * math.sqrt(2 / (images * samples * (samples - 1))) if samples > 1 else math.inf


def samples_to_count(images: int, threshold: float = ACTIVE) -> int:
    """The least K for which `dead_unit_noise` is not above the threshold."""
    product = 18 / (images * threshold**2)  # K (K - 1)
    return max(2, math.ceil(0.5 + math.sqrt(0.25 + product) - 1e-9))


def active_units_doubt(moments: LatentMoments, threshold: float = ACTIVE) -> str | None:
    """Why the number of active units cannot be told from these moments; None where it can."""
    images, samples = moments.images, moments.samples
    if images < 2:
        return "a variance over images takes 2 images or more"
    if samples is None or (noise := dead_unit_noise(images, samples)) <= threshold:
        return None
    more = f" or N = {math.ceil(18 / (samples * (samples - 1) * threshold**2) - 1e-9):,}" if samples > 1 else ""
    return (
        f"3 sqrt(2 / (N K (K - 1))) = {noise:.3f}, three standard deviations of the estimate for a latent that carries "
        f"nothing, with N = {images:,} images and K = {samples} samples of z, is above the threshold {threshold:g}; it "
        f"takes K = {samples_to_count(images, threshold)}{more}"
    )
