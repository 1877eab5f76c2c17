"""Active units, the number of latents that carry information (Burda et al. 2016), and active channels."""

import math
from dataclasses import dataclass

import numpy as np

ACTIVE_KL = 0.01  # threshold of the mean KL of an active channel, in nats per image
ACTIVE = 0.01  # threshold of the variance of E_q[z_i] over images for an active latent, in squared units of z


@dataclass(frozen=True)
class LatentMoments:
    """Moments of the posterior mean of each unit, summed over images; those of parts of a data set can be added.

    Attributes:
        samples: number of samples of z whose mean estimates E_q[z_i]; None if it is known exactly.
        images: number of images.
        mean, square: sums over images of E_q[z_i], or of its estimate, and of its square, [latent].
        within: sum over images of the variance of that estimate, [latent].
    """

    samples: int | None
    images: int
    mean: np.ndarray
    square: np.ndarray
    within: np.ndarray

    def __add__(self, other: "LatentMoments") -> "LatentMoments":
        """Returns the moments of both sets of images together."""
        return LatentMoments(
            self.samples,
            self.images + other.images,
            self.mean + other.mean,
            self.square + other.square,
            self.within + other.within,
        )


def latent_moments(sums: np.ndarray, squares: np.ndarray, samples: int) -> LatentMoments:
    """Computes the moments of images from sums over samples of z.

    Args:
        sums: sums of z, [N, latent].
        squares: sums of z^2, [N, latent].
        samples: number of samples of each image, at least 2.
    """
    mean = np.asarray(sums, np.float64) / samples
    variance = np.maximum(np.asarray(squares, np.float64) / samples - mean**2, 0) * samples / (samples - 1)
    return LatentMoments(samples, len(mean), mean.sum(0), (mean**2).sum(0), variance.sum(0) / samples)


def exact_moments(mean: np.ndarray) -> LatentMoments:
    """Computes the moments of images from their exact E_q[z], [N, latent]: the encoder's mu, if there is no flow."""
    mean = np.asarray(mean, np.float64)
    return LatentMoments(None, len(mean), mean.sum(0), (mean**2).sum(0), np.zeros(mean.shape[1]))


def active_units(moments: LatentMoments, threshold: float = ACTIVE) -> int:
    """Returns the number of latents with Var_x(E_q[z_i]) > threshold (Burda et al. 2016, section 5.2).

    The variance that is due to estimating E_q[z] from finitely many samples is subtracted, so that the noise of a dead
    unit does not make it active. `threshold` is in squared units of z. See `active_units_doubt` for the reliability of
    the number.
    """
    between = moments.square / moments.images - (moments.mean / moments.images) ** 2
    return int(np.sum(between - moments.within / moments.images > threshold))


def active_channels(kl: np.ndarray, threshold: float = ACTIVE_KL) -> int:
    """Returns the number of channels whose KL divergence, [channels], a mean over images in nats, exceeds a threshold.

    The KL divergence of a channel is the sum over its positions. These are not the active units of Burda et al. 2016,
    which are latents whose posterior mean varies from image to image: a channel is active even if its posterior differs
    from the prior in the same way for all images, or if only a few of its positions are used.
    """
    return int(np.sum(kl > threshold))


def dead_unit_noise(images: int, samples: int) -> float:
    """Returns three standard deviations of a dead unit's value that `active_units` compares with its threshold.

    A dead unit has z ~ N(0, 1) for every image. The mean of its K samples has the variance 1 / K, whose estimate over N
    images has the variance 2 / (N K^2). The subtracted term, the mean over images of the samples' variance divided by
    K, has the variance 2 / (N (K - 1) K^2) and is independent of the estimate. The sum is 2 / (N K (K - 1)), so

        3 SD = 3 sqrt(2 / (N K (K - 1))).
    """
    return 3 * math.sqrt(2 / (images * samples * (samples - 1))) if samples > 1 else math.inf


def samples_to_count(images: int, threshold: float = ACTIVE) -> int:
    """Returns the smallest K for which `dead_unit_noise` is not above the threshold."""
    product = 18 / (images * threshold**2)  # K (K - 1)
    return max(2, math.ceil(0.5 + math.sqrt(0.25 + product) - 1e-9))


def active_units_doubt(moments: LatentMoments, threshold: float = ACTIVE) -> str | None:
    """Returns the reason why these moments give no reliable number of active units; None if they do."""
    images, samples = moments.images, moments.samples
    if images < 2:
        return "a variance over images needs 2 images or more"
    if samples is None or (noise := dead_unit_noise(images, samples)) <= threshold:
        return None
    more = f" or N = {math.ceil(18 / (samples * (samples - 1) * threshold**2) - 1e-9):,}" if samples > 1 else ""
    return (
        f"3 sqrt(2 / (N K (K - 1))) = {noise:.3f}, three standard deviations of the estimate for a latent that carries "
        f"nothing, with N = {images:,} images and K = {samples} samples of z, is above the threshold {threshold:g}; "
        f"this needs K = {samples_to_count(images, threshold)}{more}"
    )
