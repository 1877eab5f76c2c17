"""Interface of sources of images, from which `prepare` reads."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from vaedist.data.manifest import ALL_SPLITS, HeldOut, Source, SplitName

Batch = tuple[np.ndarray, np.ndarray]
"""Consecutive rows: images [n, H, W, C] uint8 and labels [n], integers."""


@dataclass(frozen=True)
class ImageSource:
    """Labelled images of one shape, in a training split, a test split, and optionally a validation split.

    Attributes:
        name: name of the data set to write.
        shape: height, width, channels.
        classes: names of the labels 0, 1, ...
        provenance: description of the source for the manifest.
        counts: rows of each split; includes "validation" if the source has such a split.
        reader: returns the batches of a split, with the same rows in the same order on each call. It raises DataError
            if the source is damaged.
        warnings: messages for the user, one line each.
        held_out: how the validation rows were held out from the training rows, for the manifest.
        order: index of each training row in the publisher's order, [rows]; None if the reader uses that order.
    """

    name: str
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    provenance: Source
    counts: Mapping[SplitName, int]
    reader: Callable[[SplitName], Iterator[Batch]]
    warnings: tuple[str, ...] = ()
    held_out: HeldOut | None = None
    order: np.ndarray | None = field(default=None, compare=False)

    @property
    def splits(self) -> tuple[SplitName, ...]:
        """Splits of the source, in the order of `ALL_SPLITS`."""
        return tuple(split for split in ALL_SPLITS if split in self.counts)

    def rows(self, split: SplitName) -> int:
        """Returns the number of rows of a split."""
        return self.counts[split]

    def read(self, split: SplitName) -> Iterator[Batch]:
        """Returns an iterator over the batches of a split, in the source's own order."""
        return self.reader(split)


def plain_name(text: str) -> str:
    """Returns a valid name of a data set: other characters are replaced, so "my photos" becomes "my-photos"."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:128] or "images"
