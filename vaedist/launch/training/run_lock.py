"""A folder that one process at a time works on, and that is not left behind by one which never began."""

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray

from vaedist.errors import RunError, StorageError
from vaedist.files import replace_file
from vaedist.storage.transfer import Store

NAMESPACE = "vaedist"
GIVEN_UP_SECONDS = 5.0  # for Ray to notice that a claim's owner is gone


class Claim:
    """A folder that this process owns.

    Args:
        write: writes the record that says what the folder is, in the place of what was there.
        new: the folder has no record yet: it is written at once.
    """

    def __init__(self, write: Callable[[], None], *, new: bool) -> None:
        self._write, self._accepted, self.begun = write, False, False
        if new:
            self.accept()

    def begin(self) -> None:
        """The work is really begun: the folder stays, whatever becomes of it."""
        self.begun = True

    def accept(self) -> None:
        """The work goes on as the new record says: only now does it take the place of an older one.

        Raises:
            StorageError: it cannot be written.
        """
        if not self._accepted:
            self._write()
            self._accepted = True


@contextmanager
def claimed(folder: Path, record: Path, text: str, busy: str) -> Iterator[Claim]:
    """Own a folder, made when missing.

    A folder that was made here and not begun is removed again.

    Args:
        folder: is locked for other processes.
        record: a file in it that says what the folder is.
        text: of the record, which is written at once where there is none.
        busy: said of a folder that another process owns.

    Yields:
        the claim, to be told when the work is begun and when it is accepted.

    Raises:
        RunError: another process owns the folder.
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
                with suppress(OSError):  # somebody else's may be in it by now
                    folder.parent.rmdir()
        os.close(lock)  # and with it the lock


@contextmanager
def claimed_on_store(store: Store, record: str, text: str, busy: str) -> Iterator[Claim]:
    """Own a folder of a store, as far as the connected Ray cluster goes: stores know no locks.

    The owner is a named actor, which ends with the process that made it. A folder in which nothing was, and whose work
    was not begun, is removed again.

    Args:
        store: the folder.
        record: a file in it that says what the folder is.
        text: of the record, which is written at once where there is none.
        busy: said of a folder that somebody else on the cluster owns.

    Yields:
        the claim, to be told when the work is begun and when it is accepted.

    Raises:
        RunError: somebody else owns the folder.
        StorageError: it cannot be written.
    """
    owner = _owner(f"claim-{hashlib.sha256(store.uri.encode()).hexdigest()}", busy)
    claim, made = None, False
    try:
        known = store.files()
        made = not known
        claim = Claim(lambda: store.write(record, text.encode()), new=record not in known)
        yield claim
    finally:
        if made and not (claim and claim.begun):
            with suppress(StorageError):
                store.remove_all()
        ray.kill(owner)


def _owner(name: str, busy: str) -> Any:
    """An actor of a name that nobody else on the cluster has."""
    deadline = time.monotonic() + GIVEN_UP_SECONDS
    while True:
        try:
            return ray.remote(_Owner).options(name=name, namespace=NAMESPACE, num_cpus=0).remote()
        except ValueError as error:
            if time.monotonic() > deadline:
                raise RunError(busy) from error
            time.sleep(0.5)


class _Owner:
    """Is there as long as the process that made it."""
