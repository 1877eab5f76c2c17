"""Text stream for progress output, which drops text that cannot be written instead of raising an error."""

import io
from collections.abc import Callable
from typing import IO, Any, cast


def lossy(stream: IO[str]) -> IO[str]:
    """Returns a stream that forwards text to another one, and drops text that cannot be written."""
    return cast("IO[str]", LossyStream(stream))


class LossyStream(io.TextIOBase):
    """Forwards text to another stream, and ignores errors.

    Writing fails if a pipe has no reader, the terminal was closed or the disk is full. Every write is tried
    nevertheless, as later ones may succeed, for example when there is space on the disk again. Characters that the
    stream's encoding lacks are replaced.

    Args:
        stream: the underlying stream; it is not closed.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Encoding of the underlying stream."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def writable(self) -> bool:
        """Returns True."""
        return True

    def isatty(self) -> bool:
        """Returns True if the underlying stream is a terminal."""
        return bool(self._tried(self._stream.isatty))

    def fileno(self) -> int:
        """Returns the file descriptor of the underlying stream."""
        return self._stream.fileno()

    def write(self, text: str) -> int:
        """Writes text, or drops it; returns its length."""
        try:
            self._tried(lambda: self._stream.write(text))
        except UnicodeEncodeError:
            shown = text.encode(self.encoding, "replace").decode(self.encoding)
            self._tried(lambda: self._stream.write(shown))
        return len(text)

    def flush(self) -> None:
        """Flushes the underlying stream, ignoring errors."""
        self._tried(self._stream.flush)

    @staticmethod
    def _tried(do: Callable[[], object]) -> object:
        try:
            return do()
        except (OSError, RuntimeError):  # RuntimeError: reentrant write from a signal handler
            return None
