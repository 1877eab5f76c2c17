"""Events that a sweep sends to the terminal: states of its trials, and messages."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

# "open" trials have not ended: they were not started, or were interrupted with the sweep. "stopped" trials were stopped
# early by the scheduler.
State: TypeAlias = Literal["open", "running", "finished", "stopped", "failed"]
ENDED: tuple[State, ...] = ("finished", "stopped", "failed")


@dataclass(frozen=True)
class TrialStatus:
    """State of a trial.

    Attributes:
        number: number of the trial.
        params: values of the varied keys.
        state: state of the trial.
        epoch: completed epochs.
        last, best: last and best value of the sweep's metric; None before the first epoch is completed.
        reason: why the trial failed.
    """

    number: int
    params: Mapping[str, object]
    state: State
    epoch: int = 0
    last: float | None = None
    best: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class SweepStarted:
    """Trials are about to run.

    Attributes:
        name: name of the sweep.
        trials: total number of trials.
        at_once: number of concurrent trials.
        epochs: epochs of a trial that is not stopped early.
        metric: the metric to optimise.
        mode: "max" if higher values of the metric are better, else "min".
        ended: trials that ended before the sweep was resumed.
        split: split on which the metric is computed, "validation" or "test".
    """

    name: str
    trials: int
    at_once: int
    epochs: int
    metric: str
    mode: str
    ended: tuple[TrialStatus, ...] = ()
    split: str = "test"


@dataclass(frozen=True)
class SweepNotice:
    """A one-line message for the user."""

    text: str


SweepEvent: TypeAlias = SweepStarted | TrialStatus | SweepNotice
