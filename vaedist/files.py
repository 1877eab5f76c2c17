"""Atomic writes of files and folders, and readable names and paths."""

import os
import re
import secrets
import shutil
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

USE_NS = 1_000_000  # least time between two marks of `mark_used`, for a clock that was set back


def replace_file(path: Path, content: bytes | str) -> None:
    """Writes a file atomically, by a rename; missing parent folders are created.

    The content is synced to disk before the rename, so that after a crash either the old or the new file exists.

    Args:
        path: the file.
        content: text is written as UTF-8.

    Raises:
        OSError: the file cannot be written; the old file is unchanged, and no temporary file is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def unfinished(name: str) -> str | None:
    """Returns the name of the file that `replace_file` wrote under this temporary name; None for other names."""
    found = re.fullmatch(r"\.(.+)\.\d+", name)
    return found[1] if found else None


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yields a temporary folder beside `path`, which is renamed to `path` at the end, or removed after an error.

    The names in it are synced to disk before the rename; its files are up to the caller.

    Raises:
        OSError: the folder cannot be created or renamed, for example because `path` is a file or a non-empty folder.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    beside.mkdir()
    try:
        yield beside
        sync(beside)
        beside.rename(path)
        sync(path.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def sync(path: Path) -> None:
    """Syncs a file, or the names in a folder, to disk.

    Raises:
        OSError: that failed.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def mark_used(path: Path | int, newest: Path) -> None:
    """Sets a file's modification time to now, to record its use in a least-recently-used order.

    If the clock was set back since the last mark, the time is just after that mark: later uses always have later times.

    Args:
        path: the file, or an open descriptor of it.
        newest: a file that keeps the last mark as its own time; created if missing, and shared by all files that are
            compared.

    Raises:
        OSError: a file cannot be written.
    """
    descriptor = os.open(newest, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        stamp = max(time.time_ns(), os.fstat(descriptor).st_mtime_ns + USE_NS)
        os.utime(descriptor, ns=(stamp, stamp))
        os.utime(path, ns=(stamp, stamp))
    finally:
        os.close(descriptor)


def display_path(path: Path) -> str:
    """Returns a path for messages, relative to the current folder if the path is below it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def readable(name: str) -> str:
    r"""Returns a file's name as text that a file, a terminal and TensorBoard can display.

    Bytes that are not UTF-8 are escaped as in ``caf\xe9``, and control characters as in ``a\nb``.
    """
    return "".join(escaped(c) if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c for c in name)


def escaped(character: str) -> str:
    r"""Returns a character in ASCII, as in ``\xe9`` or ``\u20ac``; a byte that is not UTF-8 as that byte."""
    if "\udc80" <= character <= "\udcff":  # Python's representation of a byte that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def is_undecoded(name: str) -> bool:
    """Returns True if a name from the operating system contains bytes that are not UTF-8."""
    return any("\udc80" <= character <= "\udcff" for character in name)
