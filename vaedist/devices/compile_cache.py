"""Persistent cache of compiled programs.

TensorFlow can save the programs that XLA compiles for the CPU in a folder, and loads them from there. It does not
verify them: a truncated file ends the run, and a corrupted one would be executed. This module keeps a digest beside
each program, and removes those that do not match before TensorFlow reads them. TensorFlow finds a program by the
computation; the name of the folder covers everything else that it depends on: the version of TensorFlow, the processor,
the number of threads and the compiler options.
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
ROOM_BYTES = 1 << 30  # required free disk space; without it nothing is cached, as a full disk would end the run
LOOK_SECONDS = 2.0  # between two searches for new programs
TORN_SECONDS = 3600.0  # age from which a temporary file counts as abandoned
NEW_SECONDS = 60.0  # age up to which a program may still get its digest from the process that compiled it
OPTIONS = "TF_XLA_FLAGS"
KEPT = "--tf_xla_persistent_cache_directory"


def program_bytes() -> int:
    """Returns the size limit of the cache: VAEDIST_PROGRAM_BYTES, or 1 GiB; 0 disables the cache.

    Raises:
        ConfigError: the variable is not a number.
    """
    return bytes_of(LIMIT, DEFAULT_BYTES)


def keep_programs(threads: int) -> None:
    """Makes TensorFlow cache the programs that it compiles for the CPU.

    It must be called before the first compilation. If the cache cannot be written, programs are compiled without it.

    Args:
        threads: threads for operations on the CPU, which programs are compiled for.

    Raises:
        ConfigError: the limit in the environment is not a number.
    """
    limit, given = program_bytes(), os.environ.get(OPTIONS, "")
    if KEPT in given or (given and not given.startswith("-")):  # set before, or the variable names a file of options
        return
    try:
        folder = cache_folder() / "programs" / _key(threads)
    except (OSError, RuntimeError):  # there is no home folder
        return
    if not limit or any(letter.isspace() for letter in str(folder)):  # TensorFlow would split the option at the space
        return
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder):  # fails if the folder belongs to another user
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
    """Returns the name and inode of each program that has no digest yet."""
    found = set()
    for program in folder.glob("*.pb"):
        with suppress(FileNotFoundError):
            if not _note(program).exists():
                found.add((program.name, program.stat().st_ino))
    return found


def seal(folder: Path, others: Collection[tuple[str, int]] = ()) -> None:
    """Writes the digests of new programs, which TensorFlow writes atomically.

    Args:
        folder: the folder of the programs.
        others: programs that this process did not compile, as `unsealed` returns them; they get no digest.
    """
    for name, inode in unsealed(folder):
        if (name, inode) not in others:
            with suppress(FileNotFoundError):  # another process removed it
                replace_file(_note(folder / name), _digest(folder / name))


def check(folder: Path) -> None:
    """Removes programs that do not match their digests, and marks the others as used.

    A new program without a digest stays: another process has just compiled it, and a third may be about to read it.
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
    """Removes the least recently used programs until the total size is at most `limit` bytes.

    Abandoned temporary files are removed first.
    """
    for part in programs.glob("*/*.tmp"):
        with suppress(FileNotFoundError):
            if abs(_age(part)) > TORN_SECONDS:  # negative if the clock was set back since
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
    """Returns the seconds since a file was written."""
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
    """Returns the model and features of the processor; programs for another one may not run on it."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        wanted = ("model name", "flags", "Features", "CPU part", "CPU implementer")
        return repr(sorted({line for line in lines if line.startswith(wanted)}))
    return f"{platform.machine()} {platform.processor()}"
