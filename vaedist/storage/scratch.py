"""Temporary folders, which are removed even if their process is killed."""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vaedist.errors import StorageError

PREFIX = "vaedist-scratch-"
YOUNG_SECONDS = 60.0  # a folder of this age may not be locked yet


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Gives a temporary folder, which is locked while it is used and removed afterwards.

    Folders that killed processes have left are removed too.

    Raises:
        StorageError: it cannot be made.
    """
    _remove_abandoned(Path(tempfile.gettempdir()))
    try:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        lock = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise StorageError(f"cannot make a temporary folder: {error.strerror or error}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _remove_abandoned(parent: Path) -> None:
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):  # another user's, in use, or removed meanwhile
            if abs(time.time() - folder.stat().st_mtime) < YOUNG_SECONDS:  # of the future: the clock was set back since
                continue
            lock = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
