"""Atomic creation of folders, local or on an object store."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pyarrow as pa

from vaedist.errors import StorageError
from vaedist.files import new_folder
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
    """Yields a temporary folder that becomes `path` at the end, see `new_folder`.

    Raises:
        StorageError: the folder cannot be created or renamed.
    """
    with ExitStack() as stack:
        with storage_errors(str(path)):
            beside = stack.enter_context(new_folder(path))
        yield beside
        with storage_errors(str(path)):
            stack.close()


@contextmanager
def uploaded_folder(store: Store, *, last: str) -> Iterator[Path]:
    """Yields a local folder whose files, at any depth, are uploaded to an object store unless an error occurs.

    Object stores have no atomic rename. Instead, the file `last`, without which the others do not count, is uploaded
    last.

    Raises:
        StorageError: a file cannot be uploaded; files that were uploaded before are removed if possible.
    """
    with scratch_folder() as local:
        yield local
        try:
            names = (file.relative_to(local).as_posix() for file in local.rglob("*") if file.is_file())
            for name in sorted(names, key=lambda name: (name == last, name)):
                store.upload(local / name, name)
        except BaseException:
            with suppress(OSError):
                store.filesystem.delete_dir(store.path)
            raise
