"""Temporary folders, which are eventually removed even if their process is killed."""

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
YOUNG_SECONDS = 60.0  # a younger folder may not be locked yet


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yields a temporary folder, which is locked during use and removed afterwards.

    Folders of killed processes are removed, too.

    Raises:
        StorageError: the folder cannot be created.
    """
    _remove_abandoned(Path(tempfile.gettempdir()))
    try:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        lock = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise StorageError(f"cannot create a temporary folder: {error.strerror or error}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _remove_abandoned(parent: Path) -> None:
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):  # another user's, in use, or removed in the meantime
            if abs(time.time() - folder.stat().st_mtime) < YOUNG_SECONDS:  # abs: the clock may have been set back
                continue
            lock = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
