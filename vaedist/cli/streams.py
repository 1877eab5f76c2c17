"""Standard output and error as commands write to them: every character can be shown, and a fault has a name.

What the terminal's encoding lacks is escaped, as bytes of names that are not UTF-8 are. Where stdout can no longer be
written, as on a full disk or in a pipe that was closed, `OutputError` is raised. Losing stderr ends no command.
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
CLOSED_PIPE = 128 + 13  # exit code of a command that SIGPIPE ended, as shells have it


class OutputError(StorageError):
    """Nothing more can be written to stdout.

    closed: the reader of a pipe is gone, as after `| head`, which is no fault.
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(f"cannot write to stdout: {error.strerror or error}")
        self.closed = error.errno == errno.EPIPE


class _Stdout(io.TextIOWrapper):
    """Stdout, whose faults are told from those of other files.

    The fault is named here and not in a raw stream of Python's own: a signal's handler that raises there would have the
    buffer written a second time.
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
    """Stderr, or a copy of it, on which what cannot be written is lost; what comes later is tried again."""

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
        """Empties the buffer, which Python would else try to write again at the end, and fail."""
        kept = os.dup(self.fileno())
        _discard(self.fileno())
        super().flush()
        os.dup2(kept, self.fileno())
        os.close(kept)


def open_streams() -> None:
    """Opens stdout and stderr anew, as this module says, and on nothing what the command got closed.

    Else the next file that is opened would be in its place, and take what is printed. Streams that are not the
    process's own, as in tests, are left alone.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest that is free
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, "w" if descriptor else "r", closefd=False))
    if _is_own(sys.stdout, 1):
        sys.stdout = _opened(_Stdout, 1, sys.stdout)
    if _is_own(sys.stderr, 2):
        sys.stderr = _opened(_Stderr, 2, sys.stderr)


def stderr_copy() -> TextIO:
    """Returns a stream on a copy of stderr's descriptor, which stays when stderr itself is sent elsewhere."""
    return _opened(_Stderr, os.dup(2), sys.stderr, closefd=True)


def finish_stdout() -> None:
    """Writes what is left in stdout's buffer.

    Raises:
        OutputError: it cannot be written.
    """
    sys.stdout.flush()


def give_up_stdout() -> None:
    """Sends what is left in stdout's buffer, and all that follows, nowhere."""
    _discard(1)


def _discard(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _opened(kind: type[io.TextIOWrapper], descriptor: int, like: TextIO, *, closefd: bool = False) -> TextIO:
    """A text stream with the encoding of another, by lines where it is a terminal or stderr."""
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
