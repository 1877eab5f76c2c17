"""`vaedist check`: numerical checks of a model's mathematics."""

import json
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from vaedist.cli.loading import quiet
from vaedist.cli.options import Location, checkpoint_option, data_option, ema_option, json_option, set_option
from vaedist.cli.output import console, progress_bar
from vaedist.storage.paths import is_there

if TYPE_CHECKING:
    from vaedist.checks.check import Check


@click.command()
@click.argument("target", metavar="RUN|JOB", type=Location())
@set_option
@checkpoint_option
@ema_option
@data_option
@json_option
def check(
    target: str | Path,
    overrides: tuple[str, ...],
    checkpoint: str | int,
    ema: bool | None,
    data: str | None,
    as_json: bool,
) -> None:
    """Check a model's mathematics numerically, in float64.

    The model is the trained one of RUN, a run's folder, or the initial one of JOB, a TOML file. The checks compare its
    gradient with finite differences, the compiled update with an eager one, and two devices with one. If the model
    provides what they need, its flows are checked (dependencies, log-determinant, inverse), and its probabilities are
    summed. The exit code is 1 if a check fails.
    """
    is_run = isinstance(target, str) or (is_there(target) and target.is_dir())
    _check_options(is_run)
    with progress_bar(f"checking {target}") as progress, quiet():
        from vaedist.devices.strategy import configure_devices

        configure_devices(os.cpu_count() or 1, 0, 2)
        from vaedist.checks import run_checks

        if is_run:
            experiment, make_model, images = _of_run(target, checkpoint=checkpoint, ema=ema, data=data)
        else:
            experiment, make_model, images = _of_job(Path(target), overrides, data)
        found = run_checks(experiment, make_model, images, progress)
    if as_json:
        click.echo(json.dumps([_record(each) for each in found], indent=2, allow_nan=False))
    else:
        _print_table(found)
    if not all(each.passed for each in found):
        sys.exit(1)


def _check_options(is_run: bool) -> None:
    """Raises a UsageError if an option is given that is for jobs only, or for runs only."""
    for_others = {"overrides": "--set"} if is_run else {"checkpoint": "--checkpoint", "ema": "--ema"}
    kind, other = ("run", "job") if is_run else ("job", "run")
    for parameter, option in for_others.items():
        if click.get_current_context().get_parameter_source(parameter) is not ParameterSource.DEFAULT:
            raise click.UsageError(f"{option} is for a {other}, not for a {kind}")


def _record(check: "Check") -> dict[str, Any]:
    """Returns a check's outcome for JSON, in which an error that is not finite is null."""
    error = check.error if math.isfinite(check.error) else None
    return {**asdict(check), "error": error, "passed": check.passed}


def _print_table(found: Sequence["Check"]) -> None:
    from rich.table import Table

    table = Table("check", "against", "largest error", "allowed", "")
    for each in found:
        verdict = "pass" if each.passed else "[red]FAIL[/red]"
        table.add_row(each.name, each.against, f"{each.error:.2g}", f"{each.allowed:.2g}", verdict)
    console().print(table)
    failed = sum(not each.passed for each in found)
    click.echo(f"{failed} of {len(found)} checks failed" if failed else f"all {len(found)} checks passed")


def _of_run(target: str | Path, **options: Any) -> tuple[Any, ...]:
    """Returns a run's experiment, a function that builds its model in float64, and held-out images."""
    from vaedist.api import load_run
    from vaedist.checks import IMAGES

    run = load_run(target, **options)
    return run.experiment, lambda: run.build("float64"), run.probe(IMAGES).images


def _of_job(target: Path, overrides: tuple[str, ...], data: str | None) -> tuple[Any, ...]:
    """Returns a job's experiment, a function that builds its initial model in float64, and held-out images."""
    from vaedist.checks import IMAGES
    from vaedist.config import Experiment
    from vaedist.data.manifest import load_manifest
    from vaedist.data.worker_data import check_images, open_probe
    from vaedist.models.build import build_model

    experiment = Experiment.from_file(target, overrides)
    path = data or experiment.data.path
    manifest = load_manifest(path)
    check_images(experiment, manifest.shape)
    images = open_probe(path, manifest, IMAGES).images
    return experiment, lambda: build_model(experiment, manifest.shape, "float64"), images
