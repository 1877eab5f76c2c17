"""Writing the log of a sweep's trials."""

import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vaedist.config import Value, told
from vaedist.errors import StorageError
from vaedist.monitor.sweep_events import State
from vaedist.sweeps.folder import SweepFolder
from vaedist.sweeps.trial import Trial

NAME_LENGTH = 80


@dataclass
class TrialLog:
    """Log of trials; each line is complete and on disk before `add` or `set` returns.

    Attributes:
        folder: folder of the sweep.
        trials: current states of the trials, by number.
    """

    folder: SweepFolder
    trials: dict[int, Trial] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: SweepFolder) -> "TrialLog":
        """Opens the log of a sweep to append to it; an incomplete last line, left by a crash, is removed."""
        trials = folder.read_trials()
        if folder.trials.exists():
            try:
                content = folder.trials.read_bytes()
                os.truncate(folder.trials, content.rfind(b"\n") + 1)
            except OSError as error:
                raise StorageError(f"cannot write {folder.trials}: {error.strerror or error}") from error
        return cls(folder, {trial.number: trial for trial in trials})

    def add(self, number: int, params: Mapping[str, Value]) -> Trial:
        """Adds a trial and returns it."""
        self._write({"trial": number, "state": "open", "run": run_name(number, params), "params": dict(params)})
        return self.trials[number]

    def set(self, number: int, state: State, reason: str = "", until: int | None = None) -> Trial:
        """Sets the state of a trial, and the last epoch that counts, and returns the trial."""
        facts = {**({"reason": reason} if reason else {}), **({} if until is None else {"until": until})}
        self._write({"trial": number, "state": state, **facts})
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
        self.folder.follow(self.trials, record)


def run_name(number: int, params: Mapping[str, Value]) -> str:
    """Returns the name of a trial's run, from its number and its parameters, such as 0007-depth-3-width-320."""
    said = "-".join(f"{key.rpartition('.')[2]}-{told(value)}" for key, value in params.items())
    return re.sub(r"[^A-Za-z0-9._-]", "_", f"{number:04d}-{said}")[:NAME_LENGTH].rstrip("-._")
