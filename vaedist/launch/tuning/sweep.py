"""Sweeps on Ray Tune: every trial is a run of its own, trained by Ray Train.

Ray Tune schedules, stops and counts trials. Their parameters and states are logged by the sweep itself (see
`SweepFolder`), and a sweep that was killed is resumed from this log, not from what Ray pickled some time before.
"""

import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune as ray_tune
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from vaedist.config import Sweep, check_classes
from vaedist.errors import RunError
from vaedist.launch.authentication import SECRET_NAME
from vaedist.launch.ray_internals import withhold_from_trials
from vaedist.launch.session import describe, jobs_at_once, node_resources, ray_session, resources_per_worker
from vaedist.launch.training.locked_folder import owned, record_name, records_of_ray
from vaedist.launch.training.trainer import check_data, check_unchanged, with_absolute_paths
from vaedist.launch.tuning.monitor import SweepMonitor
from vaedist.launch.tuning.search import Proposer, TrialSearch, make_proposer
from vaedist.launch.tuning.trial import TrialRunner
from vaedist.launch.user_code import code_of
from vaedist.monitor.progress import sweep_progress
from vaedist.monitor.sweep_events import SweepEvent, SweepNotice, SweepStarted
from vaedist.sweeps import SweepFolder, Trial, TrialLog
from vaedist.sweeps.resuming import check_same_split, check_sweep, ended_trials, reached_by_trials

# The process of a trial only coordinates. A CPU for it would be missing for the workers that it waits for. Ray Tune
# requires it to reserve something, so it reserves one byte of memory.
COORDINATOR = {"memory": 1}
ALL_ENDED = "all trials of the sweep have ended already"


@dataclass(frozen=True)
class Plan:
    """Resources and trials of a sweep on a cluster.

    Attributes:
        trials: number of trials.
        workers: number of workers of each trial.
        resources: resources of each worker.
        at_once: number of trials that run at the same time.
        cluster: resources of the cluster, in words.
    """

    trials: int
    workers: int
    resources: dict[str, float]
    at_once: int
    cluster: str


def plan(sweep: Sweep, *, address: str | None = None) -> Plan:
    """Plans a sweep by the resources of the cluster; starts and writes nothing.

    Args:
        sweep: the sweep.
        address: address of the Ray cluster, see `ray_session`.

    Raises:
        ClusterError: the cluster cannot be reached, or has no room for a trial.
    """
    with ray_session(address):
        return _plan(sweep)


def _plan(sweep: Sweep) -> Plan:
    most = min(sweep.tune.concurrent or sweep.trials, sweep.trials)
    resources = resources_per_worker(sweep.scaling, jobs=most)
    room = most if sweep.scaling.autoscaling else jobs_at_once(sweep.scaling, resources)
    return Plan(sweep.trials, sweep.scaling.bounds[0], resources, min(most, room), describe(node_resources()))


def tune(
    sweep: Sweep,
    *,
    resume: bool = False,
    retry_failed: bool = False,
    changed_code: bool = False,
    address: str | None = None,
    observe: Callable[[SweepEvent], None] | None = None,
    quiet: bool = True,
) -> SweepFolder:
    """Runs or resumes a sweep, and returns its folder.

    Args:
        sweep: the sweep; `run.name` must be set. The runs of its trials are in the folder of that name.
        resume: resume the sweep of that name. Trials that have ended stay as they are, others resume from their
            checkpoints. Only the number of trials, their time, and where they run may differ.
        retry_failed: when resuming, retry trials that failed.
        changed_code: resume although the code of the model's package has changed.
        address: address of the Ray cluster, see `ray_session`.
        observe: called with each event, in this thread; by default, progress is shown on stderr.
        quiet: send Ray's output to logs/ray.log in the sweep's folder instead of the terminal.

    Raises:
        VaedistError: the sweep cannot be run; nothing was started, or committed checkpoints stay.
        Interrupted: on KeyboardInterrupt; the sweep can be resumed.
    """
    with sweep_progress(observe) as shown:
        return _tune(
            sweep, resume=resume, retry_failed=retry_failed, changed_code=changed_code, address=address, observe=shown,
            quiet=quiet,
        )  # fmt: skip


def _tune(
    sweep: Sweep, *, resume: bool, retry_failed: bool, changed_code: bool, address: str | None,
    observe: Callable[[SweepEvent], None], quiet: bool,
) -> SweepFolder:  # fmt: skip
    sweep, packages = with_absolute_paths(sweep), code_of(sweep)
    folder = SweepFolder.of(sweep)
    _check_folder(folder, sweep, resume=resume)
    proposer = make_proposer(sweep)
    if resume and _has_ended(sweep, folder, proposer, observe, retry_failed=retry_failed):
        return folder
    check_classes(sweep)
    manifest = check_data(sweep.experiment({}, name="trial"))
    split = manifest.selection_split
    if resume:
        reached = reached_by_trials(folder)
        check_unchanged(f"sweep {folder.location}", reached, sweep, manifest, None if changed_code else packages)
        check_same_split(folder, sweep, split)

    def notify(text: str) -> None:
        observe(SweepNotice(text))

    busy = f"sweep {folder.location} is being run by another process"
    with owned(
        folder, folder.sweep, sweep.to_toml(), busy=busy, ray=ray_session(address, packages), quiet=quiet,
        notify=notify,
    ) as claim:  # fmt: skip
        planned = _plan(sweep)
        claim.begin()
        claim.accept()
        with folder.workspace(notify) as working, records_of_ray(folder) as records:
            _run(sweep, working, planned, proposer, records, observe, split=split, retry_failed=retry_failed)
    return folder


