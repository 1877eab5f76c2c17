"""The default progress of trainings and sweeps that are started from Python."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console

from vaedist.monitor.events import Event
from vaedist.monitor.notebook import NotebookProgress
from vaedist.monitor.sweep_events import SweepEvent
from vaedist.monitor.sweep_terminal import SweepTerminal
from vaedist.monitor.terminal import Terminal


@contextmanager
def run_progress(observe: Callable[[Event], None] | None) -> Iterator[Callable[[Event], None]]:
    """Yields `observe`; if it is None, a function that shows a run's events in the notebook, or else on stderr."""
    if observe is not None:
        yield observe
    elif Console().is_jupyter:
        yield NotebookProgress()
    else:
        with _stderr() as stream, Terminal(Console(file=stream)) as terminal:
            yield terminal.show


@contextmanager
def sweep_progress(observe: Callable[[SweepEvent], None] | None) -> Iterator[Callable[[SweepEvent], None]]:
    """Yields `observe`; if it is None, a function that shows a sweep's events on stderr."""
    if observe is not None:
        yield observe
    else:
        with _stderr() as stream, SweepTerminal(Console(file=stream)) as terminal:
            yield terminal.show


def _stderr() -> TextIO:
    """Returns a copy of stderr, which is not redirected with it."""
    return os.fdopen(os.dup(2), "w", encoding="utf-8", errors="replace")
