"""Compiled programs that are kept between runs, so that what was compiled once need not be again.

TensorFlow can keep in a folder what XLA compiled for a processor, and looks there first. It trusts what it finds: a
file that is cut off ends the run, one with a changed byte would run. Here each has its digest beside it, and what does
not match is removed before TensorFlow looks. A program is found again by what it computes; the folder is named by all
else that it depends on: TensorFlow, the processor, the number of threads and the compiler's options.
"""

import hashlib
import os
import platform
import shutil
import threading
import time
from contextlib import suppress
from pathlib import Path

import tensorflow as tf

from vaedist.files import replace_file
from vaedist.storage.place import bytes_of, cache_folder

LIMIT = "VAEDIST_PROGRAM_BYTES"
DEFAULT_BYTES = 256 << 20
ROOM_BYTES = 1 << 30  # free on the disk, or nothing is kept: a full one would end the run
LOOK_SECONDS = 2.0
NEW_SECONDS = 60.0  # in which a program has its digest from the process that compiled it, if that lives
OPTIONS = "TF_XLA_FLAGS"
KEPT = "--tf_xla_persistent_cache_directory"


def program_bytes() -> int:
    """How large the kept programs may be together: VAEDIST_PROGRAM_BYTES, or 256 MiB; 0 keeps none.

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
    limit = program_bytes()
    if KEPT in os.environ.get(OPTIONS, ""):  # by a call before, or by the user
        return
    folder = cache_folder() / "programs" / _key(threads)
    if not limit or any(letter.isspace() for letter in str(folder)):  # TensorFlow would take that for two options
        return
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        remove_unknown(folder)
        make_room(folder.parent, limit)
        if shutil.disk_usage(folder).free < ROOM_BYTES:
            return
    except OSError:
        return
    keep = f"{KEPT}={folder} --tf_xla_persistent_cache_device_types=CPU"
    os.environ[OPTIONS] = f"{os.environ.get(OPTIONS, '')} {keep}".strip()
    threading.Thread(target=_seal_for_ever, args=(folder,), name="programs", daemon=True).start()


def seal(folder: Path) -> None:
    """Put digests beside new programs, which TensorFlow puts into their place whole."""
    for program in folder.glob("*.pb"):
        note = _note(program)
        if not note.exists():
            with suppress(FileNotFoundError):  # another process removed it
                replace_file(note, _digest(program))


def remove_unknown(folder: Path) -> None:
    """Remove programs that are not as they were compiled, and what is left of those that were not written to the end.

    One without a digest that is new stays: another process has just compiled it, and a third may be about to read it.
    """
    for program in folder.glob("*.pb"):
        with suppress(FileNotFoundError):
            note = _note(program)
            known = note.exists()
            if (known and note.read_text() != _digest(program)) or (not known and _age(program) > NEW_SECONDS):
                _remove(program)
    for part in folder.glob("*.tmp"):
        with suppress(FileNotFoundError):
            if _age(part) > 3600:
                part.unlink()


def make_room(programs: Path, limit: int) -> None:
    """Remove the oldest programs until all together are no larger than `limit` bytes."""
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


def _seal_for_ever(folder: Path) -> None:
    while True:
        time.sleep(LOOK_SECONDS)
        with suppress(OSError):
            seal(folder)


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
