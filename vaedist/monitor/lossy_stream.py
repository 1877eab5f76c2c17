"""A text stream for what is shown of a training: what cannot be written is lost, and nothing else is."""

import io
from collections.abc import Callable
from typing import IO, Any, cast


def lossy(stream: IO[str]) -> IO[str]:
    """Returns a stream that passes text on to another one, and loses what that does not take."""
    return cast("IO[str]", LossyStream(stream))


class LossyStream(io.TextIOBase):
    """Passes text on to another stream for as long as that takes it.

    A pipe whose reader is gone, a terminal that was closed and a full disk all refuse what is written. Somebody may be
    able to read again later, as when there is room on the disk, so that each text is tried. Characters that the
    stream's encoding lacks are replaced.

    Args:
        stream: where to write; it is not closed.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the stream behind it."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def writable(self) -> bool:
        """Returns True."""
        return True

    def isatty(self) -> bool:
        """Returns True if the stream behind it is a terminal."""
        return bool(self._tried(self._stream.isatty))

    def fileno(self) -> int:
        """Returns the descriptor of the stream behind it."""
        return self._stream.fileno()

    def write(self, text: str) -> int:
        """Writes text, or loses it; returns its length."""
        try:
            self._tried(lambda: self._stream.write(text))
        except UnicodeEncodeError:
            shown = text.encode(self.encoding, "replace").decode(self.encoding)
            self._tried(lambda: self._stream.write(shown))
        return len(text)

    def flush(self) -> None:
        """Flushes the stream behind it, as far as that goes."""
        self._tried(self._stream.flush)

    @staticmethod
    def _tried(do: Callable[[], object]) -> object:
        try:
            return do()
        except (OSError, RuntimeError):  # the latter in a signal handler, whose signal came in the middle of a write
            return None
