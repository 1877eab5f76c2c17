"""`vaedist config`: resolved jobs, and the schema of jobs."""

import json
from pathlib import Path

import click

from vaedist.cli.options import job_argument
from vaedist.config import Sweep, read_job, with_options
from vaedist.config.reading import placed


@click.group()
def config() -> None:
    """Show resolved jobs, and the keys that jobs may have."""


@config.command()
@job_argument
def show(job: Path, overrides: tuple[str, ...]) -> None:
    """Print JOB as TOML, with all defaults and overrides."""
    click.echo(read_job(job, overrides).to_toml(), nl=False)


@config.command()
@click.option("--model", metavar="TYPE", help="Value of model.type whose options are shown.")
@click.option("--flow", metavar="TYPE", help="Value of model.flow.type whose options are shown.")
def schema(model: str | None, flow: str | None) -> None:
    """Print the JSON schema of a job.

    It has the type, range, default and meaning of every key. Only sweeps have the [tune] section.
    """
    named = {"model.type": model, "model.flow.type": flow}
    tables = placed({}, {key: name for key, name in named.items() if name is not None})
    click.echo(json.dumps(with_options(Sweep, tables).model_json_schema(), indent=2))
