"""Distributions of the pixels given the decoder's raw output; a sigmoid is applied here and nowhere else."""

from typing import Any, Protocol

from keras import ops

from vaedist.model.densities import log_normal


class Likelihood(Protocol):
    """p(x|z) of one image, factorised over its D pixel values.

    `outputs` is the number of decoder outputs a pixel value, `dequantised` whether images are to be spread
    over their bins by uniform noise before they are scored.
    """

    outputs: int
    dequantised: bool

    def observe(self, images: Any, noise: Any = None) -> Any:
        """uint8 pixels [B, D] (and uniform noise [B, D]) -> x [B, D] in [0, 1], as encoded and scored."""
        ...

    def log_prob(self, raw: Any, x: Any) -> Any:
        """Decoder output [B, outputs * D] and x [B, D] -> log p(x|z), [B], in nats."""
        ...

    def mean(self, raw: Any) -> Any:
        """Decoder output [B, outputs * D] -> E[x|z], [B, D], in [0, 1]."""
        ...


class Bernoulli:
    """log p(x|z) = sum_i x_i log p_i + (1 - x_i) log(1 - p_i), with p = sigmoid(logits).

    On binary pixels it is a distribution. On grey values x = pixel / 255 in (0, 1) it is a score whose best
    value is the entropy of x, not a density: it must never be turned into bits/dim.
    """

    outputs = 1
    dequantised = False

    def observe(self, images: Any, noise: Any = None) -> Any:
        """Pixel / 255."""
        return ops.cast(images, "float32") / 255.0

    def log_prob(self, raw: Any, x: Any) -> Any:
        """Minus the cross-entropy with logits l: x l - softplus(l), stable for any l."""
        return ops.sum(x * raw - ops.softplus(raw), axis=-1)

    def mean(self, raw: Any) -> Any:
        """The probability p = sigmoid(logits)."""
        return ops.sigmoid(raw)


class Gaussian:
    """x_i ~ N(mu_i, sigma_i^2) with mu and log sigma from the decoder, a density over dequantised pixels.

    x = (pixel + u) / 256 with u uniform in [0, 1), so that the density cannot grow without bound on a pixel's
    exact value (Theis et al. 2016, section 3.1).
    """

    outputs = 2
    dequantised = True

    def observe(self, images: Any, noise: Any = None) -> Any:
        """(pixel + noise) / 256; the middle of the bin where there is no noise."""
        offset = 0.5 if noise is None else ops.cast(noise, "float32")
        return (ops.cast(images, "float32") + offset) / 256.0

    def log_prob(self, raw: Any, x: Any) -> Any:
        """Log-density log N(x; mu, sigma^2), summed over pixel values."""
        mu, log_sigma = ops.split(raw, 2, axis=-1)
        return ops.sum(log_normal(x, mu, log_sigma), axis=-1)

    def mean(self, raw: Any) -> Any:
        """mu, clipped to [0, 1]."""
        return ops.clip(ops.split(raw, 2, axis=-1)[0], 0.0, 1.0)


LIKELIHOODS: dict[str, Likelihood] = {"bernoulli": Bernoulli(), "gaussian": Gaussian()}
