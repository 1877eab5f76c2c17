"""Files that come into being whole or not at all, and names and paths as they are told."""

import os
import time
import unicodedata
from pathlib import Path

USE_NS = 1_000_000  # between two marks of `mark_used` while the clock is behind the first


def replace_file(path: Path, content: bytes | str) -> None:
    """Put a file in the place of what was there, by one rename; missing folders are made.

    It is on the disk before it is renamed, so that after a crash there is either the old file or the new one.

    Args:
        path: the file.
        content: text is written as UTF-8.

    Raises:
        OSError: it cannot be written; what was there stays as it was, and nothing is left beside it.
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


def mark_used(path: Path | int, newest: Path) -> None:
    """Sets a file's time to that of its last use, by which the least recently used one is found.

    That is now, or just after the last mark where the clock has been set back since: what is used later has the later
    time, whatever the clock says.

    Args:
        path: the file, or an open descriptor of it.
        newest: a file that keeps the last mark as its own time; made when missing, one for all files that are compared.

    Raises:
        OSError: it cannot be written.
    """
    descriptor = os.open(newest, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        stamp = max(time.time_ns(), os.fstat(descriptor).st_mtime_ns + USE_NS)
        os.utime(descriptor, ns=(stamp, stamp))
        os.utime(path, ns=(stamp, stamp))
    finally:
        os.close(descriptor)


def display_path(path: Path) -> str:
    """Returns a path for messages, relative to the current folder if it is below that."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def readable(name: str) -> str:
    r"""Returns a file's name as text that a file, a terminal and TensorBoard can hold.

    Bytes that are not UTF-8 are escaped as in ``caf\xe9``, and control characters as in ``a\nb``.
    """
    return "".join(escaped(c) if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c for c in name)


def escaped(character: str) -> str:
    r"""Returns a character in ASCII, as in ``\xe9`` or ``\u20ac``; a byte that is not UTF-8 as that byte."""
    if "\udc80" <= character <= "\udcff":  # how Python holds a byte that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def is_undecoded(name: str) -> bool:
    """Returns whether a name that the operating system gave holds bytes that are not UTF-8."""
    return any("\udc80" <= character <= "\udcff" for character in name)
