"""Cache of files with known digests, which are downloaded once per machine and shared by its processes.

An entry is a file named after its SHA-256, committed by a rename. Each entry has a lock file: a process that uses the
entry holds a shared lock, a process that downloads or removes it an exclusive lock.
"""

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from vaedist.errors import DataError, StorageError
from vaedist.files import mark_used
from vaedist.storage.filesystem import BLOCK
from vaedist.storage.retry import MISSING, patiently
from vaedist.storage.transfer import Store


@dataclass(frozen=True)
class Entry:
    """A cached file, which is not removed until `release` is called or the process ends."""

    path: Path
    _lock: int

    def release(self) -> None:
        """Releases the lock, so that the entry may be removed; memory maps of it stay valid."""
        os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class FileCache:
    """A folder of cached files whose total size is limited.

    Args:
        folder: the folder, created if missing, readable by its owner only.
        limit: maximum total size in bytes; the least recently used entries are removed to make room for new ones.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit

    def fetch(self, store: Store, name: str, *, sha256: str, size: int) -> Entry:
        """Returns an entry, after downloading it if necessary, or waiting for another process that downloads it.

        Args:
            store: folder that contains the file.
            name: name of the file in the folder.
            sha256: digest of the file, 64 hexadecimal digits.
            size: size in bytes.

        Raises:
            DataError: the file is missing or has another digest, or the entries in use leave no room for it.
            StorageError: the object store does not respond, or the cache cannot be written.
        """
        path = self.folder / sha256
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = os.open(self.folder / f"{sha256}.lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                while not self._use(path, lock, size):
                    fcntl.flock(lock, fcntl.LOCK_EX)
                    if not _whole(path, size):
                        self._get(store, name, path, sha256, size)
            except BaseException:
                os.close(lock)
                raise
        except MISSING as error:
            raise DataError(f"{store.uri_of(name)} is missing") from error
        except OSError as error:
            raise StorageError(f"cannot write the cache {self.folder}: {error.strerror or error}") from error
        return Entry(path, lock)

    def _use(self, path: Path, lock: int, size: int) -> bool:
        """Takes a shared lock on an entry; returns True if the entry exists."""
        fcntl.flock(lock, fcntl.LOCK_SH)  # downgrading a lock is not atomic: the entry may be removed in between
        if not _whole(path, size):
            return False
        mark_used(lock, self.folder / ".newest")
        return True

    def _get(self, store: Store, name: str, path: Path, sha256: str, size: int) -> None:
        """Downloads a file, under an exclusive lock."""
        part = path.with_suffix(".part")
        uri = store.uri_of(name)

        def fetch() -> str:
            digest = hashlib.sha256()
            with store.filesystem.open_input_stream(f"{store.path}/{name}") as source, part.open("r+b") as sink:
                while block := source.read(BLOCK):
                    digest.update(block)
                    if sink.tell() + len(block) > size:
                        raise DataError(f"{uri} is damaged: it is larger than the {size} bytes that were written")
                    sink.write(block)
            return digest.hexdigest()

        try:
            self._make_room(part, size)
            found = patiently(fetch, f"read {uri}", seconds=store.seconds, notify=store.notify)
            if found != sha256:
                raise DataError(f"{uri} is damaged: its SHA-256 is {found[:12]}..., not {sha256[:12]}...")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    def _make_room(self, part: Path, size: int) -> None:
        """Removes entries until `size` more bytes fit, and reserves them."""
        with self._exclusive():
            part.unlink(missing_ok=True)
            files = {file: file.stat() for file in self.folder.iterdir() if _counts(file)}
            total = sum(status.st_size for status in files.values())
            for file in sorted(files, key=_last_used):
                if total + size > self.limit and _removed(file):
                    total -= files[file].st_size
            if total + size > self.limit:
                raise DataError(
                    f"the cache {self.folder} has no room: {total:,} bytes are in use, {size:,} more are needed, and "
                    f"VAEDIST_CACHE_BYTES allows {self.limit:,}"
                )
            if size > shutil.disk_usage(self.folder).free:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            with part.open("wb") as reserved:
                reserved.truncate(size)  # so that other processes count it

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Prevents other processes from making room at the same time."""
        lock = os.open(self.folder / ".room", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def _whole(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _counts(file: Path) -> bool:
    return not file.name.startswith(".") and file.suffix in ("", ".part")


def _last_used(file: Path) -> float:
    lock = file.with_suffix(".lock")
    return lock.stat().st_mtime if lock.exists() else 0.0


def _removed(file: Path) -> bool:
    """Removes an entry or an unfinished download unless a process holds its lock; returns True if it was removed."""
    lock = os.open(file.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        file.unlink(missing_ok=True)
        return True
    finally:
        os.close(lock)
