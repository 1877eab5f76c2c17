"""Checks before a run starts: that it may be started or resumed, and whether it is already complete."""

from collections.abc import Mapping

from vaedist.config import Experiment, differences
from vaedist.data.manifest import Manifest
from vaedist.errors import CheckpointError, RunError
from vaedist.monitor.metrics import epoch_rows, read_metrics
from vaedist.runs.checkpoint import Position
from vaedist.runs.checkpoint_store import checkpoints_of
from vaedist.runs.folder import RunFolder
from vaedist.wording import counted

# Keys that may change when a run is resumed: they do not affect the results, only their number or where they are.
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


def check_run(run: RunFolder, experiment: Experiment, *, resume: bool, changed_precision: bool = False) -> bool:
    """Returns True if there is a run that the experiment may resume, False if there is none; nothing is written.

    Args:
        run: the run's folder.
        experiment: the experiment to train.
        resume: True if an existing run is to be resumed.
        changed_precision: accept a change of `training.precision`; checkpoints are in float32 in any precision.

    Raises:
        RunError: there is a run and `resume` is not set; or the experiment changes a key that must not change, or
            requests fewer epochs than were completed.
        StorageError: the object store does not respond.
    """
    if not run.store.exists():
        return False
    run.refresh()
    if not resume:
        raise RunError(
            f"run {run.location} exists: use --resume to resume it, or --name to start another; in Python, resume=True "
            "or another run.name"
        )
    before, accepted = run.read_experiment(), ("training.precision",) if changed_precision else ()
    for key, old, new in differences(before, experiment):
        scheduled = key == "training.epochs" and experiment.training.decays_to_the_end
        if scheduled or not key.startswith((*MAY_CHANGE, *accepted)):
            why = ", as the learning rate decays until the last epoch" if scheduled else ""
            other = "--changed-precision accepts that; " if key == "training.precision" else ""
            raise RunError(
                f"run {run.location} was started with {key} = {old!r}, and the job says {new!r}, which would be "
                f"another run{why}; {other}use --name to start one"
            )
    _check_epochs(run, experiment.training.epochs)
    return True


def _check_epochs(run: RunFolder, epochs: int) -> None:
    position = checkpoints_of(run).reached()
    if position is None:
        return
    in_the_next = position.elbo is None  # a checkpoint at the end of an epoch has an ELBO
    if position.epoch > epochs or (position.epoch == epochs and in_the_next):
        done = counted(position.epoch, "epoch") + (" and part of the next" if in_the_next else "")
        raise RunError(
            f"run {run.location} has completed {done}, and the job says training.epochs = {epochs}: a resumed run must "
            f"not have fewer epochs"
        )


def is_complete(run: RunFolder, experiment: Experiment) -> bool:
    """Returns True if a run has completed all epochs, and has its last scores and an intact last checkpoint.

    If either is missing, the run is not complete: its workers then restore it.

    Raises:
        RunError: the metrics cannot be read.
        StorageError: the object store does not respond.
    """
    epochs = experiment.training.epochs
    if run.read_experiment().training.epochs != epochs:
        return False
    checkpoints = checkpoints_of(run)
    position = checkpoints.reached()
    if position is None or position.epoch != epochs or position.elbo is None or not run.metrics.exists():
        return False
    scored = any(row["step"] == position.step for row in epoch_rows(read_metrics(run.metrics)))
    try:
        newest = checkpoints.newest()
    except CheckpointError:
        return False
    return scored and newest is not None and newest.position == position


def check_same_data(what: str, position: Position | None, manifest: Manifest, path: str) -> None:
    """Checks that a run or a sweep is resumed on the data that it was started with.

    Args:
        what: name of the run or sweep in messages, such as "run runs/x".
        position: position of a checkpoint; None if there is none.
        manifest: manifest of the current data set.
        path: location of the current data set.

    Raises:
        RunError: the fingerprints differ.
    """
    if position is not None and position.fingerprint != manifest.fingerprint:
        raise RunError(
            f"{what} was trained on data {position.fingerprint[:12]}, and {path} is {manifest.fingerprint[:12]}: "
            f"resume it with the data that it was started with, or use --name to start another"
        )


def check_same_code(what: str, position: Position | None, digests: Mapping[str, str]) -> None:
    """Checks that a run or a sweep is resumed with the user's code that it was started with.

    Args:
        what: name of the run or sweep in messages, such as "run runs/x".
        position: position of a checkpoint; None if there is none.
        digests: digests of the packages that define the model now, by name.

    Raises:
        RunError: a package has changed, or is no longer used.
    """
    for name, before in (position.packages if position is not None else {}).items():
        if (now := digests.get(name)) != before:
            raise RunError(
                f"{what} was trained with package {name} {before[:12]}, which is now {now[:12] if now else 'unused'}: "
                "--changed-code resumes with the current code, --name starts another"
            )
