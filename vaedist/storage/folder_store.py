"""Folders kept on this machine's filesystem or on an object store, behind one interface.

Files are read and written in a working copy, `FolderStore.path`. For a local folder the working copy is the folder
itself, and fetching and pushing do nothing. For a folder on an object store it is a local directory: files are fetched
into it before they are read, and pushed after they were written.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Self

from vaedist.storage.claim import Claim, Session
from vaedist.storage.mirror import EVERY_SECONDS
from vaedist.storage.transfer import FileState, Notify


def silent(_: str) -> None:
    """Ignores a notice."""


def unguarded() -> None:
    """Lets every write pass."""


class FolderStore(ABC):
    """A folder of files, local or on an object store.

    All paths that its methods take and give are paths in the working copy.

    Attributes:
        path: the working copy.

    Raises:
        StorageError: from every method that reaches the folder, when an object store refuses or does not answer.
    """

    path: Path

    @property
    @abstractmethod
    def location(self) -> str:
        """Path or URI of the folder."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Last part of the location."""

    @property
    @abstractmethod
    def parent(self) -> str:
        """Location of the folder that holds this one."""

    @abstractmethod
    def location_of(self, path: Path) -> str:
        """Returns the path or URI of a file or folder in this folder."""

    @abstractmethod
    def display(self, path: Path | None = None) -> str:
        """Returns the location of a file, or of the folder, for messages: a path is relative to the current folder."""

    @abstractmethod
    def child(self, name: str) -> Self:
        """Returns the folder of a name in this folder."""

    @abstractmethod
    def absolute(self) -> Self:
        """Returns the same folder, by a path that means the same in every process."""

    @abstractmethod
    def patient(self, notify: Notify = silent) -> Self:
        """Returns the same folder for use during a run, which waits minutes for an object store to answer.

        Args:
            notify: told when the object store does not answer.
        """

    @abstractmethod
    def exists(self) -> bool:
        """Returns True if there is anything at the location."""

    @abstractmethod
    def folders(self) -> list[str]:
        """Returns the sorted names of the folders directly in it.

        Raises:
            FileNotFoundError, NotADirectoryError: there is no such folder.
            OSError: it cannot be read.
        """

    @abstractmethod
    def files(self, under: Path | None = None) -> dict[Path, FileState]:
        """Returns the files that are kept in the folder, or below `under`, at any depth, with their states."""

    @abstractmethod
    def read(self, path: Path) -> bytes:
        """Returns the content of a file where it is kept, not of its working copy.

        Raises:
            FileNotFoundError: there is no such file.
        """

    @abstractmethod
    def write(self, path: Path, content: bytes) -> None:
        """Writes a file where it is kept, not in the working copy."""

    @abstractmethod
    def refresh(self, *paths: Path) -> None:
        """Brings the working copies of files up to date; copies of files that do not exist any more are removed."""

    @abstractmethod
    def fetch(self, files: Mapping[Path, FileState]) -> None:
        """Brings files of a listing by `files` into the working copy, unless they are there in the listed state.

        Raises:
            FileNotFoundError: a file was removed since it was listed.
        """

    @abstractmethod
    def forget(self, path: Path) -> None:
        """Removes the working copy of a folder on an object store; a local folder stays as it is."""

    @abstractmethod
    def push(self, *paths: Path) -> None:
        """Uploads files of the working copy to the object store, if the folder is on one."""

    @abstractmethod
    def remove(self, path: Path) -> None:
        """Removes a file, if it is there."""

    @abstractmethod
    def commit_folder(self, path: Path, *, last: str, done: Callable[[], None]) -> None:
        """Publishes a folder of the working copy whose files do not change any more; does not wait for an upload.

        Args:
            path: the folder.
            last: file in it without which the others do not count; it is published last.
            done: called once the folder is where it is kept.
        """

    @abstractmethod
    def remove_folder(self, path: Path, *, first: str | None = None) -> None:
        """Removes a folder, the file `first` in it before the others; does not wait for an object store."""

    @abstractmethod
    def set_aside(self, path: Path, *, first: str) -> None:
        """Renames a folder to damaged-NAME, the file `first` in it before the others."""

    @abstractmethod
    def settle(self) -> None:
        """Waits until requested commits and removals are carried out."""

    @abstractmethod
    def remove_all(self) -> None:
        """Removes the folder, if it is there."""

    @abstractmethod
    def remove_unclaimed(self, record: Path) -> None:
        """Removes the folder if a process that claimed it was killed before it wrote the record."""

    @abstractmethod
    def check_writer(self) -> None:
        """Checks that the working copy may be written; raises the error of the workspace's `may_write` if not."""

    @abstractmethod
    def workspace(
        self,
        *,
        writes: bool = True,
        may_write: Callable[[], None] = unguarded,
        leave: Callable[[str], bool] = lambda _: False,
        every: float = EVERY_SECONDS,
    ) -> AbstractContextManager["FolderStore"]:
        """Returns a context that gives this folder with a working copy of the process's own.

        For a folder on an object store the working copy is an empty scratch folder. If the process writes, changes are
        uploaded in the background, and all of them are on the object store when the context ends.

        Args:
            writes: the process writes to the folder.
            may_write: called before anything is written where others see it; raises if others write there now.
            leave: says of a file's name, relative to the folder, whether it is only published by `commit_folder`.
            every: seconds between two searches for changes.
        """

    @abstractmethod
    def temporary(self, path: Path) -> AbstractContextManager[Path]:
        """Returns a context that gives a local folder for files that need not be kept.

        Args:
            path: the folder to use if this store is local.
        """

    @abstractmethod
    def claim(
        self, record: Path, text: str, *, busy: str, log: Path, session: Session
    ) -> AbstractContextManager[Claim]:
        """Returns a context in which the folder is claimed by this process, and the session connected.

        Args:
            record: file in the folder that says what it is.
            text: content of the record, which is written at once where there is none.
            busy: error message if another process has claimed the folder.
            log: file in the folder that takes what the session prints.
            session: connects to the cluster, whose lock a folder on an object store needs.

        Raises:
            RunError: another process has claimed the folder.
            StorageError: it cannot be written.
        """
