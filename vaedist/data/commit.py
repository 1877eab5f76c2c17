"""Folders that come into being whole or not at all."""

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.fs

from vaedist.data.filesystem import first_line
from vaedist.errors import StorageError


@contextmanager
def storage_errors(out: str) -> Iterator[None]:
    """Turn an error of the operating system, met while `out` is written, into a StorageError of one line."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise StorageError(f"cannot write {out}: {reason}") from error


def exists(filesystem: pyarrow.fs.FileSystem, path: str, out: str) -> bool:
    """Whether anything is at `path`, be it a link to nowhere; `out` names it in errors."""
    with storage_errors(out):
        if isinstance(filesystem, pyarrow.fs.LocalFileSystem):
            return os.path.lexists(path)
        return filesystem.get_file_info(path).type != pyarrow.fs.FileType.NotFound


@contextmanager
def committed_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path` to write into; one rename makes it `path`, or else it is removed.

    Raises:
        StorageError: the folder cannot be made or renamed.
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
def uploaded_folder(filesystem: pyarrow.fs.FileSystem, path: str, out: str, *, last: str) -> Iterator[Path]:
    """A local folder to write into, whose files are copied to `path` on another filesystem if all goes well.

    Other filesystems need not know renames: the file `last`, without which the others mean nothing, commits.

    Raises:
        StorageError: the files cannot be copied; what was copied is removed, as far as that goes.
    """
    with tempfile.TemporaryDirectory(prefix="vaedist-") as local:
        yield Path(local)
        try:
            with storage_errors(out):
                filesystem.create_dir(path, recursive=True)
                for file in sorted((f.name for f in Path(local).iterdir()), key=lambda name: (name == last, name)):
                    pyarrow.fs.copy_files(
                        f"{local}/{file}",
                        f"{path}/{file}",
                        source_filesystem=pyarrow.fs.LocalFileSystem(),
                        destination_filesystem=filesystem,
                    )
        except BaseException:
            with suppress(OSError):
                filesystem.delete_dir(path)
            raise


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, reach the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
