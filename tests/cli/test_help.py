"""Help texts fit on a terminal of 80 columns."""

import os
from collections.abc import Iterator

import click
import pytest

from vaedist.cli import main


def groups(command: click.Command, *words: str) -> Iterator[tuple[str, click.Group]]:
    """Yields each command group, with the words of its call."""
    if isinstance(command, click.Group):
        yield " ".join(("vaedist", *words)), command
        for name, below in command.commands.items():
            yield from groups(below, *words, name)


GROUPS = dict(groups(main))


@pytest.mark.parametrize("name", GROUPS)
def test_short_help_is_not_cut_off(name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    group = GROUPS[name]
    context = click.Context(group, info_name=name, terminal_width=80)
    commands = group.get_help(context).partition(f"Commands:{os.linesep}")[2]
    assert commands
    assert [line for line in commands.splitlines() if line.endswith("...")] == []


def commands(command: click.Command, *words: str) -> Iterator[tuple[str, click.Command]]:
    """Yields each command, with the words of its call."""
    yield " ".join(("vaedist", *words)), command
    for name, below in command.commands.items() if isinstance(command, click.Group) else ():
        yield from commands(below, *words, name)


COMMANDS = dict(commands(main))


@pytest.mark.parametrize("name", COMMANDS)
def test_tables_in_help_keep_their_lines(name):
    command = COMMANDS[name]
    shown = command.get_help(click.Context(command, info_name=name, terminal_width=80)).splitlines()
    assert not any("\\b" in line for line in shown)
    for paragraph in (command.help or "").split("\n\n"):
        if paragraph.startswith("\b"):
            assert {f"  {line}" for line in paragraph.splitlines()[1:]} <= set(shown)
