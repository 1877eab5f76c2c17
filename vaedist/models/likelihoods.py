"""Distributions of pixels, parameterised by raw decoder outputs, to which only these classes apply a sigmoid."""

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from keras import ops

from vaedist.models.densities import log_normal
from vaedist.models.preprocessing import PREPROCESSING, Preprocessing

LOG_TOGETHER = 8  # number of factors in the argument of one logarithm
SERIES = 0.25  # below it, functions of the form 0 / 0 at 0 are computed by their power series


class Likelihood(ABC):
    """p(x|z) of an image, factorised over its D pixel values; the constructor takes no arguments.

    Attributes:
        outputs: number of decoder outputs per pixel value.
        clips: True if the distribution has mass outside [0, 1], and `mean` and `sample` are clipped to it.
        binary: True if it scores binary pixels, which `data.binarize` makes.
    """

    outputs: int = 1
    clips: bool = False
    binary: bool = False

    @property
    @abstractmethod
    def preprocessing(self) -> Preprocessing:
        """Mapping of pixels to the x that it is a distribution of; a class attribute suffices."""

    @abstractmethod
    def log_prob(self, raw: Any, x: Any) -> Any:
        """Returns log p(x|z), [...], in nats.

        Args:
            raw: decoder output, [..., outputs * D]: the first output of all pixel values, then the second, and so on.
            x: pixel values in [0, 1], [..., D]; leading axes broadcast with those of `raw`.
        """

    @abstractmethod
    def mean(self, raw: Any) -> Any:
        """Returns E[x|z], [..., D], in [0, 1], from the decoder's output [..., outputs * D]."""

    @abstractmethod
    def sample(self, raw: Any, uniform: Any) -> Any:
        """Returns x ~ p(x|z), [..., D], in [0, 1], from the decoder's output and uniform noise [..., D] in (0, 1).

        The inverse of the cumulative distribution function maps the noise to x, so that similar parameters give similar
        pictures for the same noise.
        """

    def quadrature(self, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """Returns values x_j and weights such that sum_j weight_j p(x_j) = 1 for each pixel value.

        The default is the x of each of the 256 levels of a pixel, with weight 1, or None if `preprocessing` needs noise
        or log p(x|z) is not the logarithm of a probability. If it is None, `vaedist check` does not check the sum.

        Args:
            raw: decoder outputs of N pixel values, [N, outputs].

        Returns:
            Values and weights, each [N, M] or [1, M], or None.
        """
        if self.preprocessing.noisy or not self.preprocessing.proper:
            return None
        levels = np.arange(256, dtype=np.uint8)
        values = np.unique(np.asarray(self.preprocessing(levels), np.float64))[None]
        return values, np.ones_like(values)


class Bernoulli(Likelihood):
    """log p(x|z) = sum_i x_i log p_i + (1 - x_i) log(1 - p_i), with p = sigmoid(logits).

    On binary pixels it is a distribution. On grey values x = pixel / 255 it is a score, not a density, whose maximum
    is minus the entropy of x; it must not be converted to bits/dim.
    """

    binary = True
    preprocessing: Preprocessing = PREPROCESSING["bernoulli"]

    def log_prob(self, raw: Any, x: Any) -> Any:
        """Returns minus the cross-entropy, summed over pixel values: x l - softplus(l) for logits l, stable for any l.

        softplus(l) = l / 2 + |l| / 2 + log(1 + e^-|l|). One logarithm of a product replaces those of several pixel
        values, which saves a tenth of the time of an evaluation with many samples on a CPU.
        """
        together = math.gcd(raw.shape[-1], LOG_TOGETHER)
        linear, product = 0.0, 1.0
        for logits, values in zip(ops.split(raw, together, axis=-1), ops.split(x, together, axis=-1), strict=True):
            size = ops.absolute(logits)
            linear += (values - 0.5) * logits - 0.5 * size
            product *= 1 + ops.exp(-size)  # between 1 and 2
        return ops.sum(linear - ops.log(product), axis=-1)

    def mean(self, raw: Any) -> Any:
        """Returns the probability p = sigmoid(logits)."""
        return ops.sigmoid(raw)

    def sample(self, raw: Any, uniform: Any) -> Any:
        """Returns 1 where the noise is below p, else 0."""
        return ops.cast(uniform < ops.sigmoid(raw), raw.dtype)

    def quadrature(self, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns 0 and 1, with weight 1."""
        return np.array([[0.0, 1.0]]), np.ones((1, 2))


class ContinuousBernoulli(Likelihood):
    """The continuous Bernoulli distribution, a density on [0, 1] (Loaiza-Ganem and Cunningham 2019).

    p(x) = C lambda^x (1 - lambda)^(1 - x), with lambda = sigmoid(l) for logits l, and C = 2 artanh(1 - 2 lambda) /
    (1 - 2 lambda) = l / tanh(l / 2). Hence, with S(a) = log(sinh(a) / a),

        log p(x) = l (x - 1/2) - S(l / 2),  E[x] = 1/2 + S'(l / 2) / 2.

    S is even and smooth, so l = 0, where lambda = 1/2, is not a singularity.
    """

    preprocessing: Preprocessing = PREPROCESSING["continuous_bernoulli"]

    def log_prob(self, raw: Any, x: Any) -> Any:
        """Returns the log-density, summed over pixel values."""
        return ops.sum(raw * (x - 0.5) - _log_sinhc(0.5 * raw), axis=-1)

    def mean(self, raw: Any) -> Any:
        """Returns 1/2 + (coth(l / 2) - 2 / l) / 2, which differs from lambda."""
        a = 0.5 * raw
        near, square = ops.absolute(a) < SERIES, ops.square(a)
        series = a * (1 / 3 - square * (1 / 45 - square * (2 / 945 - square / 4725)))
        far = ops.where(near, 1.0, a)
        return 0.5 + 0.5 * ops.where(near, series, 1 / ops.tanh(far) - 1 / far)

    def sample(self, raw: Any, uniform: Any) -> Any:
        """Returns log(1 + u (e^l - 1)) / l, the inverse of the distribution function (e^(l x) - 1) / (e^l - 1)."""
        # The symmetry x(u; l) = 1 - x(1 - u; -l) avoids exponentials of positive numbers.
        size, u = ops.absolute(raw), ops.where(raw > 0, 1 - uniform, uniform)
        near = size < 1e-3
        steep = ops.where(near, 1.0, size)
        x = ops.where(near, u, -ops.log1p(u * ops.expm1(-steep)) / steep)
        return ops.where(raw > 0, 1 - x, x)

    def quadrature(self, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the Gauss-Legendre rule on 128 intervals of [0, 1], which also integrates steep densities."""
        nodes, weights = np.polynomial.legendre.leggauss(12)
        parts = np.arange(128)[:, None]
        return ((parts + 0.5 * (nodes + 1)) / 128).reshape(1, -1), np.tile(0.5 * weights / 128, 128)[None]


class Gaussian(Likelihood):
    """x_i ~ N(mu_i, sigma_i^2) with mu and log sigma from the decoder, a density of dequantised pixels."""

    outputs = 2
    clips = True
    preprocessing: Preprocessing = PREPROCESSING["gaussian"]

    def log_prob(self, raw: Any, x: Any) -> Any:
        """Returns the log-density log N(x; mu, sigma^2), summed over pixel values."""
        mu, log_sigma = ops.split(raw, 2, axis=-1)
        return ops.sum(log_normal(x, mu, log_sigma), axis=-1)

    def mean(self, raw: Any) -> Any:
        """Returns mu, clipped to [0, 1]."""
        return ops.clip(ops.split(raw, 2, axis=-1)[0], 0.0, 1.0)

    def sample(self, raw: Any, uniform: Any) -> Any:
        """Returns mu + sigma * eps, clipped to [0, 1], with the normal quantile eps of the noise."""
        mu, log_sigma = ops.split(raw, 2, axis=-1)
        eps = math.sqrt(2) * ops.erfinv(2 * uniform - 1)
        return ops.clip(mu + ops.exp(log_sigma) * eps, 0.0, 1.0)

    def quadrature(self, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the Gauss-Legendre rule on mu +- 12 sigma, outside of which the probability is below 1e-30."""
        nodes, weights = np.polynomial.legendre.leggauss(200)
        mu, sigma = raw[:, :1], np.exp(raw[:, 1:])
        return mu + 12 * sigma * nodes, 12 * sigma * weights


class DiscretizedLogistic(Likelihood):
    """A logistic distribution, discretised to the 256 levels of a pixel (Kingma et al. 2016, section 6.2).

    With mu and log s from the decoder and F(v) = sigmoid((v - mu) / s), level k = 0, ..., 255 has the probability
    F((k + 1) / 256) - F(k / 256). The first and the last level include the tails, as in PixelCNN++ (Salimans et al.
    2017, section 2.1), so that the probabilities sum to 1, unlike those of Kingma et al. The offsets in
    mu = 1/2 + raw_mu and log s = -2 + raw_s give raw outputs of 0 about the mean and spread of photographs' pixels;
    log s is clipped to [-20, 20].
    """

    outputs = 2
    preprocessing: Preprocessing = PREPROCESSING["discretized_logistic"]
    width = 1 / 256

    def log_prob(self, raw: Any, x: Any) -> Any:
        """Returns the log-probability of the levels with midpoints x, summed over pixel values.

        sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)), which is also accurate in the tails.
        """
        mu, log_s = self._parameters(raw)
        inverse = ops.exp(-log_s)
        centred = (x - mu) * inverse
        half = 0.5 * self.width * inverse
        first, last = x < self.width, x > 1 - self.width
        below = ops.where(last, 0.0, ops.log_sigmoid(centred + half))
        above = ops.where(first, 0.0, ops.log_sigmoid(half - centred))
        within = ops.where(ops.logical_or(first, last), 0.0, ops.log(-ops.expm1(-2 * half)))
        return ops.sum(below + above + within, axis=-1)

    def mean(self, raw: Any) -> Any:
        """Returns the mean of the logistic variable clipped to [0, 1], within half a level of the mean level.

        It is the integral of 1 - F from 0 to 1: s softplus(a) - s softplus(b) with a = mu / s and b = (mu - 1) / s. For
        large s, the form s log(1 + sigmoid(b) (e^(a - b) - 1)) avoids the cancellation.
        """
        mu, log_s = self._parameters(raw)
        s = ops.exp(log_s)
        wide, steep = s > 1, ops.maximum(s, 1.0)
        apart = s * (ops.softplus(mu / s) - ops.softplus((mu - 1) / s))
        near = steep * ops.log1p(ops.sigmoid((mu - 1) / steep) * ops.expm1(1 / steep))
        return ops.clip(ops.where(wide, near, apart), 0.0, 1.0)

    def sample(self, raw: Any, uniform: Any) -> Any:
        """Returns level / 255 for the level that contains the logistic sample mu + s log(u / (1 - u))."""
        mu, log_s = self._parameters(raw)
        v = mu + ops.exp(log_s) * (ops.log(uniform) - ops.log1p(-uniform))
        return ops.clip(ops.floor(ops.clip(v, 0.0, 1.0) / self.width), 0.0, 255.0) / 255.0

    @staticmethod
    def _parameters(raw: Any) -> tuple[Any, Any]:
        mu, log_s = ops.split(raw, 2, axis=-1)
        return mu + 0.5, ops.clip(log_s - 2.0, -20.0, 20.0)


def _log_sinhc(a: Any) -> Any:
    """Returns log(sinh(a) / a), with accurate value and gradient for any a."""
    size = ops.absolute(a)
    near = size < SERIES
    square = ops.where(near, ops.square(a), 0.0)
    series = square * (1 / 6 - square * (1 / 180 - square * (1 / 2835 - square / 37800)))
    far = ops.where(near, 1.0, size)
    return ops.where(near, series, far + ops.log1p(-ops.exp(-2 * far)) - ops.log(2 * far))
