"""Common interface of folders on this machine's filesystem and on object stores.

Files are read and written in a working copy, `FolderStore.path`. For a local folder, the working copy is the folder
itself, and fetching and pushing do nothing. For a folder on an object store, it is a local directory: files are fetched
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
    """Permits every write."""


class FolderStore(ABC):
    """A folder of files, local or on an object store.

    All paths in arguments and results are paths in the working copy.

    Attributes:
        path: the working copy.

    Raises:
        StorageError: from every method that accesses an object store, if it refuses a request or does not respond.
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
        """Returns the location of a file, or of the folder, for messages; paths are relative to the current folder."""

    @abstractmethod
    def child(self, name: str) -> Self:
        """Returns the subfolder with a name."""

    @abstractmethod
    def absolute(self) -> Self:
        """Returns the same folder with an absolute path, which is valid in every process."""

    @abstractmethod
    def patient(self, notify: Notify = silent) -> Self:
        """Returns the same folder for use during a run, which waits minutes for an object store to respond.

        Args:
            notify: called when the object store does not respond.
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
        """Returns the files in the folder, or below `under`, at any depth, with their states.

        For a folder on an object store, these are the files there, not in the working copy.
        """

    @abstractmethod
    def read(self, path: Path) -> bytes:
        """Returns the content of a file in the folder itself, not in the working copy.

        Raises:
            FileNotFoundError: there is no such file.
        """

    @abstractmethod
    def write(self, path: Path, content: bytes) -> None:
        """Writes a file in the folder itself, not in the working copy, replacing an older one atomically."""

    @abstractmethod
    def refresh(self, *paths: Path) -> None:
        """Updates the working copies of files; copies of files that no longer exist are removed."""

    @abstractmethod
    def fetch(self, files: Mapping[Path, FileState]) -> None:
        """Copies files of a listing by `files` to the working copy, unless it has them in the listed state.

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
        """Removes a file if it exists."""

    @abstractmethod
    def commit_folder(self, path: Path, *, last: str, done: Callable[[], None]) -> None:
        """Publishes a folder of the working copy whose files are final; does not wait for an upload.

        Args:
            path: the folder.
            last: file in the folder without which the others do not count; it is published last.
            done: called once the folder is published.
        """

    @abstractmethod
    def remove_folder(self, path: Path, *, first: str | None = None) -> None:
        """Removes a folder, beginning with the file `first` in it; does not wait for an object store."""

    @abstractmethod
    def set_aside(self, path: Path, *, first: str) -> None:
        """Renames a folder to damaged-NAME, beginning with the file `first` in it."""

    @abstractmethod
    def settle(self) -> None:
        """Waits until requested commits and removals are completed."""

    @abstractmethod
    def remove_all(self) -> None:
        """Removes the folder if it exists."""

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
        """Returns a context that yields this folder with a working copy for this process alone.

        For a folder on an object store, the working copy is an empty scratch folder. If the process writes, changes are
        uploaded in the background, and all of them have been uploaded when the context ends.

        Args:
            writes: True if the process writes to the folder.
            may_write: called before each write that others can see; raises an error if another process writes now.
            leave: returns True for the names of files, relative to the folder, that only `commit_folder` publishes.
            every: seconds between two searches for changes.
        """

    @abstractmethod
    def temporary(self, path: Path) -> AbstractContextManager[Path]:
        """Returns a context that yields a local folder for temporary files.

        Args:
            path: the folder to use if this store is local.
        """

    @abstractmethod
    def claim(
        self, record: Path, text: str, *, busy: str, log: Path, session: Session
    ) -> AbstractContextManager[Claim]:
        """Returns a context in which this process has claimed the folder, and the session is connected.

        Args:
            record: file in the folder that describes it.
            text: content of the record, which is written at once if there is none.
            busy: error message if another process has claimed the folder.
            log: file in the folder for the output of the session.
            session: connection to the cluster, which provides the lock for a folder on an object store.

        Raises:
            RunError: another process has claimed the folder.
            StorageError: it cannot be written.
        """
