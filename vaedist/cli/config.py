"""`vaedist config`: what a job says, and what it may say."""

import json
from pathlib import Path

import click

from vaedist.cli.options import job_argument
from vaedist.config import Sweep, read_job, with_options
from vaedist.config.reading import placed


@click.group()
def config() -> None:
    """Show jobs as they are read, and the keys they may have."""


@config.command()
@job_argument
def show(job: Path, overrides: tuple[str, ...]) -> None:
    """Print JOB resolved: every key, with defaults and --set applied, as TOML."""
    click.echo(read_job(job, overrides).to_toml(), nl=False)


@config.command()
@click.option("--model", metavar="TYPE", help="Show the options of this model: a value of model.type.")
@click.option("--flow", metavar="TYPE", help="Show the options of this flow: a value of model.flow.type.")
def schema(model: str | None, flow: str | None) -> None:
    """Print the JSON schema of a job: every key with its type, range, default and meaning.

    Only sweeps have the [tune] part.
    """
    named = {"model.type": model, "model.flow.type": flow}
    tables = placed({}, {key: name for key, name in named.items() if name is not None})
    click.echo(json.dumps(with_options(Sweep, tables).model_json_schema(), indent=2))