def _check_folder(folder: SweepFolder, sweep: Sweep, *, resume: bool) -> None:
    """Checks that a sweep exists and can be resumed, or with `resume` False that it does not exist."""
    exists = folder.store.exists()
    folder.refresh()
    if resume:
        check_sweep(folder, sweep)
    elif exists:
        raise RunError(
            f"sweep {folder.location} exists: use --resume to resume it, or --name to start another; in Python, "
            "resume=True or another run.name"
        )


def _started(sweep: Sweep, monitor: SweepMonitor, ended: Iterable[Trial], at_once: int, split: str) -> SweepStarted:
    settings = sweep.tune
    statuses = tuple(monitor.status(trial) for trial in ended)
    return SweepStarted(
        sweep.run.name, sweep.trials, at_once, sweep.training.epochs, settings.metric, settings.mode, statuses, split
    )


def _has_ended(
    sweep: Sweep, folder: SweepFolder, proposer: Proposer, observe: Callable[[SweepEvent], None], *, retry_failed: bool
) -> bool:
    """Returns True, and reports it, if all trials of a sweep have ended; does not start Ray."""
    log = TrialLog(folder, {trial.number: trial for trial in folder.read_trials()})
    ended = ended_trials(log, retry_failed=retry_failed)
    if len(ended) < max(len(log.trials), sweep.trials):
        return False
    split = next((trial.split for trial in ended.values() if trial.split), "test")
    observe(_started(sweep, SweepMonitor(sweep, log, proposer, observe), ended.values(), 0, split))
    observe(SweepNotice(ALL_ENDED))
    return True


def _run(
    sweep: Sweep, folder: SweepFolder, planned: Plan, proposer: Proposer, records: Path,
    observe: Callable[[SweepEvent], None], *, split: str, retry_failed: bool,
) -> None:  # fmt: skip
    """Runs the trials that have not ended with Ray Tune."""
    log, settings = TrialLog.open(folder), sweep.tune
    ended = ended_trials(log, retry_failed=retry_failed)
    again = [trial for number, trial in log.trials.items() if number not in ended]
    for trial in ended.values():
        proposer.learn(trial.number, trial.params, trial.best(settings.metric, settings.mode))
    search = TrialSearch(sweep, log, proposer, again)
    monitor = SweepMonitor(sweep, log, proposer, observe)
    observe(_started(sweep, monitor, ended.values(), planned.at_once, split))
    if not search.left:  # another process has run them in the meantime
        observe(SweepNotice(ALL_ENDED))
        return
    _configure_tune()
    runner = ray_tune.with_parameters(
        TrialRunner, sweep=sweep.to_toml(), folder=folder.location, cpus=planned.resources["CPU"]
    )
    tuner = ray_tune.Tuner(
        ray_tune.with_resources(runner, COORDINATOR),
        tune_config=_tune_config(search, make_scheduler(sweep, ended.values()), planned.at_once),
        run_config=_run_config(monitor, records, settings.retries),
    )
    with monitor.interruptible():
        tuner.fit()
    shutil.rmtree(records, ignore_errors=True)  # not used again
    monitor.conclude()


def _configure_tune() -> None:
    """Sets environment variables for Ray Tune, and keeps secrets from it."""
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # the monitor has its own
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    os.environ["TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S"] = "0"
    withhold_from_trials(name for name in os.environ if SECRET_NAME.search(name))  # every node has its own keys


def _tune_config(search: TrialSearch, scheduler: TrialScheduler, at_once: int) -> ray_tune.TuneConfig:
    return ray_tune.TuneConfig(
        search_alg=search,
        scheduler=scheduler,
        num_samples=search.left,
        max_concurrent_trials=at_once,
        trial_name_creator=lambda trial: trial.config["run"],
        trial_dirname_creator=lambda trial: f"{trial.config['run']}-{trial.trial_id}",
    )


def _run_config(monitor: SweepMonitor, records: Path, retries: int) -> ray_tune.RunConfig:
    return ray_tune.RunConfig(
        name=record_name(),
        storage_path=str(records),
        failure_config=ray_tune.FailureConfig(max_failures=retries),
        checkpoint_config=ray_tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
        callbacks=[monitor],
        stop=monitor.stopper(),
        verbose=0,
    )


@dataclass(frozen=True)
class _EndedTrial:
    """Stand-in for a trial, with the only attribute that schedulers read."""

    trial_id: str


def make_scheduler(sweep: Sweep, ended: Iterable[Trial] = ()) -> TrialScheduler:
    """Returns Ray Tune's scheduler of a sweep, which knows the epochs of trials that ended before."""
    settings, epochs = sweep.tune, sweep.training.epochs
    common: dict[str, Any] = {
        "time_attr": "epochs",
        "metric": settings.metric,
        "mode": settings.mode,
        "grace_period": settings.grace_epochs,
    }
    match settings.scheduler:
        case "none":
            return FIFOScheduler()
        case "asha":
            # A trial ends by itself when its last epoch is saved.
            scheduler = AsyncHyperBandScheduler(
                max_t=epochs + 1, reduction_factor=settings.reduction, stop_last_trials=False, **common
            )
        case "median":
            # By default it pauses trials for others that wait, but those have resources of their own.
            scheduler = MedianStoppingRule(min_time_slice=float("inf"), **common)
    for trial in ended:
        stand_in = _EndedTrial(f"ended-{trial.number}")
        for epoch in trial.epochs:
            result = {"epochs": epoch.epoch, settings.metric: getattr(epoch, settings.metric)}
            scheduler.on_trial_add(None, stand_in)
            scheduler.on_trial_complete(None, stand_in, result)
    return scheduler
