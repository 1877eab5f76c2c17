"""`vaedist completion`, and the completion of arguments by the shell."""

import tomllib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem, ShellComplete, get_completion_class

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script for a shell.

    It completes commands, options, keys of --set, and paths. To use it in each new shell:

    \b
    bash, in ~/.bashrc:  eval "$(vaedist completion bash)"
    zsh, in ~/.zshrc:    eval "$(vaedist completion zsh)"
    fish:                vaedist completion fish > ~/.config/fish/completions/vaedist.fish
    """  # noqa: D301 - \b is the character that keeps click from wrapping a paragraph
    found = get_completion_class(shell)
    assert found is not None, "click completes in all of SHELLS"
    program = context.find_root().info_name or "vaedist"
    completer = found(context.find_root().command, {}, program, f"_{program}_COMPLETE".replace("-", "_").upper())
    # Not the class's own method, which also starts the shell to check its version.
    click.echo(ShellComplete.source(completer))


def complete_key(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Returns the keys of --set that begin with a text, with the options of the job's model if a job is given."""
    from vaedist.config import Sweep, with_options
    from vaedist.config.keys import described_keys

    # click does not assign arguments before an option that lacks its value, which is being completed.
    job = context.params.get("job") or next(iter(context.args), None)
    section = with_options(Sweep, _built_in(_tables(job)), or_default=True)
    return [
        CompletionItem(f"{key}=", help=field.description)
        for key, field in described_keys(section)
        if key.startswith(incomplete)
    ]


def complete_folder(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Returns the request to complete a folder."""
    return [CompletionItem(incomplete, type="dir")]


def _tables(job: object) -> dict[str, Any]:
    """Returns the tables of a job's file, none if it cannot be read."""
    with suppress(OSError, ValueError, TypeError):
        return tomllib.loads(Path(str(job)).read_text(encoding="utf-8-sig"))
    return {}


def _built_in(tables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns tables without the names of a user's classes, whose code must not run in order to complete a word."""
    return {
        key: _built_in(value) if isinstance(value, Mapping) else value
        for key, value in tables.items()
        if not (key == "type" and ":" in str(value))
    }
