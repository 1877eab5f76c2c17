"""Summary of a data set: number of rows and examples of each class."""

import numpy as np

from vaedist.data.manifest import Manifest, SplitName
from vaedist.data.shards import open_split


def class_counts(uri: str, manifest: Manifest, split: SplitName) -> np.ndarray:
    """Returns the number of rows of each class in a split, [classes].

    Raises:
        DataError: a shard is missing or damaged.
    """
    counts = np.zeros(len(manifest.classes), np.int64)
    for number in range(len(manifest.splits[split].shards)):
        (arrays,) = open_split(uri, manifest, split, [number])
        counts += np.bincount(arrays.labels, minlength=len(counts))
    return counts


def examples(uri: str, manifest: Manifest, split: SplitName, each: int, classes: int) -> np.ndarray:
    """Returns the first rows of each of the first classes, in stored order.

    Args:
        uri: the data set.
        manifest: its manifest.
        split: "train", "test" or "validation".
        each: rows per class.
        classes: maximum number of classes.

    Returns:
        uint8, [classes, each, H, W, C]; white if a class has fewer rows.

    Raises:
        DataError: a shard is missing or damaged.
    """
    found = np.full((min(classes, len(manifest.classes)), each, *manifest.shape), 255, np.uint8)
    filled = np.zeros(len(found), np.int64)
    for number in range(len(manifest.splits[split].shards)):
        if filled.min() == each:
            break
        (arrays,) = open_split(uri, manifest, split, [number])
        for label in np.flatnonzero(filled < each).tolist():
            rows = np.flatnonzero(arrays.labels == label)[: each - filled[label]]
            found[label, filled[label] : filled[label] + len(rows)] = arrays.images[rows]
            filled[label] += len(rows)
    return found
