"""Local folders for copies of files on object stores, and their size limits."""

import hashlib
import os
from pathlib import Path

from vaedist.errors import ConfigError, StorageError
from vaedist.storage.uri import name_of

CACHE = "VAEDIST_CACHE"
CACHE_BYTES = "VAEDIST_CACHE_BYTES"
DEFAULT_BYTES = 20 << 30


def cache_folder() -> Path:
    """Returns the cache folder: VAEDIST_CACHE, or vaedist in the user's cache folder."""
    given = os.environ.get(CACHE)
    if given:
        return Path(given).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vaedist"


def cache_bytes() -> int:
    """Returns the maximum total size of cached shards: VAEDIST_CACHE_BYTES, or 20 GiB.

    Raises:
        ConfigError: the variable is not a number.
    """
    return bytes_of(CACHE_BYTES, DEFAULT_BYTES)


def bytes_of(variable: str, default: int) -> int:
    """Returns a number of bytes from an environment variable, or the default if it is not set.

    Raises:
        ConfigError: the variable is not a number.
    """
    given = os.environ.get(variable) or str(default)
    if not given.isdecimal():
        raise ConfigError(f"{variable} = {given!r}: must be a number of bytes")
    return int(given)


def copy_of(uri: str) -> Path:
    """Returns the local folder for copies of files in a folder on an object store."""
    return cache_folder() / "copies" / hashlib.sha256(uri.encode()).hexdigest()[:16] / name_of(uri)


def is_there(path: Path) -> bool:
    """Returns True if there is anything at a path.

    Raises:
        StorageError: this cannot be determined, for example in a folder that may not be read.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise StorageError(f"cannot access {path}: {error.strerror or error}") from error
    return True
