"""How stored pixels, uint8, become the x in [0, 1] that is encoded and scored.

What is done to them decides what log p(x|z) means, and so whether it is a log-likelihood at all (`proper`), and whether
there are bits per dimension (`levels`):

- x that is spread evenly over its bin of width 1/256 makes a density a bound on the probability of the pixel,
  log P(pixel) >= E_u log p((pixel + u) / 256) - log 256 (Theis et al. 2016, section 3.1, by Jensen's inequality);
- x that takes a few values only, scored by a distribution over these, needs nothing added;
- a grey value in [0, 1] scored by the cross-entropy is neither.

Where x is drawn, the noise is always given: an x without it would be another one than the model is trained and tested
on, and scores better (a threshold in the place of random pixels, or the middle of a bin).
"""

from typing import Any, Protocol, runtime_checkable

from vaedist.errors import NoiseError


@runtime_checkable
class Preprocessing(Protocol):
    """A map from stored pixels to the x that a model encodes and scores.

    Attributes:
        shown: a description of x; models with the same one, and no others, can be compared on the same images.
        noisy: whether it takes noise.
        fixed: whether training takes the noise of evaluation, so that an image always gives the same x.
        proper: whether log p(x|z) is the logarithm of a probability or of a density.
        levels: number of bins of [0, 1] over which x is spread: bits/dim add log2(levels). 1 where x has the 256 levels
            of a pixel and log p(x|z) is the logarithm of a probability; None where no bits/dim are stated: for a score
            that is not `proper`, and for binary pixels, whose scores papers give in nats.
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
            noise: uniform noise in (0, 1), shaped like the pixels, where `noisy`.

        Raises:
            NoiseError: noise is needed, and none is given.
        """
        ...


class Scaled:
    """x = pixel / 255."""

    shown = "pixel values in [0, 1]"
    noisy = fixed = proper = False
    levels: int | None = None

    def __call__(self, pixels: Any, noise: Any = None) -> Any:
        """Grey values in [0, 1], the ends included."""
        return _float(pixels) * (1 / 255)  # as XLA computes a division by 255


class Binned:
    """x = (pixel + 1/2) / 256, the middle of one of 256 bins."""

    shown = "256 levels"
    noisy, fixed, proper = False, False, True
    levels: int | None = 1

    def __call__(self, pixels: Any, noise: Any = None) -> Any:
        """The middle of each pixel's bin."""
        return (_float(pixels) + 0.5) / 256.0


class Dequantised:
    """x = (pixel + u) / 256 with u uniform in (0, 1), so that no density grows without bound on exact values."""

    shown = "dequantised pixels"
    noisy, fixed, proper = True, False, True
    levels: int | None = 256

    def __call__(self, pixels: Any, noise: Any = None) -> Any:
        """Pixels spread over their bins; noise = 0.5 takes the middle of each."""
        _require(noise, "dequantised: its likelihood is a density")
        return (_float(pixels) + _float(noise)) / 256.0


class Threshold:
    """x = 1 where pixel / 255 is above 1/2, else 0."""

    shown = "pixels above one half"
    noisy, fixed, proper = False, False, True
    levels: int | None = None

    def __call__(self, pixels: Any, noise: Any = None) -> Any:
        """Binary pixels."""
        return _float(_float(pixels) > 127.5)


class Dynamic:
    """x = 1 with probability pixel / 255, drawn afresh in each epoch of training (Salakhutdinov and Murray 2008)."""

    shown = "binary pixels drawn once for each image"  # which is what evaluation sees
    noisy, fixed, proper = True, False, True
    levels: int | None = None

    def __call__(self, pixels: Any, noise: Any = None) -> Any:
        """Binary pixels; noise = 0.5 takes the likelier value of each, as `Threshold` does."""
        _require(noise, "binarised at random (data.binarize)")
        return _float(_float(pixels) > 255.0 * _float(noise))


class Fixed(Dynamic):
    """x = 1 with probability pixel / 255, drawn once for each image, of training too (Larochelle and Murray 2011)."""

    fixed = True


BINARIZE: dict[str, Preprocessing | None] = {
    "none": None,
    "threshold": Threshold(),
    "dynamic": Dynamic(),
    "fixed": Fixed(),
}


# By the likelihood's name, on the stored pixels as they are.
PREPROCESSING: dict[str, Preprocessing] = {
    "bernoulli": Scaled(),
    "continuous_bernoulli": Dequantised(),
    "gaussian": Dequantised(),
    "discretized_logistic": Binned(),
}


def _float(values: Any) -> Any:
    from keras import ops  # options are read without Keras

    return ops.cast(values, "float32")


def _require(noise: Any, how: str) -> None:
    if noise is None:
        raise NoiseError(
            f"noise is missing: this model's pixels are {how}; give uniform noise u in (0, 1) of shape "
            "[B, H, W, C], as Run.pixel_noise gives it, or u=0.5 for its middle"
        )
