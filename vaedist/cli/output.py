"""Tables, progress bars and status lines on the terminal."""

import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO

import click

from vaedist.cli.streams import give_up_stdout, stderr_copy
from vaedist.errors import StorageError
from vaedist.wording import aligned


def quoted_location(folder: Any) -> str:
    """Returns the location of a run or a sweep, quoted for a shell."""
    return shlex.quote(folder.store.display())


def console() -> Any:
    """Returns a rich console on stdout, wide enough for tables if stdout is not a terminal."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 160)


def print_pairs(title: str, rows: Mapping[str, str]) -> None:
    """Prints a title, and names and values as a table of two columns, whose lines are wrapped on a terminal only."""
    if not sys.stdout.isatty():
        click.echo(aligned(title, rows))
        return
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left", show_header=False, box=None)
    for name, value in rows.items():
        table.add_row(name, escape(value))
    console().print(table)


@contextmanager
def user_stream() -> Iterator[TextIO]:
    """Yields a copy of stderr that stays on the terminal while stderr itself is redirected."""
    with stderr_copy() as stream:
        yield stream


def echo_result(text: str) -> None:
    """Prints the result of a run; it is no error if stdout cannot be written, as the result is in the run's folder."""
    try:
        click.echo(text)
    except (OSError, StorageError):
        give_up_stdout()


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """Shows a progress bar on stderr if that is a terminal; yields a function of the amount done and the total.

    The bar stays visible while stderr is redirected.
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
    """Yields a function that shows a status on stderr: in one changing line on a terminal, else in a line each.

    The status stays visible while stderr is redirected.
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
