"""Checks before a sweep is resumed."""

from vaedist.config import Sweep, differences
from vaedist.errors import ConfigError, RunError
from vaedist.monitor.sweep_events import ENDED
from vaedist.runs.checkpoint import Position
from vaedist.runs.checkpoint_store import checkpoints_of
from vaedist.sweeps.folder import SweepFolder
from vaedist.sweeps.trial import Trial
from vaedist.sweeps.trial_log import TrialLog

# Keys that may differ when a sweep is resumed: its size and duration, and where it runs.
MAY_CHANGE = (
    "run.",
    "data.path",
    "data.verify",
    "scaling.",
    "checkpoint.",
    "monitor.pictures",
    "monitor.log_every",
    "tune.samples",
    "tune.minutes",
    "tune.concurrent",
    "tune.retries",
)


def check_same_split(folder: SweepFolder, sweep: Sweep, split: str) -> None:
    """Checks that the existing trials of a sweep were scored on a split, so that all trials can be compared.

    Raises:
        RunError: they were scored on another split.
    """
    for trial in folder.read_trials():
        if trial.split not in ("", split):
            raise RunError(
                f"sweep {folder.location} was scored on {trial.split} images, and with the data at "
                f"{sweep.data.path} it would be scored on {split} images; use --name to start a new one"
            )


def check_sweep(folder: SweepFolder, sweep: Sweep) -> None:
    """Checks that a sweep may be resumed with these settings.

    Raises:
        RunError: there is no sweep, or a key differs that must not change.
        ConfigError: it already has more trials than requested.
    """
    for key, old, new in differences(folder.read_sweep(), sweep):
        if not key.startswith(MAY_CHANGE):
            was = f"another {key}" if key == "tune.space" else f"{key} = {old!r}, and the job says {new!r}"
            raise RunError(
                f"sweep {folder.location} was started with {was}: this must not change; use --name to start another"
            )
    made = len(folder.read_trials())
    if sweep.trials < made:
        raise ConfigError(f"tune.samples = {sweep.trials}: the sweep at {folder.location} already has {made} trials")


def ended_trials(log: TrialLog, *, retry_failed: bool) -> dict[int, Trial]:
    """Returns the trials that are not resumed, by number.

    Args:
        log: log of the sweep.
        retry_failed: retry failed trials.
    """
    kept = {*ENDED} - ({"failed"} if retry_failed else set())
    return {number: trial for number, trial in log.trials.items() if trial.state in kept}


def reached_by_trials(folder: SweepFolder) -> Position | None:
    """Returns the position of the first trial's newest checkpoint; None if no trial has a checkpoint."""
    for trial in folder.read_trials():
        if (position := checkpoints_of(trial.run).reached()) is not None:
            return position
    return None
