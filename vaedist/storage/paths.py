"""Folders that are kept here or on a store, and where local copies of the latter are."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from vaedist.errors import ConfigError, RunError, StorageError
from vaedist.storage.uri import is_remote, join_uri, local_path, name_of, require_utf8

CACHE = "VAEDIST_CACHE"
CACHE_BYTES = "VAEDIST_CACHE_BYTES"
DEFAULT_BYTES = 20 << 30


def cache_folder() -> Path:
    """The folder for copies: VAEDIST_CACHE, or vaedist in the user's cache folder."""
    given = os.environ.get(CACHE)
    if given:
        return Path(given).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vaedist"


def cache_bytes() -> int:
    """How large the shards in it may be together: VAEDIST_CACHE_BYTES, or 20 GiB.

    Raises:
        ConfigError: it is no number.
    """
    return bytes_of(CACHE_BYTES, DEFAULT_BYTES)


def bytes_of(variable: str, default: int) -> int:
    """A number of bytes that the environment gives, or the default.

    Raises:
        ConfigError: it is no number.
    """
    given = os.environ.get(variable) or str(default)
    if not given.isdecimal():
        raise ConfigError(f"{variable} = {given!r}: must be a number of bytes")
    return int(given)


def copy_of(uri: str) -> Path:
    """The local folder for copies of files in a folder of a store."""
    return cache_folder() / "copies" / hashlib.sha256(uri.encode()).hexdigest()[:16] / name_of(uri)


def is_there(path: Path) -> bool:
    """Returns True if there is anything at a path.

    Raises:
        StorageError: nobody can tell, as in a folder that may not be read.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise StorageError(f"cannot look at {path}: {error.strerror or error}") from error
    return True


@dataclass(frozen=True)
class KeptFolder:
    """A folder that is kept on this machine's filesystem or on a store.

    Attributes:
        path: the folder; a copy of it, if it is kept on a store.
        uri: of the folder on a store; empty if there is none.
    """

    path: Path
    uri: str = ""

    @classmethod
    def at(cls, place: str | Path) -> Self:
        """The folder at a path, or at a URI."""
        if isinstance(place, Path):
            return cls(place)
        return cls(copy_of(place), place) if is_remote(place) else cls(local_path(place))

    @classmethod
    def named(cls, folder: str, name: str) -> Self:
        """The folder of a name in a folder.

        Raises:
            StorageError: its path is not UTF-8.
        """
        if is_remote(folder):
            return cls.at(join_uri(folder, name))
        return cls.at(require_utf8(local_path(folder).absolute() / name))

    @property
    def name(self) -> str:
        """The last part of its path."""
        return name_of(self.uri) if self.uri else self.path.name

    def require(self, record: Path, what: str) -> None:
        """Makes sure that there is a file that says what the folder is, and that it says something.

        Raises:
            RunError: there is none, as in a folder that is no run, or it is empty or cannot be read.
        """
        try:
            empty = record.stat().st_size == 0
        except (FileNotFoundError, NotADirectoryError):
            raise RunError(f"no {what} at {self.place}: it has no {record.name}") from None
        except OSError as error:
            raise RunError(f"cannot read {record}: {error.strerror or error}") from error
        if empty:
            raise RunError(f"{record} is empty")

    @property
    def place(self) -> str:
        """Where it is kept: a path, or a URI."""
        return self.uri or str(self.path)
