"""Runs in one row each, from what their folders hold; no model is loaded."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vaedist.errors import RunError
from vaedist.monitor.metrics import read_metrics
from vaedist.training.run_folder import RunFolder


@dataclass(frozen=True)
class Summary:
    """A run in one row.

    Attributes:
        name: of its folder.
        epoch, epochs: passes completed, and asked for.
        step: updates in its newest row of metrics.
        elbo, best_elbo: newest and best test ELBO, nats an image; None before the first test pass.
        depth, latent, hidden: sizes of the model.
        likelihood: of the pixels.
        learning_rate, global_batch: of the training.
    """

    name: str
    epoch: int
    epochs: int
    step: int
    elbo: float | None
    best_elbo: float | None
    depth: int
    latent: int
    hidden: int
    likelihood: str
    learning_rate: float
    global_batch: int


def summarize(folder: RunFolder) -> Summary:
    """A run in one row, from its experiment and its metrics; no checkpoint is read.

    Raises:
        RunError: there is no run there.
    """
    experiment = folder.read_experiment()
    rows = read_metrics(folder.metrics) if folder.metrics.exists() else []
    tests: list[dict[str, Any]] = [row for row in rows if row["kind"] == "test"]
    model, training = experiment.model, experiment.training
    return Summary(
        name=folder.name,
        epoch=tests[-1]["epoch"] if tests else 0,
        epochs=training.epochs,
        step=rows[-1]["step"] if rows else 0,
        elbo=tests[-1]["elbo"] if tests else None,
        best_elbo=max((row["elbo"] for row in tests), default=None),
        depth=model.flow.depth,
        latent=model.latent,
        hidden=model.hidden,
        likelihood=model.likelihood,
        learning_rate=training.learning_rate,
        global_batch=training.global_batch,
    )


def list_runs(path: str | Path) -> list[RunFolder]:
    """The runs in a folder, by name; the folder itself, where it is a run.

    Raises:
        RunError: there is no such folder.
    """
    path = Path(path)
    if not path.is_dir():
        raise RunError(f"no runs at {path}: no such folder")
    folders = [RunFolder(path), *(RunFolder(child) for child in sorted(path.iterdir()) if child.is_dir())]
    return [folder for folder in folders if folder.experiment.is_file()]
