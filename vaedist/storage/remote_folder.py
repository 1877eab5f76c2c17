"""Folders on object stores, with a local working copy."""

import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from vaedist.errors import StorageError
from vaedist.storage.claim import Claim, Session, claim_remote_folder
from vaedist.storage.folder_store import FolderStore, silent, unguarded
from vaedist.storage.mirror import EVERY_SECONDS, Mirror
from vaedist.storage.paths import copy_of
from vaedist.storage.retry import COMMAND_SECONDS, MISSING, RUN_SECONDS
from vaedist.storage.scratch import scratch_folder
from vaedist.storage.transfer import FileState, Notify, Store
from vaedist.storage.uri import join_uri, name_of, parent_of


@dataclass(frozen=True)
class RemoteFolderStore(FolderStore):
    """A folder on an object store.

    Attributes:
        uri: URI of the folder.
        path: the working copy.
        seconds: time limit for requests, including retries.
        notify: called when the object store does not respond.
        mirror: uploads changes of the working copy; None if files are written by `push` only.
    """

    uri: str
    path: Path
    seconds: float = field(default=COMMAND_SECONDS, compare=False)
    notify: Notify = field(default=silent, compare=False)
    mirror: Mirror | None = field(default=None, compare=False)

    @classmethod
    def at(cls, uri: str) -> "RemoteFolderStore":
        """Returns the folder at a URI, with a working copy in the user's cache folder."""
        uri = join_uri(uri)  # without a trailing slash
        return cls(uri, copy_of(uri))

    @cached_property
    def _store(self) -> Store:
        return Store(self.uri, seconds=self.seconds, notify=self.notify)

    def __getstate__(self) -> dict[str, Any]:
        """Omits the connection, which each process opens for itself."""
        return {name: value for name, value in self.__dict__.items() if name != "_store"}

    def _name(self, path: Path) -> str:
        return path.relative_to(self.path).as_posix()

    @property
    def location(self) -> str:
        """URI of the folder."""
        return self.uri

    @property
    def name(self) -> str:
        """Last part of the URI's path."""
        return name_of(self.uri)

    @property
    def parent(self) -> str:
        """URI of the folder that holds this one."""
        return parent_of(self.uri)

    def location_of(self, path: Path) -> str:
        """Returns the URI of a file or folder in this folder."""
        return join_uri(self.uri, self._name(path))

    def display(self, path: Path | None = None) -> str:
        """Returns the URI of a file, or of the folder."""
        return self.uri if path is None else self.location_of(path)

    def child(self, name: str) -> "RemoteFolderStore":
        """Returns the subfolder with a name; its working copy is in this folder's."""
        return replace(self, uri=join_uri(self.uri, name), path=self.path / name, mirror=None)

    def absolute(self) -> "RemoteFolderStore":
        """Returns the same folder, with an absolute path of the working copy."""
        return replace(self, path=self.path.absolute())

    def patient(self, notify: Notify = silent) -> "RemoteFolderStore":
        """Returns the same folder with a time limit of `RUN_SECONDS`."""
        return replace(self, seconds=RUN_SECONDS, notify=notify)

    def exists(self) -> bool:
        """Returns True if there are files in the folder.

        Raises:
            StorageError: there is no such bucket, or it does not respond.
        """
        self._store.check()
        return bool(self._store.files())

    def folders(self) -> list[str]:
        """Returns the sorted names of the folders directly in it.

        Raises:
            FileNotFoundError: the folder is empty.
            StorageError: there is no such bucket, or it does not respond.
        """
        self._store.check()
        found = self._store.folders()
        if not found and not self._store.files():
            raise FileNotFoundError(self.uri)
        return found

    def files(self, under: Path | None = None) -> dict[Path, FileState]:
        """Returns the files in the folder on the object store, or below `under`, with their states."""
        found = self._store.files("" if under is None else self._name(under))
        return {self.path / name: state for name, state in found.items()}

    def read(self, path: Path) -> bytes:
        """Returns the content of a file on the object store.

        Raises:
            FileNotFoundError: there is no such file.
        """
        return self._store.read(self._name(path))

    def write(self, path: Path, content: bytes) -> None:
        """Writes a file on the object store."""
        self._store.write(self._name(path), content)

    def refresh(self, *paths: Path) -> None:
        """Downloads files, and removes the copies of those that are not on the object store."""
        for path in paths:
            try:
                self._store.download(self._name(path), path)
            except MISSING:
                path.unlink(missing_ok=True)

    def fetch(self, files: Mapping[Path, FileState]) -> None:
        """Downloads the listed files that the working copy does not have in the listed state.

        Raises:
            FileNotFoundError: a file was removed since it was listed.
        """
        known = {self._name(path): state for path, state in files.items()}
        self._store.pull(self.path, known, known)

    def forget(self, path: Path) -> None:
        """Removes the working copy of a folder."""
        shutil.rmtree(path, ignore_errors=True)

    def push(self, *paths: Path) -> None:
        """Uploads files."""
        for path in paths:
            self._store.upload(path, self._name(path))

    def remove(self, path: Path) -> None:
        """Removes a file and its copy if they exist."""
        path.unlink(missing_ok=True)
        self._store.remove(self._name(path))

    def commit_folder(self, path: Path, *, last: str, done: Callable[[], None]) -> None:
        """Uploads a folder in the background, the file `last` after the others."""
        self._writer.commit(self._name(path), last=last, done=done)

    def remove_folder(self, path: Path, *, first: str | None = None) -> None:
        """Removes a folder's copy, and in the background the folder, beginning with the file `first`."""
        shutil.rmtree(path, ignore_errors=True)
        self._writer.remove(self._name(path), first=first)

    def set_aside(self, path: Path, *, first: str) -> None:
        """Renames a folder to damaged-NAME file by file, beginning with `first`; its copy is removed."""
        name = self._name(path)
        target = name.removesuffix(path.name) + f"damaged-{path.name}"
        for file in sorted(self._store.files(name), key=lambda file: file != f"{name}/{first}"):
            self._store.rename(file, f"{target}/{file.removeprefix(f'{name}/')}")
        shutil.rmtree(path, ignore_errors=True)

    @property
    def _writer(self) -> Mirror:
        assert self.mirror is not None, "commits and removals of folders need a workspace that writes"
        return self.mirror

    def settle(self) -> None:
        """Waits until requested commits and removals have reached the object store."""
        if self.mirror is not None:
            self.mirror.settle()

    def remove_all(self) -> None:
        """Removes the folder and its copy if they exist."""
        self._store.remove_all()
        shutil.rmtree(self.path, ignore_errors=True)

    def remove_unclaimed(self, record: Path) -> None:
        """Does nothing: on an object store, a folder does not exist before its record does."""

    def check_writer(self) -> None:
        """Does nothing: the working copy is private, and the mirror checks before each upload."""

    @contextmanager
    def workspace(
        self,
        *,
        writes: bool = True,
        may_write: Callable[[], None] = unguarded,
        leave: Callable[[str], bool] = lambda _: False,
        every: float = EVERY_SECONDS,
    ) -> Iterator["RemoteFolderStore"]:
        """Yields the folder with an empty scratch folder as its working copy, mirrored if the process writes."""
        with scratch_folder() as scratch:
            if not writes:
                yield replace(self, path=scratch)
                return
            mirror = Mirror(scratch, self._store, leave=leave, every=every, may_write=may_write)
            try:
                yield replace(self, path=scratch, mirror=mirror)
            except BaseException:
                with suppress(StorageError):
                    mirror.close()
                raise
            mirror.close()

    @contextmanager
    def temporary(self, path: Path) -> Iterator[Path]:
        """Yields a scratch folder, which is removed when the context ends."""
        with scratch_folder() as scratch:
            yield scratch

    @contextmanager
    def claim(self, record: Path, text: str, *, busy: str, log: Path, session: Session) -> Iterator[Claim]:
        """Connects, then claims the folder by a lock of the cluster; the log is uploaded when the context ends."""
        with scratch_folder() as scratch:
            local = scratch / log.name
            lock = f"claim-{hashlib.sha256(self.uri.encode()).hexdigest()}"
            with (
                session.connect(local),
                session.lock(lock, busy),
                claim_remote_folder(self._store, self._name(record), text, busy, self._name(log)) as claim,
                self._appended(local, self._name(log)),
            ):
                yield claim

    @contextmanager
    def _appended(self, local: Path, name: str) -> Iterator[None]:
        """Appends a local log to the one on the object store when the context ends."""
        try:
            yield
        except BaseException:
            with suppress(StorageError):
                self._append(local, name)
            raise
        self._append(local, name)

    def _append(self, local: Path, name: str) -> None:
        before = b""
        with suppress(*MISSING):
            before = self._store.read(name)
        if local.exists():
            self._store.write(name, before + local.read_bytes())
