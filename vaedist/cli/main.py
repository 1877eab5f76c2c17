"""The `vaedist` command: its groups, and what becomes of errors."""

import sys
from typing import Any

import click

from vaedist import __version__
from vaedist.cli.config import config
from vaedist.cli.data import data
from vaedist.cli.runs import evaluate, reconstruct, runs, sample
from vaedist.cli.tensorboard import tensorboard
from vaedist.cli.train import train
from vaedist.errors import Interrupted, VaedistError


class OneLineErrors(click.Group):
    """A group whose library errors become one line on stderr and an exit code."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command and end the process."""
        try:
            return super().main(*args, **kwargs)
        except VaedistError as error:
            click.echo(f"{'stopped' if isinstance(error, Interrupted) else 'error'}: {_one_line(error)}", err=True)
            sys.exit(error.exit_code)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; a KeyboardInterrupt that nothing else took is an `Interrupted`."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted("interrupted") from None


def _one_line(error: VaedistError) -> str:
    return " ".join(str(error).split())


@click.group(cls=OneLineErrors, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Train variational autoencoders with inverse autoregressive flow on Ray, on one machine or many."""


for command in (data, train, evaluate, sample, reconstruct, runs, tensorboard, config):
    main.add_command(command)
