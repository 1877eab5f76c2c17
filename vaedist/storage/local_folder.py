"""Folders on this machine's filesystem."""

import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from vaedist.errors import StorageError
from vaedist.files import display_path, replace_file
from vaedist.storage.claim import Claim, Session, claim_local_folder
from vaedist.storage.folder_store import FolderStore, silent, unguarded
from vaedist.storage.mirror import EVERY_SECONDS
from vaedist.storage.paths import is_there
from vaedist.storage.transfer import FileState, Notify


@dataclass(frozen=True)
class LocalFolderStore(FolderStore):
    """A folder on a filesystem of this machine, local or mounted.

    Attributes:
        path: the folder.
        may_write: called before a file is written; raises an error if another process writes to the folder now.
    """

    path: Path
    may_write: Callable[[], None] = field(default=unguarded, compare=False)

    @property
    def location(self) -> str:
        """Path of the folder."""
        return str(self.path)

    @property
    def name(self) -> str:
        """Last part of the path."""
        return self.path.name

    @property
    def parent(self) -> str:
        """Path of the folder that holds this one."""
        return str(self.path.parent)

    def location_of(self, path: Path) -> str:
        """Returns the path as text."""
        return str(path)

    def display(self, path: Path | None = None) -> str:
        """Returns the path of a file, or of the folder, relative to the current folder if it is below that."""
        return display_path(path or self.path)

    def child(self, name: str) -> "LocalFolderStore":
        """Returns the folder of a name in this folder."""
        return LocalFolderStore(self.path / name)

    def absolute(self) -> "LocalFolderStore":
        """Returns the same folder by its absolute path."""
        return replace(self, path=self.path.absolute())

    def patient(self, notify: Notify = silent) -> "LocalFolderStore":
        """Returns this folder: a filesystem answers at once."""
        return self

    def exists(self) -> bool:
        """Returns True if there is anything at the path.

        Raises:
            StorageError: the folder above may not be read.
        """
        return is_there(self.path)

    def folders(self) -> list[str]:
        """Returns the sorted names of the folders directly in it.

        Raises:
            OSError: there is no such folder, or it cannot be read.
            StorageError: the folder above may not be read.
        """
        if not is_there(self.path):
            raise FileNotFoundError(self.path)
        return sorted(path.name for path in self.path.iterdir() if path.is_dir())

    def files(self, under: Path | None = None) -> dict[Path, FileState]:
        """Returns the files in the folder, or below `under`, at any depth, with their states."""
        found = {}
        for folder, _, names in os.walk(under or self.path):
            for path in (Path(folder, name) for name in names):
                with suppress(OSError):  # removed meanwhile
                    status = path.stat()
                    found[path] = FileState(status.st_size, status.st_mtime_ns)
        return found

    def read(self, path: Path) -> bytes:
        """Returns the content of a file.

        Raises:
            OSError: it cannot be read.
        """
        return path.read_bytes()

    def write(self, path: Path, content: bytes) -> None:
        """Writes a file, replacing an older one atomically.

        Raises:
            StorageError: it cannot be written.
        """
        try:
            replace_file(path, content)
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror or error}") from error

    def refresh(self, *paths: Path) -> None:
        """Does nothing: the files are here."""

    def fetch(self, files: Mapping[Path, FileState]) -> None:
        """Does nothing: the files are here."""

    def forget(self, path: Path) -> None:
        """Does nothing: there is no copy."""

    def push(self, *paths: Path) -> None:
        """Does nothing: the files are here."""

    def remove(self, path: Path) -> None:
        """Removes a file, if it is there."""
        path.unlink(missing_ok=True)

    def commit_folder(self, path: Path, *, last: str, done: Callable[[], None]) -> None:
        """Calls `done`: the folder is in its final place."""
        done()

    def remove_folder(self, path: Path, *, first: str | None = None) -> None:
        """Removes a folder, the file `first` in it before the others."""
        if first is not None:
            (path / first).unlink()
        shutil.rmtree(path, ignore_errors=True)

    def set_aside(self, path: Path, *, first: str) -> None:
        """Renames a folder to damaged-NAME and a suffix, as there may be one of that name already."""
        path.rename(path.with_name(f"damaged-{path.name}.{secrets.token_hex(2)}"))

    def settle(self) -> None:
        """Does nothing: every change is made at once."""

    def remove_all(self) -> None:
        """Removes the folder, if it is there."""
        shutil.rmtree(self.path, ignore_errors=True)

    def remove_unclaimed(self, record: Path) -> None:
        """Removes the folder if it lacks its record, which is written right after the folder is made."""
        if self.path.exists() and not record.exists():
            shutil.rmtree(self.path)

    def check_writer(self) -> None:
        """Checks that files may be written; raises the error of `may_write` if not."""
        self.may_write()

    @contextmanager
    def workspace(
        self,
        *,
        writes: bool = True,
        may_write: Callable[[], None] = unguarded,
        leave: Callable[[str], bool] = lambda _: False,
        every: float = EVERY_SECONDS,
    ) -> Iterator["LocalFolderStore"]:
        """Gives the folder itself; other processes see files as they are written."""
        yield replace(self, may_write=may_write)

    @contextmanager
    def temporary(self, path: Path) -> Iterator[Path]:
        """Gives the path itself."""
        yield path

    @contextmanager
    def claim(self, record: Path, text: str, *, busy: str, log: Path, session: Session) -> Iterator[Claim]:
        """Claims the folder by a file lock, then connects."""
        with claim_local_folder(self.path, record, text, busy, log) as claim, session.connect(log):
            yield claim
