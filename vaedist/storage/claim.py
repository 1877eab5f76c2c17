"""Exclusive claims on folders, and removal of new folders in which no work began."""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Protocol

from vaedist.errors import RunError, StorageError
from vaedist.files import replace_file
from vaedist.storage.retry import MISSING
from vaedist.storage.transfer import Store


class Session(Protocol):
    """Connection to the cluster that works on a claimed folder."""

    def connect(self, log: Path) -> AbstractContextManager[None]:
        """Connects to the cluster.

        Args:
            log: local file for the output of the connection.
        """

    def lock(self, name: str, busy: str) -> AbstractContextManager[None]:
        """Holds the lock with a name on the connected cluster.

        Raises:
            RunError: another process holds it; the message is `busy`.
        """


class Claim:
    """A folder that only this process may write to.

    Args:
        write: writes the record that describes the folder, replacing an older one.
        new: True if the folder has no record yet, which is then written at once.

    Attributes:
        new: the argument.
        begun: True once the work has begun.
    """

    def __init__(self, write: Callable[[], None], *, new: bool) -> None:
        self._write, self.new, self._accepted, self.begun = write, new, False, False
        if new:
            self.accept()

    def begin(self) -> None:
        """Marks the work as begun: from now on, the folder is kept even after an error."""
        self.begun = True

    def accept(self) -> None:
        """Writes the record if that has not been done, replacing an older one.

        Raises:
            StorageError: it cannot be written.
        """
        if not self._accepted:
            self._write()
            self._accepted = True


@contextmanager
def claim_local_folder(folder: Path, record: Path, text: str, busy: str, log: Path) -> Iterator[Claim]:
    """Claims a folder on this machine's filesystem by a file lock; the folder is created if missing.

    If no work began in it, a folder that was created here is removed again, and of an older folder without a record,
    the record and the log. The lock's file stays then, as another process may wait for it.

    Args:
        folder: the folder.
        record: file in the folder that describes it.
        text: content of the record, which is written at once if there is none.
        busy: error message if another process has claimed the folder.
        log: file in the folder for the output of the session.

    Raises:
        RunError: another process has claimed the folder.
        StorageError: it cannot be written.
    """
    made, made_parent, claim = not folder.exists(), not folder.parent.exists(), None

    def write() -> None:
        try:
            replace_file(record, text)
        except OSError as error:
            raise StorageError(f"cannot write {record}: {error.strerror or error}") from error

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StorageError(f"cannot write {folder}: {error.strerror or error}") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            made = False
            raise RunError(busy) from error
        claim = Claim(write, new=not record.exists())
        yield claim
    finally:
        if made and not (claim and claim.begun):
            shutil.rmtree(folder, ignore_errors=True)
            if made_parent:
                with suppress(OSError):  # another process may have put something into it
                    folder.parent.rmdir()
        elif claim and claim.new and not claim.begun:
            with suppress(OSError):
                record.unlink(missing_ok=True)
                log.unlink(missing_ok=True)
                log.parent.rmdir()
        os.close(lock)  # which releases the lock


@contextmanager
def claim_remote_folder(store: Store, record: str, text: str, busy: str, log: str) -> Iterator[Claim]:
    """Claims a folder on an object store; the caller must hold a lock, as object stores have none.

    The lock is that of a cluster, so that a command on another one can claim the folder at the same time. Neither
    replaces the other's record or removes its files, unless both write the record at the same moment.

    If no work began, the record that was written here is removed again, and the log with it.

    Args:
        store: the folder.
        record: name of the file in the folder that describes it.
        text: content of the record, which is written at once if there is none.
        busy: error message if another process writes its record.
        log: name of the file in the folder for the output of the session.

    Raises:
        RunError: another process has written its record.
        StorageError: it cannot be read or written.
    """
    claim, new = None, _content(store, record) is None
    try:
        claim = Claim(lambda: store.write(record, text.encode()), new=new)
        if new and _content(store, record) != text.encode():
            raise RunError(busy)
        yield claim
    finally:
        if new and not (claim and claim.begun):
            with suppress(StorageError):
                _withdraw(store, record, text, log)


def _content(store: Store, name: str) -> bytes | None:
    """Returns the content of a file on an object store; None if there is no such file."""
    try:
        return store.read(name)
    except MISSING:
        return None


def _withdraw(store: Store, record: str, text: str, log: str) -> None:
    """Removes a record and a log, and with them the folder, if there is nothing of another process."""
    if _content(store, record) != text.encode():
        return
    if store.files().keys() <= {record, log}:
        store.remove_all()
    else:
        store.remove(record)
        store.remove(log)
