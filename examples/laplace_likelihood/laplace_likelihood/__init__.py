"""A Laplace likelihood: p(x|z) = exp(-|x - mu| / s) / (2 s), a density of dequantised pixels."""

import math

import numpy as np
from keras import ops

from vaedist import Likelihood
from vaedist.models.preprocessing import Dequantised


class Laplace(Likelihood):
    """A Laplace distribution with mu and log s of each pixel value from the decoder."""

    outputs = 2
    clips = True
    preprocessing = Dequantised()

    def log_prob(self, raw, x):
        """Returns the log-density, summed over the pixel values of an image."""
        mu, log_s = parameters(raw)
        return ops.sum(-ops.absolute(x - mu) * ops.exp(-log_s) - log_s - math.log(2), axis=-1)

    def mean(self, raw):
        """Returns mu, clipped to [0, 1]."""
        return ops.clip(parameters(raw)[0], 0.0, 1.0)

    def sample(self, raw, uniform):
        """Returns the quantiles at the noise, clipped to [0, 1]."""
        mu, log_s = parameters(raw)
        v = 2 * uniform - 1
        return ops.clip(mu - ops.exp(log_s) * ops.sign(v) * ops.log1p(-ops.absolute(v)), 0.0, 1.0)

    def quadrature(self, raw):
        """Returns the Gauss-Legendre rule on mu +- 40 s, outside of which the probability is below 1e-17."""
        nodes, weights = np.polynomial.legendre.leggauss(60)
        mu, log_s = (part.numpy() for part in parameters(ops.convert_to_tensor(raw)))
        steps = np.exp(log_s) * 20
        sides = [mu + sign * steps * (nodes + 1) for sign in (-1, 1)]
        return np.concatenate(sides, axis=1), np.tile(steps * weights, 2)


def parameters(raw):
    """Returns mu and log s; raw outputs of 0 give 1/2 and -2."""
    mu, log_s = ops.split(raw, 2, axis=-1)
    return mu + 0.5, ops.clip(log_s - 2.0, -7.0, 7.0)
