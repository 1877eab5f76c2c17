"""Retries transient errors of object stores; permanent errors are raised at once."""

import re
import threading
from collections.abc import Callable
from typing import TypeVar

import pyarrow as pa
import tenacity

from vaedist.errors import StorageError
from vaedist.storage.filesystem import first_line

T = TypeVar("T")

# Time limits for an object store to respond: to a command that a user waits for, and to a run.
COMMAND_SECONDS = 30.0
RUN_SECONDS = 600.0
FIRST_WAIT, LONGEST_WAIT = 0.25, 20.0  # exponential backoff in seconds, plus up to FIRST_WAIT of jitter

MISSING = (FileNotFoundError, NotADirectoryError)
# Permanent errors.
_FINAL = re.compile(
    r"NO_SUCH_BUCKET|NO_SUCH_KEY|ACCESS_DENIED|INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH|INVALID_CLIENT_TOKEN_ID|"
    r"UNRECOGNIZED_CLIENT|HTTP status 403|PERMISSION_DENIED|UNAUTHENTICATED|NotFound|MISSING_AUTHENTICATION_TOKEN"
)


def patiently(
    do: Callable[[], T],
    what: str,
    *,
    seconds: float = COMMAND_SECONDS,
    notify: Callable[[str], None] = lambda _: None,
    give_up: threading.Event | None = None,
) -> T:
    """Calls a function, again after transient errors, and returns its result.

    Args:
        do: the function, which may be called several times.
        what: description of the call in messages, such as "read s3://bucket/x".
        seconds: time limit for all tries.
        notify: called once if the object store does not respond and the call will be retried.
        give_up: event that ends waiting.

    Raises:
        FileNotFoundError: the file to be read does not exist.
        StorageError: the object store refused the request, or did not respond in time; the message names `what`.
    """

    def told(state: tenacity.RetryCallState) -> None:
        if state.attempt_number == 1:
            assert state.outcome is not None
            notify(f"cannot {what}: {_reason(state.outcome.exception())}; retrying for {seconds:.0f} s")

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(passes),
        wait=tenacity.wait_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT) + tenacity.wait_random(0, FIRST_WAIT),
        stop=tenacity.stop_after_delay(seconds) | tenacity.stop_when_event_set(give_up or threading.Event()),
        sleep=tenacity.sleep_using_event(give_up or threading.Event()),
        before_sleep=told,
        reraise=True,
    )
    try:
        return retrying(do)
    except MISSING:
        raise
    except (OSError, pa.ArrowException) as error:
        if "NO_SUCH_KEY" in str(error):
            raise FileNotFoundError(what) from error
        raise StorageError(f"cannot {what}: {_reason(error)}") from error


def passes(error: BaseException) -> bool:
    """Returns True if an error is transient, so that the same call may succeed later."""
    if isinstance(error, MISSING) or not isinstance(error, OSError):
        return False
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    return error.errno is None and not _FINAL.search(str(error))  # errors of the local disk have an errno


def _reason(error: BaseException | None) -> str:
    """Returns the part of an object store's message that says what happened."""
    assert error is not None
    text = getattr(error, "strerror", None) or first_line(error)
    text = re.sub(r"\s*\(Request ID: [^)]*\)", "", text)
    return text.rpartition("AWS Error ")[2].rstrip(". ")
