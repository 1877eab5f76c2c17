"""Layout of a sweep's folder, and reading of its log of trials."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from vaedist.config import NAME_PATTERN, Sweep, Value
from vaedist.errors import RunError
from vaedist.monitor.sweep_events import State
from vaedist.runs.folder import RunFolder
from vaedist.storage.stored_folder import StoredFolder
from vaedist.sweeps.trial import Trial

LOG_SECONDS = 2.0  # between two searches for new lines in the log of trials


@dataclass(frozen=True)
class SweepFolder(StoredFolder):
    """Files of a sweep, local or on an object store, and the runs of its trials by name.

    Files are read from and written to the working copy (see `FolderStore`), which `refresh` updates.
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
        """Log of trials: one line of JSON for every change of a trial's state."""
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
        """Updates the working copies of the sweep, its log, and its trials' metrics and pictures.

        Raises:
            StorageError: the object store does not answer.
        """
        self.store.refresh(self.sweep, self.trials)
        files = self.store.files()
        self.store.fetch({path: state for path, state in files.items() if is_of_trial(path.relative_to(self.path))})

    @contextmanager
    def workspace(self, notify: Callable[[str], None]) -> Iterator["SweepFolder"]:
        """Returns a context with the sweep's working copy, for the process that runs the sweep.

        Changes are uploaded to an object store within the context, and all of them when it ends. Files that trials
        upload themselves are excluded.

        Args:
            notify: called with a notice if an object store does not answer.

        Raises:
            StorageError: an object store refused a request, or did not answer for `RUN_SECONDS`.
        """
        patient = self.patient(notify).store
        with patient.workspace(leave=lambda name: is_of_trial(Path(name)), every=LOG_SECONDS) as store:
            folder = SweepFolder(store)
            folder.refresh()
            yield folder

    def read_sweep(self) -> Sweep:
        """Returns the settings of the sweep in this folder.

        Raises:
            RunError: there is no sweep here.
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
                self.follow(trials, record)
            except (ValueError, KeyError, TypeError, RecursionError):
                raise RunError(f"{self.trials} line {number} is not a trial's record; delete it to continue") from None
        return [trials[number] for number in sorted(trials)]

    def follow(self, trials: dict[int, Trial], record: Mapping[str, Any]) -> None:
        """Updates trials, by number, with a record of the log."""
        number, state = record["trial"], record["state"]
        if number not in trials:
            trials[number] = Trial(number, record["params"], self.trial(record["run"]))
        trial = trials[number]
        trials[number] = replace(
            trial, state=state, starts=trial.starts + (state == "running"), reason=record.get("reason", ""),
            until=record.get("until"),
        )  # fmt: skip


def is_of_trial(name: Path) -> bool:
    """Returns True for a file that a trial's workers write and a sweep reads, given its path relative to the sweep."""
    match name.parts:
        case (_, "metrics.jsonl" | "experiment.toml"):
            return True
        case (_, "pictures", picture):
            return "-epoch-" not in picture
    return False


def _check(record: Any, space: set[str]) -> None:
    """Checks that a record has the form that `TrialLog` writes, for a sweep over the keys of `space`.

    Raises:
        ValueError, KeyError, TypeError: it has another form.
    """
    right = type(record["trial"]) is int and record["state"] in get_args(State)
    if "run" in record or "params" in record:
        name, params = record["run"], record["params"]  # the name must not lead out of the folder
        right = right and bool(re.fullmatch(NAME_PATTERN, name)) and set(params) == space
        right = right and isinstance(params, dict) and all(isinstance(value, Value) for value in params.values())
    right = right and isinstance(record.get("reason", ""), str) and type(record.get("until", 1)) is int
    if not right:
        raise ValueError(record)
