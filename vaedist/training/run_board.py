"""TensorBoard of a running training: curves by split, pictures, and the run's row of the HParams table."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vaedist.config import Experiment
from vaedist.data.manifest import SplitName
from vaedist.monitor.curves import TRAIN, charts, epoch_scalars, hparam_metrics, training_scalars
from vaedist.monitor.metrics import EPOCH_KINDS, read_metrics
from vaedist.monitor.tensorboard import PREFIX, TensorBoardWriter
from vaedist.runs.folder import RunFolder

# Sections and keys of an experiment that are hyperparameters, besides all options of the model.
HYPERPARAMETERS = {
    "data": ("path",),
    "objective": ("kl_warmup_epochs", "free_bits", "samples"),
    "training": ("epochs", "global_batch", "optimizer", "learning_rate", "schedule", "weight_decay", "ema_decay",
                 "precision"),
}  # fmt: skip


@dataclass(frozen=True)
class LoggedRun:
    """Facts about a run that its logs depend on.

    Attributes:
        split: the split that is scored after each epoch, "validation" or "test".
        resume_step: step of the checkpoint that the run resumes from; None for a new run.
        workers: number of workers, for the throughput per worker.
        layers: names of the model's stochastic layers.
        bits_per_dim: True if the model has bits/dim.
        trial: True for a trial of a sweep, which writes the row of the HParams table itself.
    """

    split: SplitName
    resume_step: int | None
    workers: int
    layers: Sequence[str]
    bits_per_dim: bool = False
    trial: bool = False


class RunBoard:
    """Writes a run's TensorBoard events, for rank 0.

    Curves of training are in the subfolder train/, those of the scored split in the subfolder of its name, with the
    same tags (see `monitor.curves`). All else is in the folder itself.

    A run of an earlier version, which had all curves in the folder itself under other tags, is resumed with complete
    curves: those before the checkpoint are written again from the run's metrics.

    Args:
        run: the run's folder; its metrics must not have rows after `resume_step`.
        experiment: the experiment, which is shown as text.
        facts: further facts about the run.

    Raises:
        StorageError: by any method, if the folder cannot be written.
    """

    def __init__(self, run: RunFolder, experiment: Experiment, facts: LoggedRun) -> None:
        self._facts = facts
        folders = (run.tensorboard, run.tensorboard / TRAIN, run.tensorboard / facts.split)
        old = facts.resume_step is not None and not _events_in(run, run.tensorboard / TRAIN)
        self.common, self.training, self.scored = (_writer(run, folder, facts.resume_step) for folder in folders)
        if facts.resume_step is None:
            shown = {"bits_per_dim": facts.bits_per_dim, "importance": experiment.monitor.importance_samples > 0}
            self.common.text("experiment", f"```toml\n{experiment.to_toml()}\n```")
            self.common.charts(charts(facts.layers, **shown))
            if not facts.trial:
                self.common.hparams(hyperparameters(experiment), hparam_metrics(facts.split, **shown))
        if old:
            self._write_again(run)

    def train(self, step: int, row: Mapping[str, Any]) -> None:
        """Writes the points of a row of training metrics."""
        self.training.scalars(step, training_scalars(row, workers=self._facts.workers, layers=self._facts.layers))

    def epoch(self, step: int, row: Mapping[str, Any], train_elbo: float) -> None:
        """Writes the points of the means over the scored split, and the training ELBO of the epoch."""
        self.scored.scalars(step, epoch_scalars(row, layers=self._facts.layers))
        self.training.scalars(step, {"epoch_elbo": train_elbo})

    def end(self) -> None:
        """Marks the run as finished in the HParams table."""
        if not self._facts.trial:
            self.common.end_hparams()

    def flush(self) -> None:
        """Flushes all events to disk."""
        for writer in self._writers:
            writer.flush()

    def close(self) -> None:
        """Flushes and closes all files."""
        for writer in self._writers:
            writer.close()

    @property
    def _writers(self) -> tuple[TensorBoardWriter, ...]:
        return self.common, self.training, self.scored

    def _write_again(self, run: RunFolder) -> None:
        """Writes the curves of all rows of the run's metrics."""
        for row in read_metrics(run.metrics):
            row = {name: math.nan if value is None else value for name, value in row.items()}
            if row["kind"] == "train":
                self.train(row["step"], row)
            elif row["kind"] in EPOCH_KINDS:
                self.epoch(row["step"], row, row.get("train_elbo", math.nan))


def hyperparameters(experiment: Experiment) -> dict[str, float | int | str | bool]:
    """Returns the hyperparameters of a run that TensorBoard lists, by dotted key; arrays and paths as text."""
    found = {f"{section}.{key}": getattr(getattr(experiment, section), key) for section, keys in HYPERPARAMETERS.items()
             for key in keys}  # fmt: skip
    found |= {
        "model.type": experiment.model.type,
        **{f"model.{key}": value for key, value in experiment.model.values().items()},
    }
    found |= {"scaling.workers": experiment.scaling.workers, "seed": experiment.seed}
    return {key: value if isinstance(value, int | float) else str(value) for key, value in found.items()}


def _writer(run: RunFolder, folder: Path, resume_step: int | None) -> TensorBoardWriter:
    purge = None if resume_step is None else resume_step + 1
    return TensorBoardWriter(folder, purge_step=purge, after=_events_in(run, folder))


def _events_in(run: RunFolder, folder: Path) -> list[str]:
    return [path.name for path in run.files_in(folder, f"{PREFIX}*")]
