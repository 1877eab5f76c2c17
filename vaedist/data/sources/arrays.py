"""Images and labels stored as arrays, such as IDX files and NumPy archives, read in blocks of rows.

Sizes that a header declares are limited, and no memory is allocated by them: a block is a megabyte, or one image.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import IO

import numpy as np

from vaedist.data.manifest import Source, SplitName
from vaedist.data.sources.files import BLOCK
from vaedist.data.sources.source import Batch, ImageSource, plain_name
from vaedist.errors import DataError

MOST_ROWS = 100_000_000
MOST_SIDE = 4096  # pixels
MOST_CHANNELS = 4
MOST_CLASSES = 65_536
UNLABELLED = "unlabelled"

_INT32 = np.iinfo(np.int32)


@dataclass(frozen=True)
class StoredArray:
    """An array in a file, with its rows one after the other.

    Attributes:
        where: the file, and the array's name in it, for messages.
        shape: shape that the file declares; the first axis counts rows.
        dtype: dtype that the file declares.
        open: opens the content, behind the header. It raises DataError within its `with` statement if the file is
            damaged.
    """

    where: str
    shape: tuple[int, ...]
    dtype: np.dtype
    open: Callable[[], AbstractContextManager[IO[bytes]]]

    @property
    def row_bytes(self) -> int:
        """Size of a row in bytes."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def blocks(self, rows: int) -> Iterator[np.ndarray]:
        """Yields blocks of `rows` rows; the last one may have fewer.

        Raises:
            DataError: the content is damaged, or shorter or longer than declared.
        """
        total = self.shape[0]
        with self.open() as content:
            for start in range(0, total, rows):
                count = min(rows, total - start)
                block = content.read(count * self.row_bytes)
                if len(block) < count * self.row_bytes:
                    found, expected = start * self.row_bytes + len(block), total * self.row_bytes
                    raise DataError(
                        f"{self.where} is truncated: {found:,} bytes after its header, which declares {expected:,}"
                    )
                yield np.frombuffer(block, self.dtype).reshape(count, *self.shape[1:])
            if content.read(1):
                raise DataError(
                    f"{self.where} is longer than the {total * self.row_bytes:,} bytes that its header declares"
                )


@dataclass(frozen=True)
class ArraySplit:
    """Images and labels of one split; the labels are None if there are none."""

    images: StoredArray
    labels: StoredArray | None


def array_source(
    name: str,
    splits: Mapping[SplitName, ArraySplit],
    provenance: Callable[[], Source],
    *,
    transpose: bool = False,
    warnings: Sequence[str] = (),
) -> ImageSource:
    """Returns the images of arrays, which are checked and read completely once before this function returns.

    The classes are the distinct labels of all splits, in ascending order. Images without labels are one class.

    Args:
        name: name of the data set; characters that it cannot contain are replaced.
        splits: arrays of the splits.
        provenance: describes the source; called when the arrays have been checked.
        transpose: exchange rows and columns of each image.
        warnings: messages for the user.

    Raises:
        DataError: an array has an unsuitable shape or dtype, is damaged, or does not match another.
    """
    for split in splits.values():
        _check(split, splits["train"])
    classes = _survey(list(splits.values()))
    shape = _image_shape(splits["train"].images)
    if transpose:
        shape = (shape[1], shape[0], shape[2])
    return ImageSource(
        name=plain_name(name),
        shape=shape,
        classes=tuple(map(str, classes)) or (UNLABELLED,),
        provenance=provenance(),
        counts={name: split.images.shape[0] for name, split in splits.items()},
        reader=lambda name: _read(splits[name], np.array(classes, np.int64), transpose=transpose),
        warnings=tuple(warnings),
    )


