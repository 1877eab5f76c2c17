"""Mapping of stored uint8 pixels to the x in [0, 1] that a model encodes and scores.

The mapping determines the meaning of log p(x|z): whether it is a log-likelihood (`proper`), and whether it can be
converted to bits per dimension (`levels`).

- If x is uniform in a bin of width 1/256, a density bounds the probability of a pixel from below,
  log P(pixel) >= E_u log p((pixel + u) / 256) - log 256 (Theis et al. 2016, section 3.1, by Jensen's inequality).
- If x is discrete, and scored by a distribution of its values, log p(x|z) is the log-probability.
- The cross-entropy of a grey value in [0, 1] is neither.

Random mappings require explicit noise. Without it, x would be deterministic, such as the middle of a bin, which scores
better than the x that the model is trained and evaluated on.
"""

from typing import Any, Protocol, runtime_checkable

from vaedist.errors import NoiseError


@runtime_checkable
class Preprocessing(Protocol):
    """A mapping of stored pixels to the x that a model encodes and scores.

    Attributes:
        shown: description of x; models can be compared on the same images only if it is the same.
        noisy: True if it needs noise.
        fixed: True if training uses the noise of evaluation, so that an image always has the same x.
        proper: True if log p(x|z) is the logarithm of a probability or of a density.
        levels: number of bins of [0, 1] in which x is uniform, which adds log2(levels) to bits/dim. 1 if log p(x|z) is
            the log-probability of the 256 levels of a pixel. None if bits/dim are undefined, because the score is not
            `proper`, or unusual, as for binary pixels, which papers score in nats.
    """

    shown: str
    noisy: bool
    fixed: bool
    proper: bool
    levels: int | None

    def __call__(self, pixels: Any, noise: Any = None) -> Any:
        """Returns x in [0, 1], float32, shaped like the pixels.

        Args:
            pixels: uint8, [B, ...].
            noise: uniform noise in (0, 1), shaped like the pixels, if `noisy`.

        Raises:
            NoiseError: noise is needed, but is None.
        """
        ...


class Scaled:
    """x = pixel / 255."""

    shown = "pixel values in [0, 1]"
    noisy = fixed = proper = False
    levels: int | None = None

    def __call__(self, pixels: Any, noise: Any = None) -> Any:
        """Returns grey values in [0, 1], including both ends."""
        return _float(pixels) * (1 / 255)  # as XLA computes a division by 255


class Binned:
    """x = (pixel + 1/2) / 256, the middle of one of 256 bins."""

    shown = "256 levels"
    noisy, fixed, proper = False, False, True
    levels: int | None = 1

    def __call__(self, pixels: Any, noise: Any = None) -> Any:
        """Returns the middle of each pixel's bin."""
        return (_float(pixels) + 0.5) / 256.0


class Dequantised:
    """x = (pixel + u) / 256 with u uniform in (0, 1), on which densities cannot diverge as on discrete values."""

    shown = "dequantised pixels"
    noisy, fixed, proper = True, False, True
    levels: int | None = 256

    def __call__(self, pixels: Any, noise: Any = None) -> Any:
        """Returns pixels uniform in their bins; noise = 0.5 gives the middle of each bin."""
        _require(noise, "dequantised, because its likelihood is a density")
        return (_float(pixels) + _float(noise)) / 256.0


class Threshold:
    """x = 1 if pixel / 255 is above 1/2, else 0."""

    shown = "pixels above one half"
    noisy, fixed, proper = False, False, True
    levels: int | None = None

    def __call__(self, pixels: Any, noise: Any = None) -> Any:
        """Returns binary pixels."""
        return _float(_float(pixels) > 127.5)


class Dynamic:
    """x = 1 with probability pixel / 255, drawn again in each training epoch (Salakhutdinov and Murray 2008)."""

    shown = "binary pixels drawn once for each image"  # in evaluation
    noisy, fixed, proper = True, False, True
    levels: int | None = None

    def __call__(self, pixels: Any, noise: Any = None) -> Any:
        """Returns binary pixels; noise = 0.5 gives the more likely value of each, as `Threshold` does."""
        _require(noise, "binarised at random (data.binarize)")
        return _float(_float(pixels) > 255.0 * _float(noise))


class Fixed(Dynamic):
    """x = 1 with probability pixel / 255, drawn once per image, also in training (Larochelle and Murray 2011)."""

    fixed = True


BINARIZE: dict[str, Preprocessing | None] = {
    "none": None,
    "threshold": Threshold(),
    "dynamic": Dynamic(),
    "fixed": Fixed(),
}


# Preprocessing by built-in likelihood, without binarisation.
PREPROCESSING: dict[str, Preprocessing] = {
    "bernoulli": Scaled(),
    "continuous_bernoulli": Dequantised(),
    "gaussian": Dequantised(),
    "discretized_logistic": Binned(),
}


def _float(values: Any) -> Any:
    from keras import ops  # imported here so that options can be read without Keras

    return ops.cast(values, "float32")


def _require(noise: Any, how: str) -> None:
    if noise is None:
        raise NoiseError(
            f"noise is missing: this model's pixels are {how}; pass uniform noise u in (0, 1) of shape "
            "[B, H, W, C], as Run.pixel_noise returns it, or its mean, u=0.5"
        )
