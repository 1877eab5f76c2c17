"""Exceptions in a user's own code, shown with the user's lines of the traceback and without the libraries'."""

import os
import re
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from traceback import FrameSummary, StackSummary, TracebackException

from vaedist.errors import UserCodeError, VaedistError

PACKAGE = Path(__file__).parent
STANDARD_LIBRARY = Path(sysconfig.get_paths()["stdlib"])
LIBRARIES = {"keras", "optree", "pydantic", "ray", "tensorflow", "vaedist"}  # between the command and a user's code
STYLE = re.compile(r"\x1b\[[0-9;]*m")  # of terminals, which Keras puts into messages
# Starts of the lines that TensorFlow writes when it is loaded.
GREETING = (
    b"I0000 ",
    b"WARNING: All log messages before absl::InitializeLog()",
    b"To enable the following instructions",
)


@contextmanager
def user_code(title: str, *handled: type[BaseException]) -> Iterator[None]:
    """Runs a user's code, and turns what it raises into a `UserCodeError`.

    Args:
        title: what failed, in one line without a full stop.
        handled: exceptions that the caller handles; they are passed on, as those of vaedist are.

    Raises:
        UserCodeError: the code raised an exception, or ended the process.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        if isinstance(error, (VaedistError, *handled)):
            raise
        raise user_error(title, error) from error


def user_error(title: str, error: BaseException) -> UserCodeError:
    """Returns an error that shows an exception, and the lines of a user's code that led to it."""
    shown = TracebackException.from_exception(error)
    _trim(shown)
    return UserCodeError(f"{title}:\n{STYLE.sub('', ''.join(shown.format())).rstrip()}")


def is_user_frame(path: str) -> bool:
    """Returns True if a file is neither vaedist's, nor of the standard library or of a library that calls a model."""
    if path.startswith("<"):  # such as <frozen importlib._bootstrap>
        return False
    file = Path(path)
    for name in ("site-packages", "dist-packages"):
        if name in file.parts:
            return file.parts[file.parts.index(name) + 1] not in LIBRARIES
    return not (file.is_relative_to(PACKAGE) or file.is_relative_to(STANDARD_LIBRARY))


def _trim(shown: TracebackException) -> None:
    """Removes all frames but the user's, from the exceptions that led to this one too."""
    frames: list[FrameSummary] = [frame for frame in shown.stack if is_user_frame(frame.filename)]
    # Without a stack no heading is printed: the line of a syntax error is not in the stack.
    shown.stack = StackSummary.from_list(frames) if frames else None  # type: ignore[assignment]
    for earlier in (shown.__cause__, shown.__context__, *(shown.exceptions or ())):
        if earlier is not None:
            _trim(earlier)


@contextmanager
def quiet_tensorflow() -> Iterator[None]:
    """Drops what TensorFlow writes to stderr when it is loaded; all else is written when the context is left."""
    if "tensorflow" in sys.modules:
        yield
        return
    sys.stderr.flush()
    with TemporaryFile() as caught:
        stderr = os.dup(2)
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            caught.seek(0)
            for line in caught:
                if not line.startswith(GREETING):
                    os.write(2, line)
