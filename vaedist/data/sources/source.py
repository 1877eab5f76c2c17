"""What `prepare` reads from."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from vaedist.data.manifest import ALL_SPLITS, HeldOut, Source, SplitName

Batch = tuple[np.ndarray, np.ndarray]
"""Some rows: images [n, H, W, C] uint8 and labels [n], integers."""


@dataclass(frozen=True)
class ImageSource:
    """Images of one shape with labels, in a training and a test split, and in a validation split where there is one.

    name: of the data set that will be made.
    shape: height, width, channels.
    classes: names of the labels 0, 1, ...
    provenance: what the manifest says of the source.
    counts: rows of each split; "validation" is among them where the source has such a split.
    reader: gives the batches of a split, the same rows in the same order each time. It raises DataError where the
        source turns out to be damaged.
    warnings: what the user should know, one line each.
    held_out: how its validation rows were taken out of the training rows, as the manifest says it.
    order: the place of each training row in the publisher's order, [rows]; None where the reader gives them in it.
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
        """The splits that it has, in the order of `ALL_SPLITS`."""
        return tuple(split for split in ALL_SPLITS if split in self.counts)

    def rows(self, split: SplitName) -> int:
        """How many rows a split has."""
        return self.counts[split]

    def read(self, split: SplitName) -> Iterator[Batch]:
        """The rows of a split, some at a time, in the source's own order."""
        return self.reader(split)


def plain_name(text: str) -> str:
    """`text` with what a data set's name may not hold replaced: "my photos" becomes "my-photos"."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:128] or "images"
