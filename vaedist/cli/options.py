"""Options that several commands share, each written once."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from vaedist.storage.uri import fault_of, is_remote, local_path


def set_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """--set, to override a job's keys."""
    return click.option(
        "--set", "overrides", multiple=True, metavar="KEY=VALUE",
        help="Override a key of the job, as in model.flow.depth=4; may be repeated.",
    )(command)  # fmt: skip


def job_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """JOB, a TOML file, and --set to override its keys."""
    return click.argument("job", type=LocalPath(path_type=Path))(set_option(command))


class LocalPath(click.Path):
    """A path on this machine, where ~ is the home folder also where the shell leaves it, as in --out=~/runs."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str | bytes | os.PathLike[str]:
        """Expand ~, and check what is asked for."""
        if isinstance(value, str):
            value = str(_local(value))
        return super().convert(value, param, ctx)


class Location(click.ParamType):
    """A local path, or the URI of a folder on a store, which stays a string."""

    name = "location"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str | Path:
        """Checks the kind of a URI by its text, or expands ~ in a path."""
        if isinstance(value, Path):
            return value
        return _checked(value) if is_remote(value) else _local(value)


def _local(value: str) -> Path:
    return local_path(_checked(value))


def _checked(value: str) -> str:
    if fault := fault_of(value):
        raise click.BadParameter(f"{value} {fault}")
    return value


def changed_code_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """--changed-code, to resume with a model whose code has changed."""
    return click.option(
        "--changed-code", is_flag=True,
        help="With --resume: accept that the package that holds the model has changed since.",
    )(command)  # fmt: skip


def run_values(name: str | None, runs: str | None) -> dict[str, str]:
    """What --name and --runs say, by the keys of a job that they stand for."""
    given = {"run.name": name, "run.folder": runs}
    return {key: value for key, value in given.items() if value is not None}


def run_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """RUN, a run's folder or its URI."""
    return click.argument("run", type=Location())(command)


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """--json, for machines."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def checkpoint_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """--checkpoint, which one to use."""
    return click.option(
        "--checkpoint", type=click.Choice(["best", "newest"]), default="best", show_default=True,
        help="Best by validation ELBO, or by test ELBO where the data has no validation split; or newest.",
    )(command)  # fmt: skip


def ema_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """--ema or --no-ema, which weights to use."""
    return click.option(
        "--ema/--no-ema", default=None,
        help="Use the moving averages of the weights, or the weights.  [default: the averages, if the run kept any]",
    )(command)  # fmt: skip


def data_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """--data, for data sets that were moved."""
    return click.option(
        "--data", metavar="DIR", callback=lambda _context, _option, location: location and _checked(location),
        help="Where the run's data set lies now, if it was moved.",
    )(command)  # fmt: skip


def address_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """--address, of a Ray cluster to join, and --insecure."""
    return click.option(
        "--address", metavar="HOST:PORT", help="Ray cluster to work on.  [default: RAY_ADDRESS, or a Ray of its own]"
    )(insecure_option(command))


def dashboard_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """--address, of a cluster's dashboard, and --insecure."""
    return click.option(
        "--address", metavar="URL",
        help="Dashboard of the cluster, as in http://HEAD:8265.  "
        "[default: RAY_API_SERVER_ADDRESS, or the one local cluster]",
    )(insecure_option(command))  # fmt: skip


def insecure_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """--insecure, for clusters without a token."""
    return click.option(
        "--insecure", is_flag=True, expose_value=False, callback=_allow_insecure,
        help="Speak with a cluster on another machine that asks for no token.",
    )(command)  # fmt: skip


def _allow_insecure(_context: click.Context, _option: click.Parameter, value: bool) -> None:
    if value:
        from vaedist.launch.authentication import allow_insecure

        allow_insecure()
