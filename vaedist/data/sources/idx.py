"""A folder of IDX files, the format of MNIST (LeCun et al. 1998), Fashion-MNIST, KMNIST and EMNIST.

An IDX file of bytes starts with the magic number 0, 0, 8 and the number of dimensions. The size of each dimension
follows, as a big-endian 32-bit integer, and then the content. The file may be compressed by gzip.
"""

import gzip
import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal

import numpy as np

from vaedist.data.manifest import SPLITS, Source, SplitName
from vaedist.data.sources.arrays import ArraySplit, StoredArray, array_source
from vaedist.data.sources.files import BLOCK, file_errors
from vaedist.data.sources.source import ImageSource
from vaedist.errors import DataError
from vaedist.files import readable

Kind = Literal["images", "labels"]
Role = tuple[SplitName, Kind]

DIMENSIONS: dict[Kind, int] = {"images": 3, "labels": 1}
EXPECTED = "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte"
SIDEWAYS = "emnist-"  # prefix of the files of EMNIST, whose images are stored with rows and columns exchanged

# train-images-idx3-ubyte, train-images.idx3-ubyte, emnist-letters-test-labels-idx1-ubyte.gz
_NAME = re.compile(
    r"(?P<prefix>|.+-)(?P<split>train|t10k|test)-(?P<kind>images|labels)[.-]idx[0-9]-ubyte(?P<gz>\.gz)?", re.IGNORECASE
)
_GZIP = b"\x1f\x8b"


def idx_folder(path: str | Path, name: str, *, transpose: bool = False) -> ImageSource:
    """Returns the images of the IDX files in a folder, which are checked completely before any row is read.

    The folder must hold the files of one data set. Of a file that is there both compressed and not, the latter is read.
    The files of labels may be missing, all of them.

    Args:
        path: the folder.
        name: name of the data set.
        transpose: exchange rows and columns, which turns the images of EMNIST upright.

    Raises:
        DataError: files are missing, damaged, of the wrong kind or ambiguous, or do not match.
    """
    path = Path(path)
    prefix, files = _find(path)
    splits: dict[SplitName, ArraySplit] = {}
    for split in SPLITS:
        if (split, "images") not in files:
            raise DataError(f"folder {path} has no IDX file of {split} images; expected {EXPECTED}, also as NAME.gz")
        labels = files.get((split, "labels"))
        splits[split] = ArraySplit(
            _array(files[split, "images"], "images"), None if labels is None else _array(labels, "labels")
        )
    warnings = []
    if prefix.lower().startswith(SIDEWAYS) and not transpose:
        warnings.append("EMNIST stores images with rows and columns exchanged; --transpose turns them upright")
    return array_source(
        name,
        splits,
        lambda: Source(kind="idx", name=readable(f"{prefix}train-images-idx3-ubyte"), sha256=_sha256(files)),
        transpose=transpose,
        warnings=warnings,
    )


def _find(folder: Path) -> tuple[str, dict[Role, Path]]:
    """Returns the prefix of the names of the IDX files in a folder, such as "emnist-letters-", and the files.

    Raises:
        DataError: there are several candidates.
    """
    found: dict[Role, list[Path]] = defaultdict(list)
    prefixes: dict[str, Path] = {}
    with file_errors(f"folder {folder}", "a folder"):
        names = {file.name for file in folder.iterdir() if file.is_file()}
    for name in sorted(names):
        match = _NAME.fullmatch(name)
        if match is None or (match["gz"] and name.removesuffix(match["gz"]) in names):
            continue
        split: SplitName = "train" if match["split"].lower() == "train" else "test"
        found[split, "images" if match["kind"].lower() == "images" else "labels"].append(folder / name)
        prefixes.setdefault(match["prefix"], folder / name)
    for files in [*found.values(), list(prefixes.values())]:
        if len(files) > 1:
            listed = ", ".join(file.name for file in files)
            raise DataError(f"folder {folder} has files of several data sets, {listed}: give each a folder of its own")
    return next(iter(prefixes), ""), {role: files[0] for role, files in found.items()}


def _array(path: Path, kind: Kind) -> StoredArray:
    """Reads the header of a file."""
    dimensions = DIMENSIONS[kind]
    magic, size = bytes([0, 0, 8, dimensions]), 4 + 4 * dimensions
    with _content(path) as content:
        header = content.read(size)
    if len(header) >= len(magic) and not header.startswith(magic):
        raise DataError(
            f"file {path} starts with {header[: len(magic)].hex()}, not with {magic.hex()}, the magic number of IDX "
            f"files of {kind}"
        )
    if len(header) < size:
        raise DataError(f"file {path} is truncated: its header has {size} bytes, but the file {len(header)}")
    shape = tuple(np.frombuffer(header, ">u4", offset=4).tolist())

    @contextmanager
    def behind_header() -> Iterator[IO[bytes]]:
        with _content(path) as content:
            content.read(size)
            yield content

    return StoredArray(f"file {path}", shape, np.dtype(np.uint8), behind_header)


@contextmanager
def _content(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file, and decompresses it if it is compressed, whatever its name."""
    with file_errors(f"file {path}", "an IDX file"), path.open("rb") as file:
        if file.peek(len(_GZIP))[: len(_GZIP)] == _GZIP:
            with gzip.GzipFile(fileobj=file) as content:
                yield content  # type: ignore[misc] # it has the methods of IO[bytes] that are used
        else:
            yield file


def _sha256(files: Mapping[Role, Path]) -> str:
    """Returns the SHA-256 of the concatenated files, decompressed, in the order of `EXPECTED`."""
    digest = hashlib.sha256()
    for role in ((split, kind) for split in SPLITS for kind in DIMENSIONS):
        if role in files:
            with _content(files[role]) as content:
                while block := content.read(BLOCK):
                    digest.update(block)
    return digest.hexdigest()
