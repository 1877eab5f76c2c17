"""Sends the output of Ray and TensorFlow to a log file instead of the terminal."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vaedist.errors import StorageError

# The program of the process that waits for the end of another; it writes nothing if it reads a byte before the end.
REPORT = """
import os, sys
if not os.read(0, 1):
    os.write(2, (("\\x1b[?25h\\n" if os.isatty(2) else "") + sys.argv[1] + "\\n").encode(errors="surrogateescape"))
"""
RESUMABLE = "--resume, in Python resume=True, continues from the newest checkpoint"
ENDED = "error: the command was ended by Ray, which failed, or by the system"


@contextmanager
def output_to(path: Path, *, advice: str = "") -> Iterator[None]:
    """Redirects the output of this process and its children to the end of a file within the context.

    It redirects the file descriptors 1 and 2, to which the C++ parts of Ray and TensorFlow print, and `sys.stdout` and
    `sys.stderr`. To print to the terminal within the context, use a stream on a copy of a descriptor. If the process is
    ended within the context, this is reported on the terminal, as what the file has of it would go unseen.

    Args:
        path: the file.
        advice: what to do if the process is ended, for the report.

    Raises:
        StorageError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # It stays open: loggers that are created within the context keep it, and may write when the process ends.
        log = path.open("a", buffering=1, encoding="utf-8", errors="replace")
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
    streams = sys.stdout, sys.stderr
    for stream in streams:
        stream.flush()
    saved = os.dup(1), os.dup(2)
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    sys.stdout = sys.stderr = log
    try:
        with _end_reported("; ".join(filter(None, (ENDED, advice))), saved[1]):
            yield
    finally:
        with suppress(OSError):  # the disk of the log is full, which must not fail the command
            log.flush()
        sys.stdout, sys.stderr = streams
        for descriptor, copy in zip((1, 2), saved, strict=True):
            os.dup2(copy, descriptor)
            os.close(copy)


@contextmanager
def _end_reported(text: str, descriptor: int) -> Iterator[None]:
    """Writes a text to a file descriptor if this process is ended within the context.

    Ray's C++ code ends a process that has lost its node or its head without an exception, and without running any more
    of its Python code. So does the system if memory runs out. Therefore another process waits for it.
    """
    reading, writing = os.pipe()
    watcher = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", REPORT, text],
        stdin=reading,
        stdout=subprocess.DEVNULL,
        stderr=descriptor,
        start_new_session=True,  # Ctrl-C is for this process alone
    )
    os.close(reading)
    try:
        yield
    finally:
        with suppress(OSError):  # the watcher was ended
            os.write(writing, b"x")
        os.close(writing)
        watcher.wait()
