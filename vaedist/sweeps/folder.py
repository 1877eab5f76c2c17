"""A sweep's folder: what lies where, and the log of its trials."""

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

from vaedist.config import NAME_PATTERN, Sweep, Value, told
from vaedist.errors import RunError, StorageError
from vaedist.monitor.metrics import epoch_rows, read_metrics
from vaedist.monitor.sweep_events import State
from vaedist.runs.folder import RunFolder
from vaedist.storage.stored_folder import StoredFolder

NAME_LENGTH = 80
LOG_SECONDS = 2.0  # between two looks whether the log of trials grew


@dataclass(frozen=True)
class Epoch:
    """What the images of `split` scored after an epoch of a trial; elbo and importance_bound in nats an image."""

    epoch: int
    step: int
    elbo: float
    importance_bound: float | None = None
    bits_per_dim: float | None = None
    split: str = "test"


@dataclass(frozen=True)
class Trial:
    """One trial of a sweep, as its log and its run tell it.

    Attributes:
        number: from 0.
        params: the values of the keys that are varied.
        run: its run folder, which is there once it began.
        state: how it went; "stopped" is by the scheduler.
        starts: how often it was started or gone on with.
        reason: why it failed.
        until: of its epochs, the last that is looked at; None looks at all that were made.
    """

    number: int
    params: Mapping[str, Value]
    run: RunFolder
    state: State = "open"
    starts: int = 0
    reason: str = ""
    until: int | None = None

    @property
    def name(self) -> str:
        """The name of its run."""
        return self.run.name

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of its run's metrics; none where they are missing or cannot be read, of which `fault` tells."""
        return [] if self.fault else self._read_rows()

    @cached_property
    def fault(self) -> str:
        """What is wrong with its run's metrics; empty if nothing is."""
        try:
            self._read_rows()
        except RunError as error:
            return str(error)
        return ""

    def _read_rows(self) -> list[dict[str, Any]]:
        return read_metrics(self.run.metrics) if os.path.lexists(self.run.metrics) else []

    @cached_property
    def epochs(self) -> tuple[Epoch, ...]:
        """What the epochs that it made scored; those that were not finite are left out."""
        return tuple(
            Epoch(
                row["epoch"], row["step"], row["elbo"], row.get("importance_bound"), row.get("bits_per_dim"),
                row["kind"],
            )
            for row in epoch_rows(self.rows)
            if self.until is None or row["epoch"] <= self.until
        )  # fmt: skip

    @property
    def split(self) -> str:
        """Whose images were scored after each epoch, "validation" or "test"; empty before the first has ended."""
        return self.epochs[-1].split if self.epochs else ""

    def best_epoch(self, metric: str, mode: str) -> Epoch | None:
        """The epoch that scored best of a metric; None where none was scored."""
        scored = [epoch for epoch in self.epochs if getattr(epoch, metric) is not None]
        return (max if mode == "max" else min)(scored, key=lambda epoch: getattr(epoch, metric), default=None)

    def best(self, metric: str, mode: str) -> float | None:
        """What its best epoch scored of a metric; None where none was scored."""
        epoch = self.best_epoch(metric, mode)
        return None if epoch is None else getattr(epoch, metric)


