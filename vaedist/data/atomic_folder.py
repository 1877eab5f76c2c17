"""Atomic creation of folders, local or on an object store."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa

from vaedist.errors import StorageError
from vaedist.storage.filesystem import first_line
from vaedist.storage.scratch import scratch_folder
from vaedist.storage.transfer import Store


@contextmanager
def storage_errors(out: str) -> Iterator[None]:
    """Turns operating system errors while `out` is written into a StorageError with a one-line message."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise StorageError(f"cannot write {out}: {reason}") from error


@contextmanager
def committed_folder(path: Path) -> Iterator[Path]:
    """Yields a temporary folder beside `path`, which is renamed to `path` at the end, or removed after an error.

    Raises:
        StorageError: the folder cannot be created or renamed.
    """
    beside = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
    with storage_errors(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.mkdir()
    try:
        yield beside
        with storage_errors(str(path)):
            sync(beside)
            beside.rename(path)
            sync(path.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


@contextmanager
def uploaded_folder(store: Store, *, last: str) -> Iterator[Path]:
    """Yields a local folder whose files are uploaded to an object store at the end, unless an error occurs.

    Object stores have no atomic rename. Instead, the file `last`, without which the others do not count, is uploaded
    last.

    Raises:
        StorageError: a file cannot be uploaded; files that were uploaded before are removed if possible.
    """
    with scratch_folder() as local:
        yield local
        try:
            for name in sorted((f.name for f in local.iterdir()), key=lambda name: (name == last, name)):
                store.upload(local / name, name)
        except BaseException:
            with suppress(OSError):
                store.filesystem.delete_dir(store.path)
            raise


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, reach the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
