"""What a sweep tells the terminal: how its trials stand, and lines that should stay."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

# "open" trials are yet to end: they were not started, or the sweep was stopped under them; "stopped" ones were stopped
# by the scheduler.
State: TypeAlias = Literal["open", "running", "finished", "stopped", "failed"]
ENDED: tuple[State, ...] = ("finished", "stopped", "failed")


@dataclass(frozen=True)
class TrialStatus:
    """How a trial stands.

    Attributes:
        number, params: which one it is.
        state: how it goes.
        epoch: epochs that it has made.
        last, best: of the sweep's metric; None before its first epoch ends.
        reason: why it failed.
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
        name: of the sweep.
        trials: how many there are to be.
        at_once: how many of them run at once.
        epochs: that a trial makes, if nothing stops it.
        metric: that is optimised, and `mode`, whether "max" or "min" of it is best.
        ended: trials that ended before, when a sweep is gone on with.
        split: whose images the metric is of, "validation" or "test".
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
    """One line that the user should see."""

    text: str


SweepEvent: TypeAlias = SweepStarted | TrialStatus | SweepNotice
