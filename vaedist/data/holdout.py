"""Validation images held out from a source's training images."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from vaedist.data.manifest import HeldOut, SplitName
from vaedist.data.sources.source import Batch, ImageSource
from vaedist.errors import DataError

STREAM = 3  # random number stream; 0 to 2 permute the splits, see `row_places`


def hold_out(source: ImageSource, count: int, *, taken: HeldOut = "random", seed: int = 0) -> ImageSource:
    """Returns the source with `count` of its training images in a validation split; the test split is unchanged.

    The training images are read twice, once for each of the two splits.

    Args:
        source: the source.
        count: number of validation images.
        taken: "random" draws them regardless of class: the choice depends only on the seed and the number of training
            images. "end" takes the last ones in the publisher's order, or in the reader's order if that is unknown.
        seed: seed of the random choice.

    Raises:
        DataError: the source already has a validation split, or too few training images.
    """
    rows = source.rows("train")
    if "validation" in source.splits:
        raise DataError(
            f"{source.name} already has a validation split, of {source.rows('validation'):,} images: "
            f"no other can be held out"
        )
    if not 1 <= count < rows:
        raise DataError(
            f"{count:,} validation images cannot be held out from the {rows:,} training images of {source.name}: "
            f"it must be 1 to {rows - 1:,}"
        )
    held = _drawn(rows, count, seed) if taken == "random" else _last(source, count)

    def read(split: SplitName) -> Iterator[Batch]:
        return source.read(split) if split == "test" else _chosen(source, held == (split == "validation"))

    counts: dict[SplitName, int] = {"train": rows - count, "test": source.rows("test"), "validation": count}
    return replace(source, counts=counts, reader=read, held_out=taken, order=None)


def _drawn(rows: int, count: int, seed: int) -> np.ndarray:
    """Returns a mask of the training rows that are drawn at random, [rows], boolean."""
    held = np.zeros(rows, bool)
    held[np.random.default_rng([seed, STREAM]).permutation(rows)[:count]] = True
    return held


def _last(source: ImageSource, count: int) -> np.ndarray:
    """Returns a mask of the last training rows in the publisher's order, [rows], boolean."""
    rows = source.rows("train")
    return (np.arange(rows) if source.order is None else source.order) >= rows - count


def _chosen(source: ImageSource, chosen: np.ndarray) -> Iterator[Batch]:
    """Yields the training rows that a mask selects, [rows of the source], boolean.

    Raises:
        DataError: the source yields more or fewer rows than it declares.
    """
    read = 0
    for images, labels in source.read("train"):
        here = chosen[read : read + len(images)]
        read += len(images)
        if read > len(chosen):
            raise DataError(f"{source.name} yielded more rows of its train split than the {len(chosen)} it declares")
        if here.any():
            yield images[here], labels[here]
    if read != len(chosen):
        raise DataError(f"{source.name} yielded {read} rows of its train split, but declares {len(chosen)}")
