"""Exceptions in a user's own code, shown with the user's lines of the traceback and without the libraries'."""

import re
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import FrameSummary, StackSummary, TracebackException, walk_tb

from vaedist.errors import UserCodeError, VaedistError

PACKAGE = Path(__file__).parent
STANDARD_LIBRARY = Path(sysconfig.get_paths()["stdlib"])
LIBRARIES = {"keras", "optree", "pydantic", "ray", "tensorflow", "vaedist"}  # these call a user's code
STYLE = re.compile(r"\x1b\[[0-9;]*m")  # terminal styles, which Keras adds to messages


@contextmanager
def user_code(title: str, *handled: type[BaseException], mixed: bool = False) -> Iterator[None]:
    """Runs a user's code in a context that turns its exceptions into a `UserCodeError`.

    Args:
        title: headline of the error, in one line without a full stop.
        handled: exceptions that the caller handles; like vaedist's own errors, they pass through unchanged.
        mixed: True if vaedist's code runs in the context, too. Exceptions whose traceback has no frame of the user's
            code then pass through unchanged, such as those of a device.

    Raises:
        UserCodeError: the code raised an exception, or called `sys.exit`.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        if isinstance(error, (VaedistError, *handled)) or (mixed and not _has_user_frame(error)):
            raise
        raise user_error(title, error) from error


def user_error(title: str, error: BaseException) -> UserCodeError:
    """Returns an error that shows an exception with the frames of its traceback that are in the user's code."""
    shown = TracebackException.from_exception(error)
    _trim(shown)
    return UserCodeError(f"{title}:\n{STYLE.sub('', ''.join(shown.format())).rstrip()}")


def is_user_frame(path: str) -> bool:
    """Returns True if a file belongs to a user, not to vaedist, the standard library or one of `LIBRARIES`."""
    if path.startswith("<"):  # such as <frozen importlib._bootstrap>
        return False
    file = Path(path)
    for name in ("site-packages", "dist-packages"):
        if name in file.parts:
            return file.parts[file.parts.index(name) + 1] not in LIBRARIES
    return not (file.is_relative_to(PACKAGE) or file.is_relative_to(STANDARD_LIBRARY))


def _has_user_frame(error: BaseException) -> bool:
    return any(is_user_frame(frame.f_code.co_filename) for frame, _ in walk_tb(error.__traceback__))


def _trim(shown: TracebackException) -> None:
    """Removes all frames but the user's, also from the chained exceptions."""
    frames: list[FrameSummary] = [frame for frame in shown.stack if is_user_frame(frame.filename)]
    # None, not an empty stack, also drops the heading: a syntax error's line is not part of the stack.
    shown.stack = StackSummary.from_list(frames) if frames else None  # type: ignore[assignment]
    for earlier in (shown.__cause__, shown.__context__, *(shown.exceptions or ())):
        if earlier is not None:
            _trim(earlier)
