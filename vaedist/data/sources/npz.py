"""A NumPy archive (.npz) of images and labels. Nothing in it is unpickled."""

import io
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from vaedist.data.manifest import SPLITS, Source, SplitName
from vaedist.data.sources.arrays import ArraySplit, StoredArray, array_source
from vaedist.data.sources.files import file_errors, sha256_of_stream
from vaedist.data.sources.source import ImageSource
from vaedist.errors import DataError
from vaedist.files import readable
from vaedist.storage.filesystem import first_line

Names = Mapping[SplitName, tuple[str, str]]
"""Names of the arrays of images and of labels, by split."""

NAMES: tuple[Names, ...] = (
    # As in Keras's mnist.npz.
    {"train": ("x_train", "y_train"), "test": ("x_test", "y_test"), "validation": ("x_val", "y_val")},
    # As in MedMNIST.
    {
        "train": ("train_images", "train_labels"),
        "test": ("test_images", "test_labels"),
        "validation": ("val_images", "val_labels"),
    },
)
HEADER_LIMIT = 10_000  # bytes, as in numpy.load
_READERS: dict[tuple[int, int], tuple[int, Callable[[IO[bytes]], tuple[tuple[int, ...], bool, np.dtype]]]] = {
    (1, 0): (2, npy.read_array_header_1_0),
    (2, 0): (4, npy.read_array_header_2_0),
}  # by version: size of the header's length in bytes, and its parser
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # of numpy.savez and numpy.savez_compressed
_ENCRYPTED = 1  # flag of a member


def npz_file(path: str | Path, name: str) -> ImageSource:
    """Returns the images of the arrays in a NumPy archive, which are checked completely before any row is read.

    The arrays must have the names of one row of `NAMES`. Validation images and labels are optional.

    Args:
        path: the archive.
        name: name of the data set.

    Raises:
        DataError: the archive is missing or damaged, or its arrays are not images and labels.
    """
    path = Path(path)
    members = _members(path)
    names = next((names for names in NAMES if names["train"][0] in members), None)
    if names is None:
        either = " or ".join(names["train"][0] for names in NAMES)
        raise DataError(f"{path} has no array {either}; it has {', '.join(sorted(members)) or 'none'}")
    splits: dict[SplitName, ArraySplit] = {}
    for split, (images, labels) in names.items():
        if images in members:
            splits[split] = ArraySplit(
                _array(path, images, members), _array(path, labels, members) if labels in members else None
            )
        elif split in SPLITS or labels in members:
            raise DataError(f"{path} has no array {images}; it has {', '.join(sorted(members))}")
    unused = sorted(set(members) - {each for pair in names.values() for each in pair})
    return array_source(
        name,
        splits,
        lambda: Source(kind="npz", name=readable(path.name), sha256=_sha256(path)),
        warnings=[f"ignored other arrays of {readable(path.name)}: {', '.join(unused)}"] if unused else [],
    )


def _sha256(path: Path) -> str:
    with file_errors(str(path), "a NumPy archive"), path.open("rb") as file:
        return sha256_of_stream(file)


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    with file_errors(str(path), "a NumPy archive"):
        try:
            with zipfile.ZipFile(path) as archive:
                yield archive
        except (NotImplementedError, RuntimeError, ValueError, OverflowError) as error:
            raise DataError(f"{path} is damaged or not a NumPy archive: {first_line(error)}") from error


def _members(path: Path) -> dict[str, str]:
    """Returns the names of the archive's members by the names of their arrays."""
    members: dict[str, str] = {}
    with _opened(path) as archive:
        for info in archive.infolist():
            array = readable(info.filename.removesuffix(".npy"))
            if not info.filename.endswith(".npy"):
                continue
            if array in members:
                raise DataError(f"{path} holds {array} twice")
            if info.flag_bits & _ENCRYPTED or info.compress_type not in _COMPRESSIONS:
                raise DataError(f"{path}: {array} is encrypted, or compressed otherwise than by numpy.savez_compressed")
            members[array] = info.filename
    return members


def _array(path: Path, name: str, members: Mapping[str, str]) -> StoredArray:
    """Reads the header of an array."""
    where = f"{path}: {name}"
    with _opened(path) as archive, archive.open(members[name]) as content:
        shape, dtype = _header(content, where)

    @contextmanager
    def behind_header() -> Iterator[IO[bytes]]:
        with _opened(path) as archive, archive.open(members[name]) as content:
            _header(content, where)
            yield content

    return StoredArray(where, shape, dtype, behind_header)


def _header(content: IO[bytes], where: str) -> tuple[tuple[int, ...], np.dtype]:
    """Reads a header, and returns shape and dtype; the content must be in C order."""
    start = content.read(npy.MAGIC_LEN)
    if start[:-2] != npy.MAGIC_PREFIX or (version := (start[-2], start[-1])) not in _READERS:
        raise DataError(f"{where} is not a NumPy array of format 1 or 2")
    size, read = _READERS[version]
    length = content.read(size)
    if int.from_bytes(length, "little") > HEADER_LIMIT:
        raise DataError(f"{where} has a header of more than {HEADER_LIMIT:,} bytes")
    text = content.read(int.from_bytes(length, "little"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers that Python 2 wrote
            shape, fortran, dtype = read(io.BytesIO(length + text))
    except Exception as error:  # numpy raises various errors for damaged headers
        raise DataError(f"{where} has a damaged header: {first_line(error)}") from error
    if dtype.hasobject:
        raise DataError(f"{where} holds Python objects, which would have to be unpickled; it must hold integers")
    if fortran and len(shape) > 1:
        raise DataError(f"{where} is in Fortran order; save numpy.ascontiguousarray of it")
    return shape, dtype
