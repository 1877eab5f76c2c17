"""`vaedist config`: what a job says, and what it may say."""

import json
from pathlib import Path

import click

from vaedist.cli.options import job_argument
from vaedist.config import Sweep, read_job, with_options
from vaedist.config.model_types import DEFAULT


@click.group()
def config() -> None:
    """Show jobs as they are read, and the keys they may have."""


@config.command()
@job_argument
def show(job: Path, overrides: tuple[str, ...]) -> None:
    """Print JOB resolved: every key, with defaults and --set applied, as TOML."""
    click.echo(read_job(job, overrides).to_toml(), nl=False)


@config.command()
@click.option("--model", "kind", metavar="TYPE", default=DEFAULT, show_default=True,
              help="Show the options of this model: a value of model.type.")  # fmt: skip
def schema(kind: str) -> None:
    """Print the JSON schema of a job: every key with its type, range, default and meaning.

    Only sweeps have the [tune] part.
    """
    click.echo(json.dumps(with_options(Sweep, kind).model_json_schema(), indent=2))
