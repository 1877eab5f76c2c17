"""Grids of images, and PNG files of them; images are uint8, [H, W, C].

Pictures have 1 or 3 channels. Of images with other channels, grids show those that `visible` returns.
"""

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vaedist.errors import StorageError
from vaedist.files import replace_file

WHITE = 255
PNG_CHANNELS = (1, 3)
CELL_PIXELS = 96  # least width of a captioned image
CAPTION_PIXELS = 12  # height of a caption's font
TITLE_PIXELS = 18  # height of a title's font
TITLE_MARGIN = 4
COMPRESSION = 3  # zlib level of PNGs: a quarter of the time of Pillow's default, 6, for files that are 4 % larger


def to_uint8(x: npt.ArrayLike) -> np.ndarray:
    """Quantises pixels in [0, 1] to the nearest of 256 levels; the inverse of a division by 255.

    Values outside are clipped and NaN becomes black, so that the images of a failing model can still be shown.

    Args:
        x: floats, any shape.

    Returns:
        uint8, shaped like x.
    """
    clipped = np.clip(np.asarray(x, dtype=np.float64), 0.0, 1.0)
    return np.rint(np.nan_to_num(clipped) * 255.0).astype(np.uint8)


def visible(images: np.ndarray) -> np.ndarray:
    """Returns the channels of images, [..., C], that a picture can show: all of 1 or 3, the first of 2, 3 of more."""
    return images[..., : 3 if images.shape[-1] >= 3 else 1]