def _check(split: ArraySplit, train: ArraySplit) -> None:
    """Checks what is declared of the arrays of one split, also against the training split."""
    images, labels = split.images, split.labels
    _check_images(images)
    if images.shape[1:] != train.images.shape[1:]:
        raise DataError(
            f"{images.where} has images of shape {list(images.shape[1:])}, but {train.images.where} of shape "
            f"{list(train.images.shape[1:])}"
        )
    if (labels is None) != (train.labels is None):
        lacks, has = (images, train.images) if labels is None else (train.images, images)
        raise DataError(f"{lacks.where} has no labels, but {has.where} has: all splits must have labels, or none")
    if labels is not None:
        _check_labels(labels, images)


def _check_images(images: StoredArray) -> None:
    where, shape = images.where, images.shape
    if images.dtype != np.uint8:
        raise DataError(f"{where} holds {images.dtype.name} {list(shape)}; images must be uint8, from 0 to 255")
    if len(shape) not in (3, 4):
        raise DataError(f"{where} has shape {list(shape)}; images must be [N, H, W] or [N, H, W, C]")
    if not all(1 <= side <= MOST_SIDE for side in shape[1:3]) or not 1 <= _image_shape(images)[2] <= MOST_CHANNELS:
        raise DataError(
            f"{where} has images of shape {list(shape[1:])}; height and width must be 1 to {MOST_SIDE}, and channels, "
            f"on the last axis, 1 to {MOST_CHANNELS}"
        )
    if not 0 <= shape[0] <= MOST_ROWS:
        raise DataError(f"{where} has {shape[0]:,} images in its header; it must be at most {MOST_ROWS:,}")


def _check_labels(labels: StoredArray, images: StoredArray) -> None:
    where, shape = labels.where, labels.shape
    if labels.dtype.kind not in "iu" or len(shape) not in (1, 2) or shape[1:] not in ((), (1,)):
        raise DataError(
            f"{where} holds {labels.dtype.name} {list(shape)}; labels must be integers, one per image, [N] or [N, 1]"
        )
    if shape[0] != images.shape[0]:
        raise DataError(f"{where} has {shape[0]:,} labels for the {images.shape[0]:,} images of {images.where}")


def _survey(splits: Sequence[ArraySplit]) -> list[int]:
    """Reads all arrays, which verifies them, and returns the distinct labels in ascending order."""
    found: set[int] = set()
    for split in splits:
        for _ in split.images.blocks(_rows_per_block(split.images)):
            pass
        if split.labels is not None:
            _collect(split.labels, found)
    return sorted(found)


def _collect(labels: StoredArray, found: set[int]) -> None:
    """Adds the distinct labels of an array to a set."""
    for block in labels.blocks(_rows_per_block(labels)):
        if block.min() < _INT32.min or block.max() > _INT32.max:
            raise DataError(f"{labels.where} has labels beyond 32 bits; they must be numbers of classes")
        found.update(np.unique(block).tolist())
        if len(found) > MOST_CLASSES:
            raise DataError(f"{labels.where} has more than {MOST_CLASSES:,} distinct labels")


def _read(split: ArraySplit, classes: np.ndarray, *, transpose: bool) -> Iterator[Batch]:
    rows = _rows_per_block(split.images)
    shape = _image_shape(split.images)
    labels = split.labels.blocks(rows) if split.labels else None
    for block in split.images.blocks(rows):
        images = block.reshape(-1, *shape)
        numbers = np.zeros(len(images), np.int32) if labels is None else _classes_of(next(labels), classes)
        yield images.transpose(0, 2, 1, 3) if transpose else images, numbers


def _classes_of(labels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Returns the positions of labels, [n] or [n, 1], in `classes`."""
    return np.searchsorted(classes, labels.reshape(-1).astype(np.int64))


def _rows_per_block(array: StoredArray) -> int:
    return max(1, BLOCK // array.row_bytes)


def _image_shape(images: StoredArray) -> tuple[int, int, int]:
    height, width, *channels = images.shape[1:]
    return height, width, channels[0] if channels else 1
