"""The evidence lower bound and its parts: each formula once, for training, evaluation and tests.

    ELBO(x) = E_q [ log p(x|z) + log p(z) - log q(z|x) ]  <=  log p(x)

in nats an image (Kingma and Welling 2014, equation 2; log q through the flow as in Kingma et al. 2016,
equation 11).
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from vaedist.model import Posterior, VAEOutput
from vaedist.model.densities import log_standard_normal

ACTIVE = 0.01  # variance of E_q[z_i] over images, in squared units of z, from which on a latent counts as active


class Bound(NamedTuple):
    """One-sample estimates for each image, in nats, each [B].

    elbo = reconstruction - kl; reconstruction estimates E_q log p(x|z), kl estimates KL(q(z|x) || p(z)),
    summed over the latents.
    """

    elbo: Any
    reconstruction: Any
    kl: Any


def bound(output: VAEOutput) -> Bound:
    """The ELBO of each image and its two parts, from one sample of z."""
    kl = ops.sum(kl_per_unit(output.posterior), axis=-1)
    return Bound(output.log_px - kl, output.log_px, kl)


def kl_per_unit(posterior: Posterior) -> Any:
    """What each latent adds to the estimate of the KL, log q_i - log p(z_i), [B, latent], in nats.

    Without a flow its mean is the KL of the unit. With one, the units of z_T depend on each other, and only
    the sum over the latents is a KL.
    """
    return posterior.log_q - log_standard_normal(posterior.z)


@dataclass(frozen=True)
class Objective:
    """What training maximises: the ELBO, or a relative of it that keeps latents in use while they are learnt.

    L = E log p(x|z) - beta_t sum_j max(lambda, KL_j): groups of `group` neighbouring latents with the mean over the
    batch, KL_j, below lambda = `free_bits` nats are not pushed further down (Kingma et al. 2016, section C.8), and
    beta_t = min(1, (t + 1) / warmup) rises over the first `warmup` updates t (Bowman et al. 2016). With neither, L is
    the ELBO.
    """

    warmup: int = 0
    free_bits: float = 0.0
    group: int = 1

    @property
    def is_elbo(self) -> bool:
        """Whether there is neither a warm-up nor free bits."""
        return not (self.warmup or self.free_bits)

    def kl_weight(self, step: Any) -> Any:
        """beta_t of update number `step`, counted from 0."""
        return ops.minimum(1.0, (ops.cast(step, "float32") + 1.0) / self.warmup) if self.warmup else 1.0

    def group_kl(self, posterior: Posterior) -> Any:
        """The KL's estimate by group, [B, groups], in nats."""
        units = kl_per_unit(posterior)
        units = ops.pad(units, ((0, 0), (0, -units.shape[1] % self.group)))
        return ops.sum(ops.reshape(units, (units.shape[0], -1, self.group)), axis=-1)

    def value(self, terms: Bound, posterior: Posterior, step: Any, group_means: Any) -> Any:
        """L, as one term an image, [B]; its mean over the batch is L.

        Args:
            terms: of the batch.
            posterior: that they came from.
            step: number of the update.
            group_means: KL_j over the whole batch, [groups]; not read without free bits.
        """
        if self.is_elbo:
            return terms.elbo
        kl = terms.kl
        if self.free_bits:
            kl = ops.sum(ops.where(group_means > self.free_bits, self.group_kl(posterior), self.free_bits), axis=-1)
        return terms.reconstruction - ops.cast(self.kl_weight(step), kl.dtype) * kl


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


def bits_per_dim(log_px: Any, dims: int, levels: int) -> Any:
    """Bits that a code for an image takes per pixel value, -log p(x) / (D ln 2) + log2(levels).

    A density of x in [0, 1]^D, spread over bins of width 1 / levels, gives a bin the probability p(x) levels^-D, of
    which -log2, divided by D, is the above. With levels = 256 the constant is 8 bits. Where log_px is a lower bound,
    so is the probability, and the bits are an upper bound.

    Args:
        log_px: log p(x) in nats an image, or a bound on it, any shape.
        dims: D, pixel values of an image.
        levels: bins that x was spread over; 1 where log_px is the logarithm of a probability. See `VAE.levels`.
    """
    return -log_px / (dims * math.log(2)) + math.log2(levels)


