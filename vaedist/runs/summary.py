"""Runs in one row each, from what their folders hold; no model is loaded."""

import os
from dataclasses import dataclass
from pathlib import Path

from vaedist.errors import RunError, VaedistError
from vaedist.monitor.metrics import epoch_rows, read_metrics
from vaedist.runs.folder import RunFolder
from vaedist.runs.remote import pulled
from vaedist.storage.paths import is_there
from vaedist.storage.transfer import Store
from vaedist.storage.uri import is_remote


@dataclass(frozen=True)
class Summary:
    """A run in one row.

    Attributes:
        name: of its folder.
        epoch, epochs: passes completed, and asked for.
        step: updates in its newest row of metrics.
        split: that was scored after each epoch, "validation" or "test"; None before the first.
        elbo, best_elbo: newest and best ELBO of that split, nats an image; None before the first epoch has ended.
        depth, latent, hidden: sizes of the model.
        likelihood: of the pixels.
        learning_rate, global_batch: of the training.
    """

    name: str
    epoch: int
    epochs: int
    step: int
    split: str | None
    elbo: float | None
    best_elbo: float | None
    depth: int
    latent: int
    hidden: int
    likelihood: str
    learning_rate: float
    global_batch: int


@dataclass(frozen=True)
class Unreadable:
    """A run that cannot be shown in a row.

    Attributes:
        name: of its folder.
        error: what is wrong, in one line.
    """

    name: str
    error: str


def summarize_all(path: str | Path) -> list[Summary | Unreadable]:
    """Returns the runs in a folder, as `list_runs` finds them; one that is broken hides no other.

    Raises:
        RunError: there is no such folder, or it cannot be read.
        StorageError: the store does not answer.
    """
    found: list[Summary | Unreadable] = []
    for folder in list_runs(path):
        try:
            found.append(summarize(folder))
        except (VaedistError, OSError) as error:
            found.append(Unreadable(folder.name, " ".join(str(error).split())))
    return found


def summarize(folder: RunFolder) -> Summary:
    """A run in one row, from its experiment and its metrics; no checkpoint is read.

    Raises:
        RunError: there is no run there, or its metrics cannot be read.
        ConfigError: its experiment cannot be read, or is of another version.
    """
    experiment = folder.read_experiment()
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
        depth=model.flow.depth,
        latent=model.latent,
        hidden=model.hidden,
        likelihood=model.likelihood,
        learning_rate=training.learning_rate,
        global_batch=training.global_batch,
    )


def list_runs(path: str | Path) -> list[RunFolder]:
    """The runs in a folder, or in a folder of a store, by name; the folder itself, where it is a run.

    A folder that lost its experiment or cannot be looked into counts as a run. Of runs on a store, what `summarize`
    needs is copied to this machine.

    Raises:
        RunError: there is no such folder, or it cannot be read.
        StorageError: the store does not answer, or nobody can tell what there is.
    """
    if is_remote(str(path)):
        return _list_remote(str(path))
    path = RunFolder.at(path).path
    if not is_there(path) or not path.is_dir():
        raise RunError(f"no runs at {path}: no such folder")
    try:
        children = sorted(child for child in path.iterdir() if child.is_dir())
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror or error}") from error
    return [folder for folder in map(RunFolder, [path, *children]) if _is_run(folder)]


def _is_run(folder: RunFolder) -> bool:
    """Returns True if a local folder holds a run, be it a broken one."""
    try:
        names = {path.name for path in folder.path.iterdir()}
    except OSError:
        return True  # nobody knows what it is
    return not names.isdisjoint((folder.experiment.name, folder.metrics.name))


def _list_remote(uri: str) -> list[RunFolder]:
    store = Store(uri)
    store.check()
    found = [RunFolder.at(uri), *(RunFolder.at(store.place(name)) for name in store.folders())]
    runs = [folder for folder in map(pulled, found) if folder.experiment.is_file() or folder.metrics.is_file()]
    if not runs and not store.files():
        raise RunError(f"no runs at {uri}: no such folder")
    return runs
