"""Atomic creation of folders, local or on an object store."""

import secrets
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pyarrow as pa
from pyarrow.fs import FileSelector, FileType

from vaedist.errors import RunError, StorageError
from vaedist.files import new_folder
from vaedist.storage.filesystem import first_line
from vaedist.storage.scratch import scratch_folder
from vaedist.storage.transfer import Store

CLAIM = ".uploading-"  # followed by a random number


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
    last. Meanwhile, the folder holds a claim, a file that makes other commands refuse it. If this process is killed,
    the claim and the files that were uploaded before stay.

    Raises:
        RunError: there are files in the folder, such as the claim of another process.
        StorageError: a file cannot be uploaded; those that were uploaded before are removed if possible.
    """
    with scratch_folder() as local:
        uploaded: list[str] = []
        with _claim(store, uploaded):
            yield local
            names = (file.relative_to(local).as_posix() for file in local.rglob("*") if file.is_file())
            for name in sorted(names, key=lambda name: (name == last, name)):
                uploaded.append(name)
                store.upload(local / name, name)


@contextmanager
def _claim(store: Store, uploaded: Collection[str]) -> Iterator[None]:
    """Claims an empty folder within the context; after an error, removes the uploaded files and no others.

    Object stores cannot create a file only if there is none. Each process therefore writes a claim of its own, and then
    lists the folder: of two processes, at least one sees the claim of the other, and gives up.
    """
    claim = f"{CLAIM}{secrets.token_hex(8)}"
    try:
        store.write(claim, b"")
        _require_alone(store, claim)
        yield
    except BaseException:
        with suppress(OSError, pa.ArrowException):
            _remove(store, [*uploaded, claim])
        raise
    with suppress(StorageError):  # which is not worth failing: the folder is complete
        store.remove(claim)


def _require_alone(store: Store, claim: str) -> None:
    others = store.files().keys() - {claim}
    if any(name.startswith(CLAIM) for name in others):
        raise RunError(
            f"{store.uri} is being written by another process, or was left incomplete by one that was killed: choose "
            "another output, or remove it"
        )
    if others:
        raise RunError(f"{store.uri} is not empty: choose another output, or remove it")


def _remove(store: Store, names: Sequence[str]) -> None:
    """Removes files, in this order and without retries, and then the folder unless there are others in it."""
    for name in names:
        with suppress(FileNotFoundError):
            store.filesystem.delete_file(f"{store.path}/{name}")
    selector = FileSelector(store.path, recursive=True, allow_not_found=True)
    if all(info.type != FileType.File for info in store.filesystem.get_file_info(selector)):
        store.filesystem.delete_dir(store.path)  # which object stores keep as an empty file
