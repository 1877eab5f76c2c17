"""Disk-backed buffer that permutes images."""

import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np


class ShuffleBuffer:
    """An array of images on disk whose rows are written in any order.

    The file is anonymous and vanishes with the process. Rows are written to the file, not assigned to a memory map:
    on a full disk a write raises OSError, whereas a map would kill the process.

    Args:
        folder: a folder on the filesystem that is to hold the file.
        shape: [rows, H, W, C] of the array.

    Raises:
        OSError: the file cannot be created.
    """

    def __init__(self, folder: Path, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self._row_bytes = int(np.prod(shape[1:]))
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - closed by __exit__

    def put(self, places: np.ndarray, images: np.ndarray) -> None:
        """Writes images [n, H, W, C], uint8, to rows `places`, [n].

        Raises:
            OSError: the disk is full.
        """
        for place, image in zip(places.tolist(), np.ascontiguousarray(images), strict=True):
            self._file.seek(place * self._row_bytes)
            left = memoryview(image).cast("B")
            while left:  # on a nearly full disk a write is partial, and the next one raises an error
                left = left[self._file.write(left) :]

    def images(self) -> np.ndarray:
        """Returns all rows as a read-only memory-mapped array; every row must have been written."""
        return np.memmap(self._file, np.uint8, mode="r", shape=self.shape)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
