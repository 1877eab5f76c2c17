"""Images put in any order into a file, and read back in the file's."""

import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np


class ShuffleBuffer:
    """An array of images on disk, filled row by row at random places.

    The file has no name and goes with the process, however that ends. Rows are written, not assigned to a
    memory map: a full disk then is an OSError, where a map would kill the process.

    Args:
        folder: on the filesystem that is to hold the file.
        shape: [rows, H, W, C] of the whole.

    Raises:
        OSError: the file cannot be made.
    """

    def __init__(self, folder: Path, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self._row_bytes = int(np.prod(shape[1:]))
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - closed by __exit__

    def put(self, places: np.ndarray, images: np.ndarray) -> None:
        """Write images [n, H, W, C], uint8, to rows `places`, [n].

        Raises:
            OSError: the disk is full.
        """
        for place, image in zip(places.tolist(), np.ascontiguousarray(images), strict=True):
            self._file.seek(place * self._row_bytes)
            left = memoryview(image).cast("B")
            while left:  # a nearly full disk takes a part, and raises when asked again
                left = left[self._file.write(left) :]

    def images(self) -> np.ndarray:
        """All rows as a memory-mapped array, not to be written to; every row must have been put."""
        return np.memmap(self._file, np.uint8, mode="r", shape=self.shape)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
