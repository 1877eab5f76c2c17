"""A sweep's report as text, tables and plots, and its best trial as a job."""

import csv
import io
import json
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vaedist.config import ScalingSection, Sweep, told
from vaedist.errors import RunError, StorageError
from vaedist.files import replace_file
from vaedist.sweeps.analysis import (
    TOLD,
    Importance,
    Outcome,
    compared_epoch,
    importances,
    outcomes,
    ranked,
    split_of,
    title_of,
)
from vaedist.sweeps.folder import SweepFolder
from vaedist.sweeps.trial import Trial

BEST_SHOWN = 10
SELECTED_BY = {
    "validation": "Trials and their epochs are selected on the validation images; the test images were not used.",
    "test": "The data has no validation split: trials and their epochs are selected on the test images, so the best "
    "score is biased: it is better than it would be on new images.",
}
PICTURES = ("reconstructions", "samples")


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
        folder.report: "\n\n".join(_sections(sweep, found, weights, [path.stem for path in plots])) + "\n",
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
    return f"{_titled('elbo', best.elbo, best.split)} nats an image after {best.epoch} epoch{plural}{also}"


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
    return f"{title_of(metric, split)} {_score(metric, value)}"


def _score(metric: str, value: float | None) -> str:
    return "-" if value is None else f"{value:.{TOLD[metric].decimals}f}"


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
        "counts": _counts(found),
        "steps": sum(one.steps for one in found),
        "images": sum(one.images for one in found),
        "planned_steps": sum(one.planned_steps for one in found),
        "planned_images": sum(one.planned_images for one in found),
        "best_trial": order[0].trial.number if order else None,
        "importance_epoch": compared_epoch(found),
        "importance": {key: weight.eta_squared for key, weight in weights.items()},
        "trials": list(_rows(sweep, found)),
    }


def _counts(found: Sequence[Outcome]) -> dict[str, int]:
    """Counts trials by their final state; all others are open."""
    states = Counter(one.trial.state for one in found)
    ended = {state: states[state] for state in ("finished", "stopped", "failed")}
    return {**ended, "open": len(found) - sum(ended.values())}


def _sections(
    sweep: Sweep, found: Sequence[Outcome], weights: dict[str, Importance], plots: Sequence[str]
) -> Iterator[str]:
    """Yields the sections of the report, in Markdown."""
    order = ranked(sweep, found)
    yield f"# Sweep {sweep.run.name}"
    yield _summary(sweep, found)
    if not order:
        yield "No trial has been scored yet."
    else:
        yield from _best_section(sweep, order[0])
        yield from _table_of_best(sweep, order[:BEST_SHOWN])
        yield from _importance_section(found, weights)
    if plots:
        yield "## Plots"
        yield from (f"![{name}](plots/{name}.png)" for name in plots)
    failed = [one for one in found if one.trial.state == "failed"]
    if failed:
        yield "## Failed trials"
        rows = [(one.trial.number, one.trial.name, one.trial.starts, one.epochs, one.trial.reason) for one in failed]
        yield _table(("trial", "run", "starts", "epochs", "reason"), rows)
    broken = [one.trial for one in found if one.trial.fault]
    if broken:
        yield "## Trials that cannot be read"
        yield _table(("trial", "run", "error"), [(trial.number, trial.name, trial.fault) for trial in broken])


