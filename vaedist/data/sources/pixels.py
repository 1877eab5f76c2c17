"""Decodes image files of any format that Pillow reads to 8-bit pixels, as displayed on a screen.

- 16-bit grey is converted to round(v * 255 / 65535); for 16-bit colour, Pillow returns the upper 8 bits.
- 32-bit integers and floats have no known range and are refused.
- Transparency is blended onto a background.
- EXIF orientation is applied; ICC profiles are not.
- The first frame or page is used.
"""

import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from vaedist.storage.filesystem import first_line

WHITE = (255, 255, 255)

# Formats whose Pillow plug-ins do not decode by themselves, or pass the file to another program.
_NOT_DECODED = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"})
# Formats whose 16-bit pixels are unsigned and range from 0 to 65535 once Pillow has read them.
_FULL_RANGE = frozenset({"JPEG2000", "PNG", "TIFF"})
_FREQUENT = frozenset({"JPEG", "PNG", "WEBP"})  # tried first
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # tags of a TIFF
_WHITE_IS_ZERO = 0
# Pillow's factors for grey levels of fewer than 8 bits; it does not apply them to a PNG's transparent level.
_GREY_LEVELS = {"1": 255, "L;2": 85, "L;4": 17}


class UnreadableImageError(Exception):
    """An image file cannot be decoded; the message is the reason, without the file's name.

    Attributes:
        damaged: True if the content is at fault, False if the operating system cannot read it.
    """

    def __init__(self, reason: str, *, damaged: bool) -> None:
        super().__init__(reason)
        self.damaged = damaged


@dataclass(frozen=True)
class Target:
    """Format of the decoded images.

    Attributes:
        size: height and width in pixels.
        grey: one channel instead of three.
        background: colour behind transparent pixels, red, green and blue.
    """

    size: tuple[int, int]
    grey: bool = False
    background: tuple[int, int, int] = WHITE

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        return (*self.size, 1 if self.grey else 3)


@cache
def decoded_suffixes() -> frozenset[str]:
    """Returns the suffixes, in lower case, of the formats that the installed Pillow decodes."""
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in _formats())


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(sorted(set(Image.OPEN) - _NOT_DECODED, key=lambda name: (name not in _FREQUENT, name)))


def decode(file: Path, target: Target) -> np.ndarray:
    """Decodes one image file, turns it upright, crops its center to the target's aspect ratio, and resizes it.

    Returns:
        [H, W, C], uint8.

    Raises:
        UnreadableImageError: the file cannot be read or is damaged, or its pixels have no known range.
    """
    height, width = target.size
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata and of large images
            with Image.open(file, formats=_formats()) as image:
                picture = eight_bit(image, target)
            small = ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)
    except UnreadableImageError:
        raise
    except OSError as error:
        missing = error.errno is not None  # Pillow's own errors have none
        reason = str(error.strerror) if missing else first_line(error).replace(f" {str(file)!r}", "")
        raise UnreadableImageError(reason, damaged=not missing) from error
    except Exception as error:  # each format's plug-in raises its own errors for damaged files
        raise UnreadableImageError(first_line(error), damaged=True) from error
    return np.asarray(small).reshape(target.shape)


def eight_bit(image: Image.Image, target: Target) -> Image.Image:
    """Converts an opened image to the mode RGB, or L if the target is grey, upright and without transparency.

    Raises:
        UnreadableImageError: its pixels have no known range.
    """
    # Read the file's metadata first: a transposed copy lacks it.
    highest, key, inverted = _highest(image), _transparent_colour(image), _is_inverted(image)
    picture = ImageOps.exif_transpose(image)
    if highest > 255 or key is not None:
        levels = np.asarray(picture.convert("L") if picture.mode == "1" else picture)
        if highest > 255:
            grey = eight_bit_values(np.clip(levels, 0, highest), highest)
            picture = Image.fromarray(255 - grey if inverted else grey)
        if key is not None:
            picture = _with_alpha(picture, np.reshape(levels, (picture.height, picture.width, -1)) != key)
    if picture.has_transparency_data:
        picture = _blended(picture, target.background)
    if picture.mode not in ("1", "L"):
        picture = picture.convert("RGB")  # Pillow cannot convert Lab to grey directly
    return picture.convert("L" if target.grey else "RGB")


def eight_bit_values(values: np.ndarray, highest: int = 65535) -> np.ndarray:
    """Scales unsigned integers 0, ..., highest to uint8: round(v * 255 / highest)."""
    return ((values.astype(np.uint32) * 255 + highest // 2) // highest).astype(np.uint8)


def _highest(image: Image.Image) -> int:
    """Returns the maximum value of a pixel as Pillow reads it.

    Raises:
        UnreadableImageError: the maximum is unknown.
    """
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return 255
    if image.format == "PPM" and image.mode == "I":
        return 65535  # Pillow scales the file's own maximum to this
    if image.mode.startswith("I;16") and image.format in _FULL_RANGE:
        bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (16,))[0]  # a TIFF's 12 bits are not scaled
        return 2 ** int(bits) - 1
    kind = {"F": "floats", "I": "integers of up to 32 bits"}.get(image.mode, "16-bit integers")
    raise UnreadableImageError(
        f"its pixels are {kind} of no known range ({image.format}, mode {image.mode}); pixels must have 8 bits, or 16 "
        "in PNG, TIFF, PGM, PPM and JPEG 2000",
        damaged=True,
    )


def _is_inverted(image: Image.Image) -> bool:
    """Returns True if 0 means white in grey levels of more than 8 bits, which Pillow does not invert."""
    tags = getattr(image, "tag_v2", {})
    return image.mode.startswith("I;16") and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO


def _transparent_colour(image: Image.Image) -> tuple[int, ...] | None:
    """Returns the transparent colour of an image without a palette, as pixel values; None if there is none."""
    colour = image.info.get("transparency")
    if image.mode not in ("1", "L", "RGB", "I;16") or not isinstance(colour, int | tuple):
        return None
    levels = colour if isinstance(colour, tuple) else (colour,)
    tiles = getattr(image, "tile", [])
    layout = tiles[0][3] if tiles else None
    if layout == "RGB;16B":
        return tuple(level >> 8 for level in levels)
    return tuple(level * _GREY_LEVELS.get(str(layout), 1) for level in levels)


def _with_alpha(picture: Image.Image, differs: np.ndarray) -> Image.Image:
    """Adds an alpha channel: pixels are transparent if no channel of `differs`, [H, W, C], is True."""
    opaque = picture.convert("L" if picture.mode in ("1", "L") else "RGB")
    opaque.info.pop("transparency", None)
    opaque.putalpha(Image.fromarray(differs.any(-1).astype(np.uint8) * 255))
    return opaque


def _blended(picture: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """Blends a picture onto a background."""
    if picture.mode == "La":
        picture = picture.convert("LA")
    ground = Image.new("RGBA", picture.size, (*background, 255))
    return Image.alpha_composite(ground, picture.convert("RGBA")).convert("RGB")
