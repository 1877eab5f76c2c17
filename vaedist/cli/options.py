"""Arguments and options that several commands share."""

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from vaedist.cli.completion import complete_folder, complete_key
from vaedist.storage.uri import fault_of, is_remote, local_path


def set_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --set, which overrides keys of a job."""
    return click.option(
        "--set", "overrides", multiple=True, metavar="KEY=VALUE", shell_complete=complete_key,
        help="Override a key of the job, such as model.flow.depth=4. May be repeated.",
    )(command)  # fmt: skip


def job_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds JOB, a TOML file, and --set, which overrides its keys."""
    return click.argument("job", type=LocalPath(path_type=Path))(set_option(command))


class LocalPath(click.Path):
    """A path on this machine; a leading ~ is expanded even if the shell does not, as in --out=~/runs."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str | bytes | os.PathLike[str]:
        """Expands ~, refuses the URIs of other machines, and checks the path as `click.Path` does."""
        if isinstance(value, str):
            if is_remote(value):
                self.fail(f"{value} must be a path on this machine, not a URI", param, ctx)
            value = str(local_path(_checked(value)))
        return super().convert(value, param, ctx)


class NumberRange(click.FloatRange):
    """A range of numbers, in which NaN is not; `click.FloatRange` accepts it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Checks the number."""
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value} is not a number in the range {self._describe_range()}.", param, ctx)
        return number


class Location(click.ParamType):
    """A local path, converted to a Path, or the URI of a folder on an object store, which stays a string."""

    name = "location"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str | Path:
        """Checks the text of the location, and expands ~ in a local path."""
        if isinstance(value, Path):
            return value
        return value if is_remote(_checked(value)) else local_path(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Returns the request to complete a folder."""
        return complete_folder(ctx, param, incomplete)


def _checked(value: str) -> str:
    if fault := fault_of(value):
        raise click.BadParameter(f"{value} {fault}")
    return value


def changed_code_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --changed-code, which allows resuming with a model whose code has changed."""
    return click.option(
        "--changed-code", is_flag=True,
        help="With --resume: accept changes to the package that holds the model.",
    )(command)  # fmt: skip


def changed_precision_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --changed-precision, which allows resuming in another precision."""
    return click.option(
        "--changed-precision", is_flag=True,
        help="With --resume: accept a change of training.precision.",
    )(command)  # fmt: skip


def dry_run_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --dry-run, which starts nothing."""
    return click.option(
        "--dry-run", is_flag=True,
        help="Check the job and print what would be started, with steps, parameters, memory and time; start and write "
        "nothing.",
    )(command)  # fmt: skip


def print_dry_run(described: Mapping[str, str]) -> None:
    """Prints what would be started."""
    from vaedist.cli.output import print_pairs

    print_pairs("dry run: nothing was started or written", described)


def run_values(name: str | None, runs: str | None) -> dict[str, str]:
    """Returns the values of --name and --runs by the keys of a job that they set."""
    given = {"run.name": name, "run.folder": runs}
    return {key: value for key, value in given.items() if value is not None}


def run_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds RUN, a run's folder or its URI."""
    return click.argument("run", type=Location())(command)


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --json, for output that scripts can read."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


class CheckpointName(click.ParamType):
    """The name "best" or "newest", or the step of a checkpoint, converted to a number."""

    name = "checkpoint"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str | int:
        """Checks the name or the step."""
        if value in ("best", "newest") or isinstance(value, int):
            return str(value) if isinstance(value, str) else int(value)
        if not value.isascii() or not value.isdecimal() or len(value) > 12:
            self.fail(f"{value!r} must be best, newest, or the step of a checkpoint", param, ctx)
        return int(value)


def checkpoint_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --checkpoint, which selects a checkpoint."""
    return click.option(
        "--checkpoint", type=CheckpointName(), default="best", show_default=True, metavar="best|newest|STEP",
        help="best: by validation ELBO, or by test ELBO if there is no validation split; newest: the most recent; "
        "STEP: the one of that step.",
    )(command)  # fmt: skip


def ema_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --ema and --no-ema, which select the weights."""
    return click.option(
        "--ema/--no-ema", default=None,
        help="Use the moving averages of the weights, or the weights themselves.  [default: the averages, if the run "
        "has any]",
    )(command)  # fmt: skip


def seed_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --seed, the seed of the noise."""
    return click.option(
        "--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Seed of the noise."
    )(command)


def pixels_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --pixels, which selects means or samples of p(x|z)."""
    return click.option(
        "--pixels", type=click.Choice(["mean", "sample"]), default="mean", show_default=True,
        help="Show the mean of p(x|z), which is smoother than a sample, or sample the pixels too.",
    )(command)  # fmt: skip


def temperature_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --temperature, a factor on the prior's standard deviations."""
    return click.option(
        "--temperature", type=NumberRange(0, 100), default=1.0, show_default=True,
        help="Factor on the prior's standard deviations; below 1, images are less varied.",
    )(command)  # fmt: skip


def data_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --data, the location of a data set that was moved."""
    return click.option(
        "--data", metavar="DIR", shell_complete=complete_folder,
        callback=lambda _context, _option, location: location and _checked(location),
        help="New location of the run's data set, if it was moved.",
    )(command)  # fmt: skip


def address_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --address, the address of a Ray cluster, and --insecure."""
    return click.option(
        "--address", metavar="HOST:PORT", help="Ray cluster to use.  [default: RAY_ADDRESS, or a new local Ray]"
    )(insecure_option(command))


def dashboard_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --address, the address of a cluster's dashboard, and --insecure."""
    return click.option(
        "--address", metavar="URL",
        help="Dashboard of the cluster, such as http://HEAD:8265.  "
        "[default: RAY_API_SERVER_ADDRESS, or the one local cluster]",
    )(insecure_option(command))  # fmt: skip


def insecure_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --insecure, for clusters that require no token."""
    return click.option(
        "--insecure", is_flag=True, expose_value=False, callback=_allow_insecure,
        help="Allow connections without a token to a cluster on another machine.",
    )(command)  # fmt: skip


def _allow_insecure(_context: click.Context, _option: click.Parameter, value: bool) -> None:
    if value:
        from vaedist.launch.authentication import allow_insecure

        allow_insecure()
