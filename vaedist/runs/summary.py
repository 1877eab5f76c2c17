"""Summaries of runs, read from their folders without loading a model."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vaedist.errors import RunError, VaedistError
from vaedist.monitor.metrics import epoch_rows, read_metrics
from vaedist.runs.folder import RunFolder


@dataclass(frozen=True)
class Summary:
    """Summary of a run.

    Attributes:
        name: name of the run's folder.
        epoch, epochs: completed epochs, and total epochs of the job.
        step: step of the newest row of metrics.
        split: split that is scored after each epoch, "validation" or "test"; None before the first epoch has ended.
        elbo, best_elbo: newest and best ELBO of that split, nats per image; None before the first epoch has ended.
        model: type of the model.
        options: options of the model, by key.
        changed: options that differ from their defaults.
        learning_rate, global_batch: training settings.
    """

    name: str
    epoch: int
    epochs: int
    step: int
    split: str | None
    elbo: float | None
    best_elbo: float | None
    model: str
    options: dict[str, Any]
    changed: dict[str, Any]
    learning_rate: float
    global_batch: int


@dataclass(frozen=True)
class Unreadable:
    """A run that cannot be read.

    Attributes:
        name: name of the run's folder.
        error: the reason, in one line.
    """

    name: str
    error: str


def summarize_all(path: str | Path) -> list[Summary | Unreadable]:
    """Returns summaries of the runs that `list_runs` finds in a folder; runs that cannot be read are `Unreadable`.

    Raises:
        RunError: there is no such folder, or it cannot be read.
        StorageError: the object store does not respond.
    """
    found: list[Summary | Unreadable] = []
    for folder in list_runs(path):
        try:
            found.append(summarize(folder))
        except (VaedistError, OSError) as error:
            found.append(Unreadable(folder.name, " ".join(str(error).split())))
    return found


def summarize(folder: RunFolder) -> Summary:
    """Returns a run's summary from its experiment and metrics; no checkpoint is read.

    If a user's class cannot be imported, its options are those in the run's folder, and all count as changed.

    Raises:
        RunError: there is no run, or its metrics cannot be read.
        ConfigError: its experiment cannot be read or was written by another version.
    """
    experiment = folder.read_experiment(need_classes=False)
    rows = read_metrics(folder.metrics) if os.path.lexists(folder.metrics) else []
    tests = epoch_rows(rows)
    try:
        scores = [float(row["elbo"]) for row in tests]
    except OverflowError:  # JSON's integers have no limit
        raise RunError(f"{folder.metrics} holds a score that is too large for a number") from None
    model, training = experiment.model, experiment.training
    return Summary(
        name=folder.name,
        epoch=tests[-1]["epoch"] if tests else 0,
        epochs=training.epochs,
        step=rows[-1]["step"] if rows else 0,
        split=tests[-1]["kind"] if tests else None,
        elbo=scores[-1] if scores else None,
        best_elbo=max(scores, default=None),
        model=model.type,
        options=model.values(),
        changed=model.changed(),
        learning_rate=training.learning_rate,
        global_batch=training.global_batch,
    )


def list_runs(location: str | Path) -> list[RunFolder]:
    """Returns the runs in a folder, local or on an object store, sorted by name; or the folder itself if it is a run.

    Folders without an experiment but with metrics, and folders that cannot be read, count as runs. The working copies
    of the runs are refreshed.

    Raises:
        RunError: there is no such folder, or it cannot be read.
        StorageError: the object store does not respond, or the parent folder cannot be read.
    """
    parent = RunFolder.at(location)
    try:
        names = parent.store.folders()
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(f"no runs at {parent.location}: no such folder") from None
    except OSError as error:
        raise RunError(f"cannot read {parent.location}: {error.strerror or error}") from error
    found = [parent, *(RunFolder(parent.store.child(name)) for name in names)]
    return [run for run in found if _is_run(run)]


def _is_run(run: RunFolder) -> bool:
    """Returns True if a folder holds a run, or cannot be read."""
    run.refresh()
    try:
        names = {path.name for path in run.path.iterdir()}
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return not names.isdisjoint((run.experiment.name, run.metrics.name))
