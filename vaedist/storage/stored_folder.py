"""Folders of a known layout, kept on a filesystem or an object store."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from vaedist.errors import RunError
from vaedist.storage.folder_store import FolderStore, silent
from vaedist.storage.local_folder import LocalFolderStore
from vaedist.storage.remote_folder import RemoteFolderStore
from vaedist.storage.transfer import Notify
from vaedist.storage.uri import is_remote, join_uri, local_path, require_utf8


def open_folder(location: str | Path) -> FolderStore:
    """Returns the folder at a path or a URI; nothing is read or created."""
    if isinstance(location, Path):
        return LocalFolderStore(location)
    return RemoteFolderStore.at(location) if is_remote(location) else LocalFolderStore(local_path(location))


@dataclass(frozen=True)
class StoredFolder:
    """Base class of folders, whose subclasses name the files in them; nothing is created before the first write.

    Attributes:
        store: access to the files.
    """

    store: FolderStore

    @classmethod
    def at(cls, location: str | Path) -> Self:
        """Returns the folder at a path or a URI."""
        return cls(open_folder(location))

    @classmethod
    def named(cls, parent: str, name: str) -> Self:
        """Returns the subfolder with a name of the folder at a path or a URI.

        Raises:
            StorageError: its path is not UTF-8.
        """
        if is_remote(parent):
            return cls.at(join_uri(parent, name))
        return cls.at(require_utf8(local_path(parent).absolute() / name))

    @property
    def path(self) -> Path:
        """Path of the working copy, which is the folder itself if it is local."""
        return self.store.path

    @property
    def name(self) -> str:
        """Last part of the location."""
        return self.store.name

    @property
    def location(self) -> str:
        """Path or URI of the folder."""
        return self.store.location

    def absolute(self) -> Self:
        """Returns the same folder with an absolute path, which is valid in every process."""
        return replace(self, store=self.store.absolute())

    def patient(self, notify: Notify = silent) -> Self:
        """Returns the same folder for use during a run, which waits minutes for an object store to respond.

        Args:
            notify: called when the object store does not respond.
        """
        return replace(self, store=self.store.patient(notify))

    def require(self, record: Path, kind: str) -> None:
        """Checks that the file that describes the folder exists and is not empty.

        Args:
            record: the file.
            kind: kind of folder, for error messages: "run" or "sweep".

        Raises:
            RunError: the file does not exist, is empty or cannot be read.
        """
        try:
            empty = record.stat().st_size == 0
        except (FileNotFoundError, NotADirectoryError):
            raise RunError(f"no {kind} at {self.location}: it has no {record.name}") from None
        except OSError as error:
            raise RunError(f"cannot read {record}: {error.strerror or error}") from error
        if empty:
            raise RunError(f"{record} is empty")
