"""Standard output and error streams that can print any character and report errors distinctly.

Characters that the terminal's encoding lacks are escaped, as are the bytes of names that are not UTF-8. If stdout
cannot be written, as on a full disk or to a closed pipe, `OutputError` is raised. Errors on stderr are ignored.
"""

import codecs
import errno
import io
import os
import sys
from typing import TextIO

from vaedist.errors import StorageError
from vaedist.files import escaped

ESCAPING = "vaedist.escaping"  # error handler of text streams
CLOSED_PIPE = 128 + 13  # a shell's exit code for a command that was ended by SIGPIPE


class OutputError(StorageError):
    """Stdout cannot be written.

    Attributes:
        closed: True if the reader of a pipe has closed it, as `head` does, which is no fault.
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(f"cannot write to stdout: {error.strerror or error}")
        self.closed = error.errno == errno.EPIPE


class _Stdout(io.TextIOWrapper):
    """Stdout, whose errors become `OutputError`, to distinguish them from those of other files.

    The error is converted here, not in a raw stream written in Python: if a signal handler raised an exception there,
    the buffer would be written a second time.
    """

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            raise OutputError(error) from error

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            raise OutputError(error) from error


class _Stderr(io.TextIOWrapper):
    """Stderr, or a copy of it; output that cannot be written is dropped, and later output is tried again."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError:
            self._lose()
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError:
            self._lose()

    def _lose(self) -> None:
        """Empties the buffer; otherwise Python would try to write it again at exit, and fail."""
        kept = os.dup(self.fileno())
        _discard(self.fileno())
        super().flush()
        os.dup2(kept, self.fileno())
        os.close(kept)


def open_streams() -> None:
    """Replaces stdout and stderr by the streams of this module, and opens closed standard streams on /dev/null.

    Otherwise the next file to be opened would get the descriptor of a closed stream, and receive printed text. Streams
    that do not belong to the process, as in tests, are left unchanged.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, "w" if descriptor else "r", closefd=False))
    if _is_own(sys.stdout, 1):
        sys.stdout = _opened(_Stdout, 1, sys.stdout)
    if _is_own(sys.stderr, 2):
        sys.stderr = _opened(_Stderr, 2, sys.stderr)


def stderr_copy() -> TextIO:
    """Returns a stream on a copy of stderr's descriptor, which is unaffected when stderr is redirected."""
    return _opened(_Stderr, os.dup(2), sys.stderr, closefd=True)


def finish_stdout() -> None:
    """Flushes stdout.

    Raises:
        OutputError: stdout cannot be written.
    """
    sys.stdout.flush()


def give_up_stdout() -> None:
    """Discards the buffered output of stdout, and all further output."""
    _discard(1)


def _discard(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _opened(kind: type[io.TextIOWrapper], descriptor: int, like: TextIO, *, closefd: bool = False) -> TextIO:
    """Returns a text stream with the encoding of another, line-buffered if it is a terminal or stderr."""
    raw = io.FileIO(descriptor, "w", closefd=closefd)
    encoding = getattr(like, "encoding", None) or "utf-8"
    return kind(io.BufferedWriter(raw), encoding, ESCAPING, line_buffering=raw.isatty() or kind is _Stderr)


def _is_own(stream: TextIO, descriptor: int) -> bool:
    try:
        return isinstance(stream, io.TextIOWrapper) and stream.fileno() == descriptor
    except (OSError, ValueError):
        return False


def _escape(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(escaped, error.object[error.start : error.end])), error.end


codecs.register_error(ESCAPING, _escape)
