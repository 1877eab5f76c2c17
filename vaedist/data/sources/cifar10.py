"""CIFAR-10 (Krizhevsky 2009) from its official binary archive, cifar-10-binary.tar.gz, without a network.

The archive is read as a stream and never unpacked to disk. A record is 3073 bytes: the label, then 1024 red,
1024 green and 1024 blue pixels, row by row.
"""

import gzip
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np

from vaedist.data.manifest import Source, SplitName
from vaedist.data.sources.files import BLOCK, file_errors, sha256_of_stream
from vaedist.data.sources.source import Batch, ImageSource
from vaedist.errors import DataError
from vaedist.files import readable

OFFICIAL_SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
SHAPE = (32, 32, 3)
RECORD = 1 + 32 * 32 * 3  # bytes
FOLDER = "cifar-10-batches-bin"
META = f"{FOLDER}/batches.meta.txt"
MEMBERS: dict[SplitName, tuple[str, ...]] = {
    "train": tuple(f"{FOLDER}/data_batch_{k}.bin" for k in range(1, 6)),
    "test": (f"{FOLDER}/test_batch.bin",),
}
META_LIMIT = 1 << 16  # bytes; ten names need less than a hundred
BATCH = 1000  # rows read at a time


def cifar10_archive(path: str | Path) -> ImageSource:
    """Returns CIFAR-10 from the binary archive at `path`, which is checked completely before any row is read.

    An archive whose SHA-256 is not the official one is accepted, with a warning.

    Raises:
        DataError: the file is missing, truncated or not a gzip-compressed tar; a member has an unsafe name or is not a
            regular file; or a member is missing or has the wrong size.
    """
    path = Path(path)
    sha256 = _sha256(path)
    sizes, classes = _survey(path)
    expected = [META, *MEMBERS["train"], *MEMBERS["test"]]
    missing = [name for name in expected if name not in sizes]
    if missing:
        raise DataError(f"archive {path} has no member {missing[0]}: is it the CIFAR-10 binary version?")
    for name in expected[1:]:
        if sizes[name] == 0 or sizes[name] % RECORD:
            raise DataError(f"archive {path}: {name} has {sizes[name]} bytes, not a multiple of {RECORD}")
    official = sha256 == OFFICIAL_SHA256
    digests = f"its SHA-256 is {sha256[:12]}..., not {OFFICIAL_SHA256[:12]}..."
    name = readable(path.name)
    warning = f"{name} is not the official archive, so its images may not be those of CIFAR-10: {digests}"
    return ImageSource(
        name="cifar10",
        shape=SHAPE,
        classes=classes,
        provenance=Source(kind="cifar10-archive", name=name, sha256=sha256, official=official),
        counts={split: sum(sizes[name] for name in names) // RECORD for split, names in MEMBERS.items()},
        reader=lambda split: _read(path, split, len(classes)),
        warnings=() if official else (warning,),
        order=_official_order(sizes),
    )


def _official_order(sizes: Mapping[str, int]) -> np.ndarray:
    """Returns each training row's index in the order data_batch_1 to data_batch_5, [rows]; archives may reorder them.

    Args:
        sizes: sizes of the members in bytes, in the order of the archive.
    """
    rows = {name: sizes[name] // RECORD for name in MEMBERS["train"]}
    first = dict(zip(rows, accumulate(rows.values(), initial=0), strict=False))
    return np.concatenate([first[name] + np.arange(rows[name]) for name in sizes if name in rows])


def _sha256(path: Path) -> str:
    with _errors(path), path.open("rb") as file:
        return sha256_of_stream(file)


def _errors(path: Path) -> AbstractContextManager[None]:
    return file_errors(f"archive {path}", "a gzip-compressed tar")


def _survey(path: Path) -> tuple[dict[str, int], tuple[str, ...]]:
    """Returns the size of each regular member, and the names of the classes."""
    sizes: dict[str, int] = {}
    classes: tuple[str, ...] = ()
    with _members(path) as members:
        for name, size, content in members:
            if name in sizes:
                raise DataError(f"archive {path} holds {name} twice")
            sizes[name] = size
            if name == META:
                classes = _class_names(content.read(META_LIMIT), path)
    return sizes, classes


def _class_names(text: bytes, path: Path) -> tuple[str, ...]:
    try:
        names = tuple(text.decode("ascii").split())
    except UnicodeDecodeError:
        names = ()
    if not names or len(names) > 256:  # a label is one byte
        raise DataError(f"archive {path}: {META} does not hold the names of the classes")
    return names


def _read(path: Path, split: SplitName, classes: int) -> Iterator[Batch]:
    """Yields the rows of a split, in the order of the archive's members."""
    with _members(path) as members:
        for name, _, content in members:
            if name in MEMBERS[split]:
                while block := content.read(BATCH * RECORD):
                    yield _decode(block, classes, f"archive {path}: {name}")


def _decode(block: bytes, classes: int, where: str) -> Batch:
    records = np.frombuffer(block, np.uint8).reshape(-1, RECORD)
    labels = records[:, 0]
    if labels.max() >= classes:
        raise DataError(f"{where} has label {labels.max()}; the {classes} classes are 0 to {classes - 1}")
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)  # [n, H, W, C]
    return images, labels


@contextmanager
def _members(path: Path) -> Iterator[Iterator[tuple[str, int, IO[bytes]]]]:
    """Yields an iterator over the regular files as (name, size, content); faults of the archive become DataError."""
    with _errors(path), gzip.open(path) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
        yield _plain_files(tar, path)
        while stream.read(BLOCK):  # read to the end, where gzip checks length and CRC
            pass


def _plain_files(tar: tarfile.TarFile, path: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    for member in tar:
        name = PurePosixPath(member.name)
        if name.is_absolute() or ".." in name.parts:
            raise DataError(f"archive {path}: member {member.name!r} leads outside the archive")
        if member.isdir():
            continue
        content = tar.extractfile(member) if member.isreg() else None
        if content is None:
            raise DataError(f"archive {path}: member {member.name!r} is a link or a device, not a file")
        yield str(name), member.size, content
