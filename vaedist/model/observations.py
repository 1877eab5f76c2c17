"""How stored pixels, uint8, become the x in [0, 1] that is encoded and scored.

What is done to them decides what log p(x|z) means, and so whether there are bits per dimension (`levels`):

- x that is spread evenly over its bin of width 1/256 makes a density a bound on the probability of the pixel,
  log P(pixel) >= E_u log p((pixel + u) / 256) - log 256 (Theis et al. 2016, section 3.1, by Jensen's inequality);
- x that takes a few values only, scored by a distribution over these, needs nothing added;
- a grey value in [0, 1] scored by the cross-entropy is neither.
"""

from typing import Any, Protocol

from keras import ops


class Observation(Protocol):
    """Pixels to x.

    noisy: whether it is to be given noise.
    levels: into how many bins [0, 1] is cut, over which x is spread: bits/dim adds log2(levels). 1 where x is discrete
        and log p(x|z) the logarithm of a probability; None where it is neither that nor a density.
    """

    noisy: bool
    levels: int | None

    def __call__(self, pixels: Any, noise: Any = None) -> Any:
        """uint8 pixels [B, D] and, if `noisy`, uniform noise [B, D] in (0, 1) -> x [B, D] in [0, 1], float32."""
        ...


class Scaled:
    """x = pixel / 255."""

    noisy = False
    levels: int | None = None

    def __call__(self, pixels: Any, noise: Any = None) -> Any:
        """Grey values in [0, 1], the ends included."""
        return ops.cast(pixels, "float32") / 255.0


class Binned:
    """x = (pixel + 1/2) / 256, the middle of one of 256 bins."""

    noisy = False
    levels: int | None = 1

    def __call__(self, pixels: Any, noise: Any = None) -> Any:
        """The middle of each pixel's bin."""
        return (ops.cast(pixels, "float32") + 0.5) / 256.0


class Dequantised:
    """x = (pixel + u) / 256 with u uniform in (0, 1), so that no density grows without bound on exact values."""

    noisy = True
    levels: int | None = 256

    def __call__(self, pixels: Any, noise: Any = None) -> Any:
        """Pixels spread over their bins; the middle of each bin where there is no noise."""
        offset = 0.5 if noise is None else ops.cast(noise, "float32")
        return (ops.cast(pixels, "float32") + offset) / 256.0


class Threshold:
    """x = 1 where pixel / 255 is above 1/2, else 0."""

    noisy = False
    levels: int | None = 1

    def __call__(self, pixels: Any, noise: Any = None) -> Any:
        """Binary pixels."""
        return ops.cast(ops.cast(pixels, "float32") > 127.5, "float32")


class Dynamic:
    """x = 1 with probability pixel / 255, drawn afresh each time (Salakhutdinov and Murray 2008)."""

    noisy = True
    levels: int | None = 1

    def __call__(self, pixels: Any, noise: Any = None) -> Any:
        """Binary pixels; those that are likelier, as by `Threshold`, where there is no noise."""
        level = 0.5 if noise is None else ops.cast(noise, "float32")
        return ops.cast(ops.cast(pixels, "float32") > 255.0 * level, "float32")


BINARIZE: dict[str, Observation | None] = {"none": None, "threshold": Threshold(), "dynamic": Dynamic()}
