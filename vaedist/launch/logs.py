"""Sends the output of Ray and TensorFlow to a log file instead of the terminal."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vaedist.errors import StorageError


@contextmanager
def output_to(path: Path) -> Iterator[None]:
    """Redirects the output of this process and its children to the end of a file within the context.

    It redirects the file descriptors 1 and 2, to which the C++ parts of Ray and TensorFlow print, and `sys.stdout` and
    `sys.stderr`. To print to the terminal within the context, use a stream on a copy of a descriptor.
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
        yield
    finally:
        with suppress(OSError):  # the disk of the log is full, which must not fail the command
            log.flush()
        sys.stdout, sys.stderr = streams
        for descriptor, copy in zip((1, 2), saved, strict=True):
            os.dup2(copy, descriptor)
            os.close(copy)