def group_sizes(samples: int) -> tuple[int, ...]:
    """1, 2, 4, ... below a number of samples, and that number."""
    return (*(2**j for j in range((samples - 1).bit_length())), samples)


def importance_bounds(log_w: np.ndarray) -> dict[int, np.ndarray]:
    """The importance-weighted bound of each image for k = 1, 2, 4, ..., K, in nats (Burda et al. 2016, equation 8).

        L_k = E log 1/k sum_{j <= k} w_j  <=  log p(x),  w = p(x, z) / q(z|x)

    L_1 is the ELBO, and L_k does not fall with k. Each is the mean over as many disjoint groups of k neighbouring
    samples as there are: unbiased, and, as groups of 2 k are made of groups of k, L_2k >= L_k for each image where the
    groups use up all samples.

    Args:
        log_w: log p(x, z) - log q(z|x) of K samples of each image, [N, K].

    Returns:
        L_k by k, [N] each, float64.
    """
    log_w = np.asarray(log_w, np.float64)
    bounds = {}
    for k in group_sizes(log_w.shape[1]):
        groups = log_w.shape[1] // k
        grouped = log_w[:, : groups * k].reshape(len(log_w), groups, k)
        bounds[k] = _log_mean_exp(grouped).mean(axis=1)
    return bounds


def half_bound(log_w: np.ndarray) -> np.ndarray:
    """The mean of L_h of the first h = K // 2 samples and of the next h, [N], of log w [N, K]; NaN for one sample."""
    return _halves(log_w).mean(axis=1)


def monte_carlo_variances(log_w: np.ndarray) -> dict[int, np.ndarray]:
    """Variances of the estimates of `importance_bounds` for each image, over the samples of z, in squared nats.

    By batch means: where an estimate is the mean of g >= 2 groups, the variance between these, over g, which is exact
    on average. Where there is one group, as for L_K, that of the mean of its two halves' bounds a and b, (a - b)^2 / 4.
    While the effective sample size is large, both bounds vary with 1 / k, and this is the variance of L_K. Where few
    weights outweigh the others it falls short: if doubling k did not lower the variance at all, by a factor of 2, in
    standard deviations by 1.4. The delta method, var(w) / (K mean(w)^2) = (K / ESS - 1) / (K - 1), agrees with it
    in the first case; it cannot exceed 1, and is several times too small in the second.

    Returns:
        by k, [N] each, float64; NaN for a single sample.
    """
    log_w = np.asarray(log_w, np.float64)
    variances = {}
    for k in group_sizes(log_w.shape[1]):
        groups = log_w.shape[1] // k
        if groups > 1:
            bounds = _log_mean_exp(log_w[:, : groups * k].reshape(len(log_w), groups, k))
            variances[k] = bounds.var(axis=1, ddof=1) / groups
        else:
            variances[k] = np.square(np.diff(_halves(log_w[:, :k]), axis=1)[:, 0]) / 4
    return variances


def effective_sample_size(log_w: np.ndarray) -> np.ndarray:
    """(sum w)^2 / sum w^2 of each image, between 1 and K (Kong 1992), for log_w [N, K]."""
    log_w = np.asarray(log_w, np.float64)
    w = np.exp(log_w - log_w.max(axis=1, keepdims=True))
    return w.sum(axis=1) ** 2 / (w**2).sum(axis=1)


def _halves(log_w: np.ndarray) -> np.ndarray:
    """L_h of the first h = K // 2 samples of each image, and of the next h, [N, 2]."""
    log_w = np.asarray(log_w, np.float64)
    half = log_w.shape[1] // 2
    if not half:
        return np.full((len(log_w), 2), np.nan)
    return _log_mean_exp(log_w[:, : 2 * half].reshape(len(log_w), 2, half))


def _log_mean_exp(x: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    most = x.max(axis=-1, keepdims=True)
    return most[..., 0] + np.log(np.exp(x - most).mean(axis=-1))
