"""Handling of SIGTERM and SIGTSTP while Ray trains."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Makes SIGTERM raise KeyboardInterrupt within the context, unless the program handles or ignores it."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with _handled(signal.SIGTERM, interrupt):
        yield


@contextmanager
def suspended_together() -> Iterator[None]:
    """Suspends the descendants of this process within the context, too, when it gets SIGTSTP (Ctrl-Z).

    The processes of a local Ray are in sessions of their own, which signals of the terminal do not reach.
    """

    def suspend(*_: Any) -> None:
        descendants = psutil.Process().children(recursive=True)
        for process in descendants:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        try:
            signal.raise_signal(signal.SIGTSTP)  # returns at SIGCONT
        finally:  # SIGCONT may come with a signal that raises an exception
            signal.signal(signal.SIGTSTP, suspend)
            for process in descendants:
                with suppress(psutil.NoSuchProcess):
                    process.resume()

    with _handled(signal.SIGTSTP, suspend):
        yield


@contextmanager
def _handled(number: signal.Signals, handler: Callable[..., None]) -> Iterator[None]:
    """Handles a signal within the context, unless the program already does, or this is not its main thread."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(number) is not signal.SIG_DFL:
        yield
        return
    signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, signal.SIG_DFL)
