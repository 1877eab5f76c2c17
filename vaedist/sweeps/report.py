"""A sweep's report as text, records and plots, and its best trial as a job."""

import csv
import io
import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vaedist.config import ScalingSection, Sweep
from vaedist.errors import RunError, StorageError
from vaedist.files import replace_file
from vaedist.sweeps.analysis import (
    Importance,
    Outcome,
    compared_epoch,
    counts,
    importances,
    outcomes,
    ranked,
    score_of,
    split_of,
    title_of,
)
from vaedist.sweeps.folder import SweepFolder
from vaedist.sweeps.report_text import sections
from vaedist.sweeps.trial import Trial


def write_report(folder: SweepFolder) -> Path:
    """Writes report.md, results.csv, results.json and plots/ to a sweep's folder, replacing older ones.

    It can be called at any time, even while the sweep runs.

    Returns:
        Path of report.md.

    Raises:
        RunError: there is no sweep, or its files cannot be read.
        StorageError: a file cannot be written; an older one is kept.
    """
    from vaedist.sweeps.plots import figures, png

    sweep = folder.read_sweep()
    found = outcomes(sweep, folder.read_trials())
    weights = importances(sweep, found)
    plots = {folder.plots / f"{name}.png": png(figure) for name, figure in figures(sweep, found, list(weights))}
    table, record = folder.results
    written: dict[Path, bytes | str] = {
        **plots,
        table: _csv(sweep, found),
        record: json.dumps(_record(sweep, found, weights), indent=1) + "\n",
        folder.report: "\n\n".join(sections(sweep, found, weights, [path.stem for path in plots])) + "\n",
    }
    for path, content in written.items():
        _write(path, content)
    folder.store.push(*written)
    return folder.report


def best_trial(folder: SweepFolder) -> Trial:
    """Returns the trial with the best value of the sweep's metric at any of its epochs.

    Raises:
        RunError: no trial has been scored.
    """
    return _best(folder.read_sweep(), folder).trial


def best_job(folder: SweepFolder, file_name: str) -> str:
    """Returns the best trial as a job for `vaedist train`, with all its epochs.

    Args:
        folder: folder of the sweep.
        file_name: file name of the job, for the command in its header.

    Returns:
        TOML, with a header of the purpose, the command, the hardware, and the score in the sweep.

    Raises:
        RunError: no trial has been scored.
    """
    sweep = folder.read_sweep()
    best = _best(sweep, folder)
    experiment = sweep.experiment(best.params, name="", folder="runs")
    header = {
        "Purpose:": f"the best trial of the sweep {sweep.run.name}, number {best.trial.number}.",
        "Command:": f"vaedist train {shlex.quote(file_name)}",
        "Hardware:": f"{_hardware(experiment.scaling)}, as the trial had.",
        "Expected:": f"{_reached(best)}.",
    }
    lines = (f"# {label:<10} {text}\n" for label, text in header.items())
    return "".join(lines) + "\n" + experiment.to_toml()


def _best(sweep: Sweep, folder: SweepFolder) -> Outcome:
    order = ranked(sweep, outcomes(sweep, folder.read_trials()))
    if not order:
        raise RunError(f"sweep {folder.location} has no best trial: none has been scored yet")
    return order[0]


def _reached(outcome: Outcome) -> str:
    best = outcome.best
    assert best is not None
    also = "" if outcome.metric == "elbo" else f" ({_titled(outcome.metric, outcome.score, best.split)})"
    plural = "s" if best.epoch > 1 else ""
    return f"{_titled('elbo', best.elbo, best.split)} nats per image after {best.epoch} epoch{plural}{also}"


def _hardware(scaling: ScalingSection) -> str:
    count, _ = scaling.bounds
    workers = f"{count} worker{'s' if count > 1 else ''}"
    each = " each" if count > 1 else ""
    if scaling.gpus_per_worker:
        return f"{workers} with {scaling.gpus_per_worker:g} GPU{each}"
    if scaling.cpus_per_worker:
        return f"{workers} with {scaling.cpus_per_worker:g} CPU{each}"
    return f"{workers} on the CPUs of the cluster"


def _titled(metric: str, value: float, split: str) -> str:
    return f"{title_of(metric, split)} {score_of(metric, value)}"


def _rows(sweep: Sweep, found: Sequence[Outcome]) -> Iterator[dict[str, Any]]:
    """Yields a record of each trial: its state, parameters and scores."""
    for one in found:
        best = one.best
        yield {
            "trial": one.trial.number,
            "run": one.trial.name,
            "state": one.trial.state,
            "starts": one.trial.starts,
            "params": {key: one.params[key] for key in sweep.tune.space},
            "epochs": one.epochs,
            "steps": one.steps,
            "images": one.images,
            "split": one.trial.split,
            "best_epoch": best and best.epoch,
            "best": best and one.score,
            "last": one.last,
            "elbo": best and best.elbo,
            "importance_bound": best and best.importance_bound,
            "bits_per_dim": best and best.bits_per_dim,
            "reason": one.trial.reason or one.trial.fault,
        }


def _csv(sweep: Sweep, found: Sequence[Outcome]) -> str:
    stream = io.StringIO()
    rows = [_flat(row) for row in _rows(sweep, found)]
    writer = csv.DictWriter(stream, list(rows[0]) if rows else ["trial"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """Returns a record with the parameters in place of the entry "params"."""
    return {k: v for key, value in row.items() for k, v in (value if key == "params" else {key: value}).items()}


def _record(sweep: Sweep, found: Sequence[Outcome], weights: dict[str, Importance]) -> dict[str, Any]:
    order = ranked(sweep, found)
    return {
        "sweep": sweep.run.name,
        "metric": sweep.tune.metric,
        "split": split_of(found),
        "mode": sweep.tune.mode,
        "counts": counts(found),
        "steps": sum(one.steps for one in found),
        "images": sum(one.images for one in found),
        "planned_steps": sum(one.planned_steps for one in found),
        "planned_images": sum(one.planned_images for one in found),
        "best_trial": order[0].trial.number if order else None,
        "importance_epoch": compared_epoch(found),
        "importance": {key: weight.eta_squared for key, weight in weights.items()},
        "trials": list(_rows(sweep, found)),
    }


def _write(path: Path, content: bytes | str) -> None:
    try:
        replace_file(path, content)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