@dataclass(frozen=True)
class SweepFolder(StoredFolder):
    """Files of one sweep, local or on an object store, and the runs of its trials, each by its name.

    Files are read from and written to the working copy (see `FolderStore`), which `refresh` brings up to date.
    """

    @classmethod
    def of(cls, sweep: Sweep) -> "SweepFolder":
        """Returns the folder that a sweep names."""
        return cls.named(sweep.run.folder, sweep.run.name)

    def trial(self, name: str) -> RunFolder:
        """Returns the run of a trial."""
        return RunFolder(self.store.child(name))

    @property
    def sweep(self) -> Path:
        """The resolved sweep, as TOML."""
        return self.path / "sweep.toml"

    @property
    def trials(self) -> Path:
        """The log of trials: one JSON object a line, for every change of a trial's state."""
        return self.path / "trials.jsonl"

    @property
    def logs(self) -> Path:
        """Output of Ray and TensorFlow."""
        return self.path / "logs"

    @property
    def ray(self) -> Path:
        """Ray Tune's own records."""
        return self.path / "ray"

    @property
    def report(self) -> Path:
        """The report, as Markdown."""
        return self.path / "report.md"

    @property
    def results(self) -> tuple[Path, Path]:
        """A record of each trial, as CSV and as JSON."""
        return self.path / "results.csv", self.path / "results.json"

    @property
    def plots(self) -> Path:
        """The report's plots, as PNG."""
        return self.path / "plots"

    def refresh(self) -> None:
        """Brings the working copies of the sweep, its log, and its trials' metrics and pictures up to date.

        Raises:
            StorageError: the object store does not answer.
        """
        self.store.refresh(self.sweep, self.trials)
        files = self.store.files()
        self.store.fetch({path: state for path, state in files.items() if is_of_trial(path.relative_to(self.path))})

    @contextmanager
    def workspace(self, notify: Callable[[str], None]) -> Iterator["SweepFolder"]:
        """Gives the sweep as the process that runs it uses it; when the context ends, all is where it is kept.

        What the trials write to an object store themselves is left to them.

        Args:
            notify: told when an object store does not answer.

        Raises:
            StorageError: an object store refused, or did not answer for `RUN_SECONDS`.
        """
        patient = self.patient(notify).store
        with patient.workspace(leave=lambda name: is_of_trial(Path(name)), every=LOG_SECONDS) as store:
            folder = SweepFolder(store)
            folder.refresh()
            yield folder

    def read_sweep(self) -> Sweep:
        """Returns the sweep that was started here.

        Raises:
            RunError: there is none.
        """
        self.require(self.sweep, "sweep")
        return Sweep.from_file(self.sweep)

    def read_trials(self) -> list[Trial]:
        """Returns all trials, by number.

        Raises:
            RunError: there is no sweep here, or a line of its log cannot be read.
        """
        self.require(self.sweep, "sweep")
        try:
            *lines, _torn = self.trials.read_bytes().split(b"\n")  # a line ends with its newline
        except FileNotFoundError:
            return []
        except OSError as error:
            raise RunError(f"cannot read {self.trials}: {error.strerror or error}") from error
        space, trials = set(self.read_sweep().tune.space), dict[int, Trial]()
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
                _check(record, space)
                self._follow(trials, record)
            except (ValueError, KeyError, TypeError, RecursionError):
                raise RunError(f"{self.trials} line {number} says nothing of a trial; delete it to go on") from None
        return [trials[number] for number in sorted(trials)]

    def _follow(self, trials: dict[int, Trial], record: Mapping[str, Any]) -> None:
        number, state = record["trial"], record["state"]
        if number not in trials:
            trials[number] = Trial(number, record["params"], self.trial(record["run"]))
        trial = trials[number]
        trials[number] = replace(
            trial, state=state, starts=trial.starts + (state == "running"), reason=record.get("reason", "")
        )


def is_of_trial(name: Path) -> bool:
    """Returns True for a file that a trial's workers write and a sweep reads, by its name relative to the sweep."""
    match name.parts:
        case (_, "metrics.jsonl" | "experiment.toml"):
            return True
        case (_, "pictures", picture):
            return "-epoch-" not in picture
    return False


def _check(record: Any, space: set[str]) -> None:
    """Checks that a record is one that a `TrialLog` of a sweep over the keys of `space` writes.

    Raises:
        ValueError, KeyError, TypeError: it is another one.
    """
    right = type(record["trial"]) is int and record["state"] in get_args(State)
    if "run" in record or "params" in record:
        name, params = record["run"], record["params"]  # a name that leads nowhere else
        right = right and bool(re.fullmatch(NAME_PATTERN, name)) and set(params) == space
        right = right and isinstance(params, dict) and all(isinstance(value, Value) for value in params.values())
    if not right or not isinstance(record.get("reason", ""), str):
        raise ValueError(record)


@dataclass
class TrialLog:
    """Writes the log of trials: whole lines only, each on the disk before the next step is taken.

    Attributes:
        folder: of the sweep.
        trials: as they are now, by number.
    """

    folder: SweepFolder
    trials: dict[int, Trial] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: SweepFolder) -> "TrialLog":
        """Go on with the log that is there, without what a crash tore off its end."""
        trials = folder.read_trials()
        if folder.trials.exists():
            try:
                content = folder.trials.read_bytes()
                os.truncate(folder.trials, content.rfind(b"\n") + 1)
            except OSError as error:
                raise StorageError(f"cannot write {folder.trials}: {error.strerror or error}") from error
        return cls(folder, {trial.number: trial for trial in trials})

    def add(self, number: int, params: Mapping[str, Value]) -> Trial:
        """A trial that is to be."""
        self._write({"trial": number, "state": "open", "run": run_name(number, params), "params": dict(params)})
        return self.trials[number]

    def set(self, number: int, state: State, reason: str = "") -> Trial:
        """A trial's new state."""
        self._write({"trial": number, "state": state, **({"reason": reason} if reason else {})})
        return self.trials[number]

    def _write(self, record: dict[str, Any]) -> None:
        path = self.folder.trials
        try:
            with path.open("ab", buffering=0) as file:
                end, line = file.tell(), json.dumps({**record, "time": round(time.time(), 3)}).encode() + b"\n"
                try:
                    while line:
                        line = line[file.write(line) :]
                    os.fsync(file.fileno())
                except OSError:
                    file.truncate(end)
                    raise
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
        self.folder._follow(self.trials, record)


def run_name(number: int, params: Mapping[str, Value]) -> str:
    """A run's name that tells what the trial is, as in 0007-depth-3-width-320."""
    said = "-".join(f"{key.rpartition('.')[2]}-{told(value)}" for key, value in params.items())
    return re.sub(r"[^A-Za-z0-9._-]", "_", f"{number:04d}-{said}")[:NAME_LENGTH].rstrip("-._")
