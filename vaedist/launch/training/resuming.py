"""Checks before a run or a sweep begins: whether it may be started or resumed, and whether it is complete already."""

from vaedist.config import Experiment, Sweep, differences
from vaedist.data.manifest import Manifest
from vaedist.errors import CheckpointError, ConfigError, RunError
from vaedist.monitor.metrics import epoch_rows, read_metrics
from vaedist.monitor.sweep_events import ENDED
from vaedist.runs.checkpoint import Position
from vaedist.runs.folder import RunFolder
from vaedist.runs.remote import checkpoints_of, pulled
from vaedist.storage.paths import is_there
from vaedist.storage.transfer import Store
from vaedist.sweeps import SweepFolder, Trial, TrialLog

# What a run that goes on may have otherwise than before: it does not change the numbers, or only how many there are.
MAY_CHANGE = (
    "run.",
    "data.path",
    "data.verify",
    "scaling.",
    "checkpoint.",
    "monitor.",
    "training.epochs",
    "training.steps_per_call",
)
# What a sweep that is gone on with may have otherwise: how much of it there is, and where it runs.
SWEEP_MAY_CHANGE = (
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


def check_run(run: RunFolder, experiment: Experiment, *, resume: bool) -> bool:
    """Returns True if there is a run, which the experiment may resume; nothing is written.

    Raises:
        RunError: there is a run and it is not to be resumed, or the experiment would make another run of it, or asks
            for fewer epochs than it has made.
        StorageError: the store does not answer.
    """
    if run.uri:
        store = Store(run.uri)
        store.check()
        if not store.files():
            return False
        pulled(run)
    elif not is_there(run.path):
        return False
    if not resume:
        raise RunError(f"run {run.place} exists: use --resume to go on with it, or --name to start another")
    before = run.read_experiment()
    for key, old, new in differences(before, experiment):
        scheduled = key == "training.epochs" and experiment.training.schedule == "cosine"
        if scheduled or not key.startswith(MAY_CHANGE):
            raise RunError(
                f"run {run.place} was started with {key} = {old!r}, and the job says {new!r}: it would be another "
                f"run; use --name to start one"
            )
    _check_epochs(run, experiment.training.epochs)
    return True


def _check_epochs(run: RunFolder, epochs: int) -> None:
    position = checkpoints_of(run).reached()
    if position is None:
        return
    in_the_next = position.elbo is None  # a checkpoint at an epoch's end has that of the scored split
    if position.epoch > epochs or (position.epoch == epochs and in_the_next):
        made = f"{position.epoch} epochs and part of the next" if in_the_next else f"{position.epoch} epochs"
        raise RunError(
            f"run {run.place} has made {made}, and the job says training.epochs = {epochs}: a run that is resumed "
            f"must have at least as many as were made"
        )


def is_complete(run: RunFolder, experiment: Experiment) -> bool:
    """Returns True if a run has made all its epochs, so that nothing is left to do but to read its result.

    The last checkpoint is compared with its digests, and the scores of the last epoch must be there; a run that lacks
    either is for the workers to mend.

    Raises:
        RunError: the metrics cannot be read.
        StorageError: the store does not answer.
    """
    epochs = experiment.training.epochs
    if run.read_experiment().training.epochs != epochs:
        return False
    store = checkpoints_of(run)
    position = store.reached()
    if position is None or position.epoch != epochs or position.elbo is None or not run.metrics.exists():
        return False
    scored = any(row["step"] == position.step for row in epoch_rows(read_metrics(run.metrics)))
    try:
        newest = store.newest()
    except CheckpointError:
        return False
    return scored and newest is not None and newest.position == position


def check_same_data(place: str, position: Position | None, manifest: Manifest, path: str) -> None:
    """Refuses to resume on other data than what a checkpoint was made on.

    Raises:
        RunError: the fingerprints differ.
    """
    if position is not None and position.fingerprint != manifest.fingerprint:
        raise RunError(
            f"{place} was trained on data {position.fingerprint[:12]}, and {path} is {manifest.fingerprint[:12]}: "
            f"resume it with the data that it was started with, or use --name to start another"
        )


def check_same_split(folder: SweepFolder, sweep: Sweep, split: str) -> None:
    """Refuses to compare trials by one split with those that were scored by the other.

    Raises:
        RunError: they were.
    """
    for trial in folder.read_trials():
        if trial.split not in ("", split):
            raise RunError(
                f"sweep {folder.place} was scored by its {trial.split} images, and with the data at {sweep.data.path} "
                f"it would be scored by {split} images; use --name to start a new one"
            )


def check_sweep(folder: SweepFolder, sweep: Sweep) -> None:
    """Refuses to resume a sweep as what it was not.

    Raises:
        RunError: there is no sweep, or this is another one.
        ConfigError: it has more trials already than are asked for.
    """
    for key, old, new in differences(folder.read_sweep(), sweep):
        if not key.startswith(SWEEP_MAY_CHANGE):
            was = f"another {key}" if key == "tune.space" else f"{key} = {old!r}, and the job says {new!r}"
            raise RunError(
                f"sweep {folder.place} was started with {was}: it would be another sweep; use --name to start one"
            )
    made = len(folder.read_trials())
    if sweep.trials < made:
        raise ConfigError(f"tune.samples = {sweep.trials}: the sweep at {folder.place} has {made} trials already")


def ended_trials(log: TrialLog, *, retry_failed: bool) -> dict[int, Trial]:
    """Returns the trials that stay as they are, by number."""
    kept = {*ENDED} - ({"failed"} if retry_failed else set())
    return {number: trial for number, trial in log.trials.items() if trial.state in kept}


def reached_by_trials(folder: SweepFolder) -> Position | None:
    """Returns how far some trial is that has a checkpoint, by the newest one; None if none has."""
    for trial in folder.read_trials():
        if (position := checkpoints_of(trial.run).reached()) is not None:
            return position
    return None
