"""Files that come into being whole or not at all, and names and paths as they are told."""

import os
import unicodedata
from pathlib import Path


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


def told_path(path: Path) -> str:
    """A path from the current folder, where it is below that; else from the root."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def readable(name: str) -> str:
    r"""Returns a file's name as text that a file, a terminal and TensorBoard can hold.

    Bytes that are not UTF-8 are escaped as in ``caf\xe9``, and control characters as in ``a\nb``.
    """
    return "".join(_escaped(c) if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c for c in name)


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # how Python holds a byte that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
