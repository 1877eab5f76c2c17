"""Options that several commands share, each written once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click


def job_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """JOB, a TOML file, and --set to override its keys."""
    command = click.option(
        "--set", "overrides", multiple=True, metavar="KEY=VALUE",
        help="Override a key of the job, as in model.flow.depth=4; may be repeated.",
    )(command)  # fmt: skip
    return click.argument("job", type=click.Path(path_type=Path))(command)


def run_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """RUN, a run's folder."""
    return click.argument("run", type=click.Path(path_type=Path))(command)


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """--json, for machines."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)
