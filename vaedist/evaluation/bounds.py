"""Importance-weighted bounds, their Monte-Carlo errors and effective sample sizes (Burda et al. 2016)."""

import numpy as np


def group_sizes(samples: int) -> tuple[int, ...]:
    """Returns the powers of two below a number of samples, and that number."""
    return (*(2**j for j in range((samples - 1).bit_length())), samples)


def importance_bounds(log_w: np.ndarray) -> dict[int, np.ndarray]:
    """Computes the importance-weighted bounds of each image, k = 1, 2, 4, ..., K, in nats (Burda et al. 2016, eq. 8).

        L_k = E log 1/k sum_{j <= k} w_j  <=  log p(x),  w = p(x, z) / q(z|x)

    L_1 is the ELBO, and L_k does not decrease with k. Each estimate is the mean over all disjoint groups of k
    neighbouring samples, which is unbiased. A group of 2 k consists of two groups of k, so L_2k >= L_k for each image
    whenever the groups cover all samples.

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
    """Returns the mean of L_h of the first and the next h = K // 2 samples, [N], for log w [N, K]; NaN if K = 1."""
    return _halves(log_w).mean(axis=1)


def monte_carlo_variances(log_w: np.ndarray) -> dict[int, np.ndarray]:
    """Computes the variance of each estimate of `importance_bounds` over samples of z, by image, in squared nats.

    It uses batch means. If an estimate is the mean of g >= 2 groups, its variance is the variance between the groups,
    divided by g, which is unbiased. If there is one group, as for L_K, it is the variance of the mean of the bounds a
    and b of its two halves, (a - b)^2 / 4. While the effective sample size is large, the variance of a bound is
    proportional to 1 / k, and this is the variance of L_K. If few weights dominate, it is too small: by a factor of 2
    (of 1.4 in standard deviations) in the extreme case that doubling k does not lower the variance at all. The delta
    method, var(w) / (K mean(w)^2) = (K / ESS - 1) / (K - 1), agrees with it in the first case; it cannot exceed 1, and
    is several times too small in the second.

    Returns:
        Variances by k, [N] each, float64; NaN for a single sample.
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
    """Returns (sum w)^2 / sum w^2 of each image, between 1 and K (Kong 1992), [N], for log_w [N, K]."""
    log_w = np.asarray(log_w, np.float64)
    w = np.exp(log_w - log_w.max(axis=1, keepdims=True))
    return w.sum(axis=1) ** 2 / (w**2).sum(axis=1)


def _halves(log_w: np.ndarray) -> np.ndarray:
    """Returns L_h of the first h = K // 2 samples of each image, and of the next h, [N, 2]."""
    log_w = np.asarray(log_w, np.float64)
    half = log_w.shape[1] // 2
    if not half:
        return np.full((len(log_w), 2), np.nan)
    return _log_mean_exp(log_w[:, : 2 * half].reshape(len(log_w), 2, half))


def _log_mean_exp(x: np.ndarray) -> np.ndarray:
    """Returns the logarithm of the mean exponential over the last axis."""
    most = x.max(axis=-1, keepdims=True)
    return most[..., 0] + np.log(np.exp(x - most).mean(axis=-1))
