"""Posteriors and models whose evidence and KL divergence are known in closed form."""

import numpy as np
import tensorflow as tf

from vaedist.models import Score
from vaedist.models.densities import log_normal, log_standard_normal
from vaedist.objectives.elbo import bound


def normal(*shape, seed=0):
    """Returns standard normal numbers."""
    return np.random.default_rng(seed).normal(size=shape)


def score_of(log_px, z, log_q):
    """Returns the score of a sample z of q(z|x), [B, latent], with the prior N(0, I)."""
    return Score(tf.constant(log_px), {"z": log_q - log_standard_normal(z)}, {"z": z})


def plain_score(mu, log_sigma, eps, log_px=None):
    """Returns the score of a sample of N(mu, sigma^2) without a flow; log p(x|z) is 0 by default."""
    z = mu + np.exp(log_sigma) * eps
    mu, log_sigma = np.broadcast_to(mu, z.shape), np.broadcast_to(log_sigma, z.shape)
    return score_of(np.zeros(len(z)) if log_px is None else log_px, tf.constant(z), log_normal(z, mu, log_sigma))


def closed_kl(mu, log_sigma):
    """Returns KL(N(mu, sigma^2) || N(0, 1)) of each unit."""
    return 0.5 * (np.exp(2 * log_sigma) + mu**2 - 1) - log_sigma


def within_standard_errors(samples, expected, count=5):
    """Returns True if the mean of samples is near the expected value."""
    return abs(samples.mean() - expected) < count * samples.std() / np.sqrt(len(samples))


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

    def elbo(self, score):
        """Returns the one-sample estimates at the score's sample of z, [B]."""
        mean = score.latents["z"].numpy() @ self.w.T + self.b
        log_px = tf.reduce_sum(log_normal(self.x, mean, np.log(self.s)), axis=-1)
        return bound(score._replace(log_px=log_px)).elbo.numpy()
