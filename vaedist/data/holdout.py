"""Validation images, held out of a source's training images."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from vaedist.data.manifest import HeldOut, SplitName
from vaedist.data.sources.source import Batch, ImageSource
from vaedist.errors import DataError

STREAM = 3  # of random numbers; 0 to 2 permute the splits, see `row_places`


def hold_out(source: ImageSource, count: int, *, taken: HeldOut = "random", seed: int = 0) -> ImageSource:
    """Returns the source with `count` of its training images in a validation split; its test split stays as it is.

    The training images are read twice, once for each of the two splits.

    Args:
        source: what the images come from.
        count: validation images.
        taken: "random" draws them without regard to their classes: the choice depends on the seed and on the number
            of training images only. "end" takes the last ones in the publisher's order, or in the reader's where that
            is not known.
        seed: of the draw.

    Raises:
        DataError: the source has a validation split of its own, or too few training images.
    """
    rows = source.rows("train")
    if "validation" in source.splits:
        raise DataError(
            f"{source.name} has a validation split of its own, of {source.rows('validation'):,} images: "
            f"none can be held out beside it"
        )
    if not 1 <= count < rows:
        raise DataError(
            f"{count:,} validation images cannot be held out of the {rows:,} training images of {source.name}: "
            f"it must be 1 to {rows - 1:,}"
        )
    held = _drawn(rows, count, seed) if taken == "random" else _last(source, count)

    def read(split: SplitName) -> Iterator[Batch]:
        return source.read(split) if split == "test" else _chosen(source, held == (split == "validation"))

    counts: dict[SplitName, int] = {"train": rows - count, "test": source.rows("test"), "validation": count}
    return replace(source, counts=counts, reader=read, held_out=taken, order=None)


def _drawn(rows: int, count: int, seed: int) -> np.ndarray:
    """Returns which of the training rows are drawn, [rows], booleans."""
    held = np.zeros(rows, bool)
    held[np.random.default_rng([seed, STREAM]).permutation(rows)[:count]] = True
    return held


def _last(source: ImageSource, count: int) -> np.ndarray:
    """Returns which of the training rows are the last ones, [rows], booleans."""
    rows = source.rows("train")
    return (np.arange(rows) if source.order is None else source.order) >= rows - count


def _chosen(source: ImageSource, chosen: np.ndarray) -> Iterator[Batch]:
    """Yields the training rows that are chosen, [rows of the source], booleans.

    Raises:
        DataError: the source gives more or fewer rows than it said.
    """
    read = 0
    for images, labels in source.read("train"):
        here = chosen[read : read + len(images)]
        read += len(images)
        if read > len(chosen):
            raise DataError(f"{source.name} gave more rows of its train split than the {len(chosen)} that it has")
        if here.any():
            yield images[here], labels[here]
    if read != len(chosen):
        raise DataError(f"{source.name} gave {read} rows of its train split where it has {len(chosen)}")
