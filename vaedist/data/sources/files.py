"""Reading of a source's files: their digests, and their faults as errors for the user."""

import gzip
import hashlib
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from vaedist.errors import DataError

BLOCK = 1 << 20  # bytes read at a time


@contextmanager
def file_errors(what: str, kind: str) -> Iterator[None]:
    """Raises DataError, within a `with` statement, for a file that cannot be read or whose container is damaged.

    Args:
        what: the file in messages, such as "archive data.tar.gz".
        kind: the expected format, with its article.
    """
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile, tarfile.TarError, zipfile.BadZipFile) as error:
        raise DataError(f"{what} is damaged or not {kind}: {error}") from error
    except OSError as error:
        raise DataError(f"cannot read {what}: {error.strerror or error}") from error


def sha256_of_stream(stream: IO[bytes]) -> str:
    """Returns the SHA-256 of the rest of a stream, read block by block."""
    digest = hashlib.sha256()
    while block := stream.read(BLOCK):
        digest.update(block)
    return digest.hexdigest()
