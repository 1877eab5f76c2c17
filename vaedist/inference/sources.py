"""Images to encode, with random access by row: prepared data sets, and folders of image files."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa

from vaedist.data.manifest import Manifest, SplitName, load_manifest
from vaedist.data.rows import SplitRows
from vaedist.data.sources.layout import image_files
from vaedist.data.sources.pixels import Target, UnreadableImageError, decode
from vaedist.errors import DataError
from vaedist.files import readable
from vaedist.inference.parts import Part


class Rows(NamedTuple):
    """Rows of a source.

    Attributes:
        images: uint8, [n, H, W, C].
        numbers: number of each row in its group, which determines its noise, [n], int64.
        columns: further columns of the table.
    """

    images: np.ndarray
    numbers: np.ndarray
    columns: dict[str, pa.Array]


class Source(ABC):
    """Images in groups of rows.

    Attributes:
        captions: names of the columns that identify an image.
    """

    captions: ClassVar[tuple[str, ...]]

    @property
    @abstractmethod
    def groups(self) -> Mapping[str, int]:
        """Number of rows of each group, by name."""

    @property
    @abstractmethod
    def description(self) -> Mapping[str, Any]:
        """Location and identity of the images, for a job's record."""

    @abstractmethod
    def read(self, part: Part) -> Rows:
        """Returns the rows of a part.

        Raises:
            DataError: an image cannot be read, or the images have changed.
        """


@dataclass(frozen=True)
class PreparedSource(Source):
    """Splits of a prepared data set, whose rows are in stored order, shard by shard.

    Attributes:
        uri: the data set.
        manifest: its manifest.
        splits: the splits.
    """

    captions = ("split", "row", "class")
    uri: str
    manifest: Manifest
    splits: tuple[SplitName, ...]
    _open: dict[str, SplitRows] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def at(cls, uri: str, splits: Sequence[SplitName] | None, shape: tuple[int, int, int]) -> "PreparedSource":
        """Opens a data set.

        Args:
            uri: the data set.
            splits: splits to read; None for all.
            shape: the required shape of its images.

        Raises:
            DataError: there is no data set, or it has images of another shape, or lacks a split.
        """
        manifest = load_manifest(uri)
        if manifest.shape != tuple(shape):
            raise DataError(
                f"the images at {uri} have the shape {list(manifest.shape)}, but the run's model needs {list(shape)}"
            )
        splits = tuple(splits or manifest.split_names)
        for split in splits:
            SplitRows(uri, manifest, split)  # checks that there is such a split
        return cls(uri, manifest, splits)

    @property
    def groups(self) -> dict[str, int]:
        """Number of rows of each split."""
        return {split: self.manifest.splits[split].rows for split in self.splits}

    @property
    def description(self) -> dict[str, Any]:
        """Location and fingerprint of the data set."""
        return {"data": self.uri, "fingerprint": self.manifest.fingerprint}

    def read(self, part: Part) -> Rows:
        """Returns the rows of a part, with the columns split, row, label and class."""
        split: Any = part.group
        if split not in self._open:
            self._open[split] = SplitRows(self.uri, self.manifest, split)
        rows = self._open[split]
        numbers, labels = rows.numbers(part.start, part.stop), rows.labels(part.start, part.stop)
        classes = [self.manifest.classes[label] for label in labels]
        columns: dict[str, pa.Array] = {
            "split": pa.array([split] * len(labels), pa.string()),
            "row": pa.array(numbers, pa.int64()),
            "label": pa.array(labels, pa.int32()),
            "class": pa.array(classes, pa.string()),
        }
        return Rows(rows.read(part.start, part.stop), numbers, columns)

    def __getstate__(self) -> dict[str, Any]:
        """Omits the open shards."""
        return {**self.__dict__, "_open": {}}


@dataclass(frozen=True)
class FolderSource(Source):
    """Image files below a folder, at any depth and in the order of their paths.

    They are decoded, cropped and resized as by `vaedist data prepare folder`.

    Attributes:
        folder: the folder, at the same path on all machines.
        shape: shape of the images that are made, [H, W, C] with 1 or 3 channels.
        fingerprint: digest of the names, sizes and modification times of the files.
        count: number of files.
    """

    captions = ("file",)
    folder: Path
    shape: tuple[int, int, int]
    fingerprint: str
    count: int

    @classmethod
    def at(cls, folder: Path, shape: tuple[int, int, int]) -> "FolderSource":
        """Lists a folder.

        Raises:
            DataError: there is no folder or no image in it, or the model's images are neither grey nor RGB.
        """
        if shape[2] not in (1, 3):
            raise DataError(f"images in {folder} are grey or RGB, but the run's model needs {shape[2]} channels")
        files = image_files(folder)
        return cls(folder.absolute(), shape, _digest(folder, files), len(files))

    @property
    def groups(self) -> dict[str, int]:
        """Number of files, as one group."""
        return {"images": self.count}

    @property
    def description(self) -> dict[str, Any]:
        """Path of the folder, and digest of its files' names, sizes and modification times."""
        return {"folder": str(self.folder), "fingerprint": self.fingerprint}

    @cached_property
    def files(self) -> list[Path]:
        """The files.

        Raises:
            DataError: files were added, removed or changed since the source was created.
        """
        files = image_files(self.folder)
        if _digest(self.folder, files) != self.fingerprint:
            raise DataError(f"the images in {self.folder} have changed in the meantime")
        return files

    def read(self, part: Part) -> Rows:
        """Returns the images of a part, with the columns row and file."""
        target = Target(self.shape[:2], grey=self.shape[2] == 1)
        files, images = self.files[part.start : part.stop], []
        for file in files:
            try:
                images.append(decode(file, target))
            except UnreadableImageError as error:
                raise DataError(f"image {file}: {error}") from None
        numbers = np.arange(part.start, part.stop)
        names = [readable(file.relative_to(self.folder).as_posix()) for file in files]
        return Rows(np.stack(images), numbers, {"row": pa.array(numbers), "file": pa.array(names, pa.string())})

    def __getstate__(self) -> dict[str, Any]:
        """Omits the list of files."""
        return {name: value for name, value in self.__dict__.items() if name != "files"}


def _digest(folder: Path, files: Sequence[Path]) -> str:
    """Returns the SHA-256 of the names, sizes and modification times of files.

    The times count in whole seconds, which most programs that copy files preserve.
    """
    digest = hashlib.sha256()
    try:
        for file in files:
            name = file.relative_to(folder).as_posix()
            status = file.stat()
            digest.update(f"{readable(name)}\0{status.st_size}\0{int(status.st_mtime)}\0".encode())
    except OSError as error:
        raise DataError(f"cannot read {error.filename}: {error.strerror}") from error
    return digest.hexdigest()
