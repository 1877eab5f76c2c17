"""Importance-weighted bounds, their Monte-Carlo errors and effective sample sizes (Burda et al. 2016)."""

import numpy as np


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