def grid(images: np.ndarray, columns: int, *, padding: int = 2) -> np.ndarray:
    """Arranges images in a grid, row by row, on a white background.

    There are at most as many columns as images. Unused cells of the last row are white.

    Args:
        images: uint8, [n, H, W, C], n >= 1.
        columns: number of images per row.
        padding: white pixels around each image.

    Returns:
        uint8, [rows * (H + padding) + padding, columns * (W + padding) + padding, 1 or 3].

    Raises:
        ValueError: the images have another shape or type, or there are none; or columns or padding is too small.
    """
    _require_images(images)
    images = visible(images)
    if columns < 1 or padding < 0:
        raise ValueError(f"columns = {columns} must be at least 1 and padding = {padding} at least 0")
    n, height, width, channels = images.shape
    columns = min(columns, n)
    rows = -(-n // columns)
    cells = np.full((rows * columns, height + padding, width + padding, channels), WHITE, dtype=np.uint8)
    cells[:n, padding:, padding:] = images
    cells = cells.reshape(rows, columns, height + padding, width + padding, channels)
    sheet = cells.transpose(0, 2, 1, 3, 4).reshape(rows * (height + padding), -1, channels)
    return np.pad(sheet, ((0, padding), (0, padding), (0, 0)), constant_values=WHITE)


def side_by_side(originals: np.ndarray, reconstructions: np.ndarray, columns: int) -> np.ndarray:
    """Returns a grid of pairs, each an original with its reconstruction on the right.

    Args:
        originals: uint8, [n, H, W, C], n >= 1.
        reconstructions: shaped like originals.
        columns: number of pairs per row.

    Returns:
        uint8, [H', W', 1 or 3].

    Raises:
        ValueError: the images are not uint8 [n, H, W, C], or their shapes differ.
    """
    if originals.shape != reconstructions.shape:
        raise ValueError(f"originals {originals.shape} and reconstructions {reconstructions.shape} differ in shape")
    _require_images(originals)
    _require_images(reconstructions)
    pairs = np.concatenate([originals, reconstructions], axis=2)  # [n, H, 2 W, C]
    return grid(pairs, columns, padding=max(4, originals.shape[2] // 4))


def by_rows(originals: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns a grid with a row for each original, followed by its other images.

    Args:
        originals: uint8, [n, H, W, C], n >= 1.
        others: uint8, [n, m, H, W, C].

    Returns:
        uint8, [H', W', 1 or 3].

    Raises:
        ValueError: the images have other shapes or types.
    """
    rows = np.concatenate([originals[:, None], others], axis=1)
    return grid(rows.reshape(-1, *rows.shape[2:]), rows.shape[1])


def captioned(images: np.ndarray, captions: Sequence[str], columns: int) -> np.ndarray:
    """Arranges images in a grid, each with a caption of some lines below it.

    Small images are enlarged by a whole factor to at least `CELL_PIXELS` pixels. Lines that are too long are cut.

    Args:
        images: uint8, [n, H, W, C], n >= 1.
        captions: texts, all with the same number of lines, [n].
        columns: number of images per row; the sheet always has the width of all columns.

    Returns:
        uint8, [H', W', 1 or 3].

    Raises:
        ValueError: the images have another shape or type, or there are none.
    """
    from PIL import Image, ImageDraw, ImageFont

    _require_images(images)
    images = visible(images)
    scale = max(1, -(-CELL_PIXELS // images.shape[2]))
    width, channels = images.shape[2] * scale, images.shape[3]
    font, line = ImageFont.load_default(CAPTION_PIXELS), CAPTION_PIXELS + 3
    lines = captions[0].count("\n") + 1
    cells = []
    for image, caption in zip(images, captions, strict=True):
        label = Image.new("L", (width, lines * line), WHITE)
        draw = ImageDraw.Draw(label)
        for number, text in enumerate(caption.split("\n")):
            draw.text((1, number * line), text, fill=0, font=font)
        cells.append(np.concatenate([enlarged(image, scale), np.asarray(label)[..., None].repeat(channels, axis=2)]))
    blank = np.full_like(cells[0], WHITE)
    return grid(np.stack([*cells, *[blank] * (-len(cells) % columns)]), columns, padding=4)


def enlarged(picture: np.ndarray, scale: int) -> np.ndarray:
    """Returns a picture, [H, W, C], each pixel of which has become a square of scale x scale pixels."""
    return picture.repeat(scale, axis=0).repeat(scale, axis=1)


def titled(picture: np.ndarray, title: str) -> np.ndarray:
    """Returns a picture with a title on a white strip above it, in as many lines as its width requires.

    Args:
        picture: uint8, [H, W, C] with 1 or 3 channels.
        title: the text.

    Returns:
        uint8, [H + h, W, C].
    """
    from PIL import Image, ImageDraw, ImageFont

    _, width, channels = picture.shape
    font = ImageFont.load_default(TITLE_PIXELS)
    lines = _wrapped(title, lambda text: font.getlength(text) <= width - 2 * TITLE_MARGIN)
    line_height = TITLE_PIXELS + TITLE_MARGIN
    strip = Image.new("L", (width, line_height * len(lines) + TITLE_MARGIN), WHITE)
    draw = ImageDraw.Draw(strip)
    for number, line in enumerate(lines):
        draw.text((TITLE_MARGIN, number * line_height + TITLE_MARGIN // 2), line, fill=0, font=font)
    return np.concatenate([np.asarray(strip)[..., None].repeat(channels, axis=2), picture])


def _wrapped(text: str, fits: Callable[[str], bool]) -> list[str]:
    """Returns the lines of a text; a word that does not fit has its own line."""
    lines: list[str] = []
    for word in text.split():
        if lines and fits(f"{lines[-1]} {word}"):
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def save_png(path: str | Path, array: np.ndarray, *, scale: int = 1) -> None:
    """Writes a picture as a PNG file, atomically; missing folders are created.

    Args:
        path: the file; an older one is replaced.
        array: uint8, [H, W, C] with 1 or 3 channels, or [H, W].
        scale: each pixel becomes a square of scale x scale pixels.

    Raises:
        ValueError: the array has another shape or type.
        StorageError: the file cannot be written; an older file is unchanged.
    """
    save_encoded(path, encode_png(array, scale=scale))


def encode_png(array: np.ndarray, *, scale: int = 1) -> bytes:
    """Returns the content of the file that `save_png` writes."""
    from PIL import Image

    array = array[..., None] if array.ndim == 2 else array
    _require_images(array[None])
    if array.shape[2] not in PNG_CHANNELS:
        raise ValueError(f"a picture must have 1 or 3 channels, not {array.shape[2]}")
    array = enlarged(array, scale)
    picture = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)
    content = io.BytesIO()
    picture.save(content, format="PNG", compress_level=COMPRESSION)
    return content.getvalue()


def save_encoded(path: str | Path, content: bytes) -> None:
    """Writes the result of `encode_png` to a file, as `save_png` does."""
    try:
        replace_file(Path(path), content)
    except OSError as error:
        raise StorageError(f"cannot write picture {path}: {error.strerror or error}") from error


def _require_images(images: np.ndarray) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or 0 in images.shape:
        raise ValueError(f"images must be uint8 [n, H, W, C] and not empty, not {images.dtype} {list(images.shape)}")
