"""Where data sets are kept: local folders and whatever pyarrow has a filesystem for."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.fs

from vaedist.errors import DataError

BLOCK = 1 << 20  # bytes read at a time where a file is hashed


def open_filesystem(uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """The filesystem that a data set lives in, and the path of its folder there.

    Args:
        uri: a local path, absolute or relative, or a pyarrow filesystem URI such as s3://bucket/cifar10.

    Returns:
        The filesystem, which maps files into memory if it is a local one, and the path without a trailing
        slash.

    Raises:
        DataError: a URI of an unknown kind, or one whose filesystem cannot be reached.
    """
    if "://" not in uri:
        return pyarrow.fs.LocalFileSystem(use_mmap=True), str(Path(uri).absolute())
    try:
        filesystem, path = pyarrow.fs.FileSystem.from_uri(uri)
    except (pa.ArrowException, OSError, ValueError, ImportError) as error:
        raise DataError(f"cannot open {uri}: {first_line(error)}") from error
    if isinstance(filesystem, pyarrow.fs.LocalFileSystem):
        filesystem = pyarrow.fs.LocalFileSystem(use_mmap=True)
    return filesystem, path.rstrip("/")


def sha256_of(filesystem: pyarrow.fs.FileSystem, path: str, seen: Callable[[int], None] | None = None) -> str:
    """SHA-256 of a file, read block by block; `seen` is called with the bytes of each block."""
    digest = hashlib.sha256()
    with filesystem.open_input_stream(path) as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
            if seen is not None:
                seen(len(block))
    return digest.hexdigest()


def first_line(error: BaseException) -> str:
    """What an error says, on one line; its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
