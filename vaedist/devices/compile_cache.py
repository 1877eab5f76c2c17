"""Compiled programs that are kept between runs, so that what was compiled once need not be again.

TensorFlow can keep in a folder what XLA compiled for a processor, and looks there first. It trusts what it finds: a
file that is cut off ends the run, one with a changed byte would run. Here each has its digest beside it, and what does
not match is removed before TensorFlow looks. A program is found again by what it computes; the folder is named by all
else that it depends on: TensorFlow, the processor, the number of threads and the compiler's options.
"""

import atexit
import hashlib
import os
import platform
import shutil
import tempfile
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

import tensorflow as tf

from vaedist.files import mark_used, replace_file
from vaedist.storage.paths import bytes_of, cache_folder

LIMIT = "VAEDIST_PROGRAM_BYTES"
DEFAULT_BYTES = 1 << 30
ROOM_BYTES = 1 << 30  # free on the disk, or nothing is kept: a full one would end the run
LOOK_SECONDS = 2.0
TORN_SECONDS = 3600.0  # after which nobody still writes a file
NEW_SECONDS = 60.0  # in which a program has its digest from the process that compiled it, if that lives
OPTIONS = "TF_XLA_FLAGS"
KEPT = "--tf_xla_persistent_cache_directory"


def program_bytes() -> int:
    """How large the kept programs may be together: VAEDIST_PROGRAM_BYTES, or 1 GiB; 0 keeps none.

    Raises:
        ConfigError: it is no number.
    """
    return bytes_of(LIMIT, DEFAULT_BYTES)


def keep_programs(threads: int) -> None:
    """Have TensorFlow keep the programs that it compiles for the CPU, and use those that it kept.

    Must come before the first one is compiled. Where the cache cannot be written, all is compiled as ever.

    Args:
        threads: for operations on the CPU; a program is compiled for their number.

    Raises:
        ConfigError: the limit in the environment is no number.
    """
    limit, given = program_bytes(), os.environ.get(OPTIONS, "")
    if KEPT in given or (given and not given.startswith("-")):  # by a call before, or by the user; or a file of options
        return
    try:
        folder = cache_folder() / "programs" / _key(threads)
    except (OSError, RuntimeError):  # there is no home
        return
    if not limit or any(letter.isspace() for letter in str(folder)):  # TensorFlow would take that for two options
        return
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder):  # it may be there, and another's
            pass
        check(folder)
        make_room(folder.parent, limit)
        if shutil.disk_usage(folder).free < ROOM_BYTES:
            return
        others = unsealed(folder)
    except OSError:
        return
    keep = f"{KEPT}={folder} --tf_xla_persistent_cache_device_types=CPU"
    os.environ[OPTIONS] = f"{given} {keep}".strip()
    threading.Thread(target=_seal_for_ever, args=(folder, others), name="programs", daemon=True).start()
    atexit.register(_seal_now, folder, others)


def unsealed(folder: Path) -> set[tuple[str, int]]:
    """Name and inode of each program that has no digest yet."""
    found = set()
    for program in folder.glob("*.pb"):
        with suppress(FileNotFoundError):
            if not _note(program).exists():
                found.add((program.name, program.stat().st_ino))
    return found


def seal(folder: Path, others: Collection[tuple[str, int]] = ()) -> None:
    """Put digests beside new programs, which TensorFlow puts into their place whole.

    Args:
        folder: of the programs.
        others: that are not this process's to vouch for, as `unsealed` tells them.
    """
    for name, inode in unsealed(folder):
        if (name, inode) not in others:
            with suppress(FileNotFoundError):  # another process removed it
                replace_file(_note(folder / name), _digest(folder / name))


def check(folder: Path) -> None:
    """Remove programs that are not as they were compiled, and mark the others as in use.

    One without a digest that is new stays: another process has just compiled it, and a third may be about to read it.
    """
    for program in folder.glob("*.pb"):
        with suppress(FileNotFoundError):
            note = _note(program)
            if not note.exists():
                if not 0 <= _age(program) <= NEW_SECONDS:
                    _remove(program)
            elif note.read_bytes() != _digest(program).encode():
                _remove(program)
            else:
                mark_used(program, folder.parent / ".newest")


def make_room(programs: Path, limit: int) -> None:
    """Remove the programs that were used longest ago until all together are no larger than `limit` bytes.

    What is left of those that were not written to the end goes first.
    """
    for part in programs.glob("*/*.tmp"):
        with suppress(FileNotFoundError):
            if abs(_age(part)) > TORN_SECONDS:  # of the future: the clock was set back since
                part.unlink()
    found = []
    for program in programs.glob("*/*.pb"):
        with suppress(FileNotFoundError):
            status = program.stat()
            found.append((status.st_mtime, status.st_size, program))
    total = sum(size for _, size, _ in found)
    for _, size, program in sorted(found):
        if total <= limit:
            return
        _remove(program)
        total -= size


def _remove(program: Path) -> None:
    _note(program).unlink(missing_ok=True)
    program.unlink(missing_ok=True)


def _age(path: Path) -> float:
    """Seconds since it was written."""
    return time.time() - path.stat().st_mtime


def _note(program: Path) -> Path:
    return program.with_suffix(".sha256")


def _digest(program: Path) -> str:
    with program.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _seal_for_ever(folder: Path, others: Collection[tuple[str, int]]) -> None:
    while True:
        time.sleep(LOOK_SECONDS)
        _seal_now(folder, others)


def _seal_now(folder: Path, others: Collection[tuple[str, int]]) -> None:
    with suppress(OSError):
        seal(folder, others)


def _key(threads: int) -> str:
    parts = (tf.__version__, _processor(), str(threads), os.environ.get("XLA_FLAGS"), os.environ.get(OPTIONS))
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _processor() -> str:
    """The processor and all that it can do; a program for another may not run on it."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        wanted = ("model name", "flags", "Features", "CPU part", "CPU implementer")
        return repr(sorted({line for line in lines if line.startswith(wanted)}))
    return f"{platform.machine()} {platform.processor()}"
