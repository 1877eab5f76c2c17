"""What several commands print with."""

import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO

import click

from vaedist.cli.streams import give_up_stdout, stderr_copy
from vaedist.errors import StorageError


def quoted_location(folder: Any) -> str:
    """Returns the location of a run or a sweep, quoted for a shell."""
    return shlex.quote(folder.store.display())


def console() -> Any:
    """Stdout; a pipe has no width, so that nothing is cut there."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 160)


def print_pairs(title: str, rows: Mapping[str, str]) -> None:
    """Names and values, one pair a line."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left", show_header=False, box=None)
    for name, value in rows.items():
        table.add_row(name, escape(value))
    console().print(table)


@contextmanager
def user_stream() -> Iterator[TextIO]:
    """Stderr as the command got it, while what others print there goes elsewhere."""
    with stderr_copy() as stream:
        yield stream


def echo_result(text: str) -> None:
    """Prints the result of a run, which is in its folder, too: if nobody can read it here, that is no fault."""
    try:
        click.echo(text)
    except (OSError, StorageError):
        give_up_stdout()


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr where that is a terminal; gives what is to be called with the amount done, and the whole.

    It stays visible while stderr goes elsewhere.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress

    with user_stream() as stream:
        screen = Console(file=stream)
        with Progress(console=screen, disable=not screen.is_terminal, transient=True, redirect_stdout=False,
                      redirect_stderr=False) as bars:  # fmt: skip
            task = bars.add_task(escape(title), total=None)
            yield lambda done, total: bars.update(task, completed=done, total=total)


@contextmanager
def status_line() -> Iterator[Callable[[str], None]]:
    """What is being waited for, on stderr: a line that changes where that is a terminal, else one after the other.

    It stays visible while stderr goes elsewhere.
    """
    from rich.console import Console
    from rich.markup import escape

    with user_stream() as stream:
        screen = Console(file=stream)
        if not screen.is_terminal:
            yield lambda text: click.echo(text, file=stream)
            return
        with screen.status("") as shown:
            yield lambda text: shown.update(escape(text))