def _summary(sweep: Sweep, found: Sequence[Outcome]) -> str:
    counts, shown, split = _counts(found), TOLD[sweep.tune.metric], split_of(found)
    of = f" of {sweep.trials:,}" if len(found) < sweep.trials else ""
    better = "more" if sweep.tune.mode == "max" else "less"
    lines = [
        f"{len(found):,}{of} trials: {counts['finished']:,} finished, {counts['stopped']:,} stopped early, "
        f"{counts['failed']:,} failed, {counts['open']:,} still open. "
        f"Metric: {title_of(sweep.tune.metric, split)} ({shown.unit}, {better} is better), at the best epoch of each "
        f"trial."
    ]
    if split in SELECTED_BY:
        lines.append(SELECTED_BY[split])
    images, planned = (sum(getattr(one, name) for one in found) for name in ("images", "planned_images"))
    if planned:
        steps, planned_steps = (sum(getattr(one, name) for one in found) for name in ("steps", "planned_steps"))
        whole = f", {images / planned:.0%} of the {planned:,} images in {planned_steps:,} steps of all their epochs"
        lines.append(
            f"Trials with at least one completed epoch saw {images:,} images in {steps:,} training steps"
            f"{whole if images < planned else ', all that were planned'}."
        )
    return "\n\n".join(lines)


def _best_section(sweep: Sweep, best: Outcome) -> Iterator[str]:
    trial, epoch, shown = best.trial, best.best, TOLD[sweep.tune.metric]
    title = title_of(sweep.tune.metric, trial.split)
    assert epoch is not None
    yield "## Best trial"
    also = "" if sweep.tune.metric == "elbo" else f" (ELBO {_score('elbo', epoch.elbo)} nats an image)"
    yield (
        f"Trial {trial.number}, `{trial.name}`: {title} **{_score(sweep.tune.metric, best.score)}** {shown.unit}"
        f"{also} after epoch {epoch.epoch} of {best.epochs} completed epochs; the trial {_ended(trial)}."
    )
    yield _table(("parameter", "value"), [(f"`{key}`", told(best.params[key])) for key in sweep.tune.space])
    for name in PICTURES:
        if (trial.run.pictures / f"{name}.png").is_file():
            place = (trial.run.pictures / f"{name}.png").relative_to(trial.run.path.parent)
            yield f"{name.capitalize()}:\n\n![{name}]({place.as_posix()})"


def _ended(trial: Trial) -> str:
    return {"finished": "has finished", "stopped": "was stopped early", "failed": "then failed"}.get(
        trial.state, "is still open"
    )


def _table_of_best(sweep: Sweep, order: Sequence[Outcome]) -> Iterator[str]:
    yield f"## Best {len(order)} trials" if len(order) > 1 else "## Trials"
    keys, metrics = list(sweep.tune.space), list(dict.fromkeys([sweep.tune.metric, "elbo"]))
    names = [title_of(metric, split_of(order)) for metric in metrics]
    rows = [
        (
            place,
            one.trial.number,
            *(told(one.params[key]) for key in keys),
            *(_score(metric, getattr(one.best, metric)) for metric in metrics),
            one.best and one.best.epoch,
            one.epochs,
            one.trial.state,
        )
        for place, one in enumerate(order, start=1)
    ]
    yield _table(("", "trial", *(f"`{key}`" for key in keys), *names, "best epoch", "epochs", "state"), rows)


def _importance_section(found: Sequence[Outcome], weights: dict[str, Importance]) -> Iterator[str]:
    epoch = compared_epoch(found)
    compared = sum(one.at(epoch) is not None for one in found) if epoch else 0
    yield "## Importance of the parameters"
    yield (
        f"The share of the metric's variance that each parameter alone explains (correlation ratio η², 0 to 1), over "
        f"the {compared} trials with a score after epoch {epoch}, the last epoch that all finished and stopped trials "
        f"completed. A parameter without effect has about the value under *by chance*. Ranges are divided into up to "
        f"five groups with equal numbers of trials; a score far worse than most is replaced by the worst of the others."
    )
    rows = [
        (f"`{key}`", _share(weight.eta_squared), _share(weight.by_chance), weight.groups, weight.best or "-")
        for key, weight in weights.items()
    ]
    yield _table(("parameter", "importance", "by chance", "groups", "best mean at"), rows)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(str(value)) for value in line) + " |" for line in lines)


def _cell(text: str) -> str:
    """Returns text for a table cell, on one line, with characters escaped that would end the cell or start HTML."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def _write(path: Path, content: bytes | str) -> None:
    try:
        replace_file(path, content)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
