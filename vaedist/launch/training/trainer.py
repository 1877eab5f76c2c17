"""Training on Ray: checks the job, runs Ray Train's workers, and reports their events."""

import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig

from vaedist.config import Experiment, ScalingSection, check_classes
from vaedist.data.lanes import LanePlan
from vaedist.data.manifest import Manifest, SplitName, load_manifest, verify
from vaedist.data.worker_data import check_images
from vaedist.errors import ConfigError, Interrupted, WorkerError
from vaedist.launch.logs import RESUMABLE
from vaedist.launch.ray_internals import data_parallel_trainer, group_callback
from vaedist.launch.session import COMPUTING, environment, ray_session, resources_per_worker
from vaedist.launch.signals import sigterm_interrupts
from vaedist.launch.training.backend import TensorflowCluster
from vaedist.launch.training.channel import StopRequest, open_channel
from vaedist.launch.training.failure_budget import FailureBudget
from vaedist.launch.training.group_supervisor import GroupSupervisor, last_line
from vaedist.launch.training.locked_folder import RAY_LOG, owned, record_name, records_of_ray
from vaedist.launch.training.ray_worker import work
from vaedist.launch.user_code import code_of
from vaedist.monitor.events import Event, Notice, Started, Waiting
from vaedist.monitor.progress import run_progress
from vaedist.packages import digests_of
from vaedist.runs.checkpoint import Position
from vaedist.runs.checkpoint_store import checkpoints_of
from vaedist.runs.folder import RunFolder
from vaedist.runs.resuming import check_run, check_same_code, check_same_data, is_complete
from vaedist.storage.claim import Claim
from vaedist.storage.uri import absolute_location, is_remote
from vaedist.wording import counted

E = TypeVar("E", bound=Experiment)
# Time until an unresponsive worker counts as dead. Ray's default of 600 s allows for workers that keep Python's
# interpreter busy, which these do only while they import TensorFlow.
HANGING_SECONDS = 60
# Time for an elastic group to get its resources. Ray includes a lost machine in its plans for up to 20 s, and tries to
# start a group that has no room; the next attempt uses the remaining machines.
ROOM_SECONDS = 15
# Interval of the polls for nodes that will be preempted. Ray's default is 5 s, of the 30 s that some clouds give.
DRAINING_SECONDS = 1
STOP_SECONDS = 300.0  # for the workers to finish their step and commit a checkpoint
ENDED = "ended"


def train(
    experiment: Experiment,
    *,
    resume: bool = False,
    changed_code: bool = False,
    changed_precision: bool = False,
    address: str | None = None,
    observe: Callable[[Event], None] | None = None,
    stop: StopRequest | None = None,
    quiet: bool = True,
    trial: bool = False,
) -> RunFolder:
    """Trains an experiment with Ray Train, and returns the run's folder.

    Args:
        experiment: the experiment; `run.name` must be set.
        resume: resume the run of that name, or return it if it is complete. Otherwise an existing run is refused.
        changed_code: resume although the code of the model's package has changed.
        changed_precision: resume although `training.precision` has changed.
        address: address of the Ray cluster, see `ray_session`.
        observe: called with each event, in this thread; by default, progress is shown in the notebook or on stderr.
        stop: lets another thread stop the run, as KeyboardInterrupt does in this one.
        quiet: send Ray's output to logs/ray.log in the run's folder instead of the terminal.
        trial: the run is a trial of a sweep, which writes the run's row in TensorBoard's HParams table.

    Raises:
        VaedistError: the experiment cannot be trained; nothing was started, or committed checkpoints stay.
        Interrupted: on KeyboardInterrupt, `stop`, or SIGTERM if the program does not handle it; if training had
            started, its last step is in a checkpoint.
    """
    with run_progress(observe) as shown, sigterm_interrupts():
        return _train(
            experiment, resume=resume, changed_code=changed_code, changed_precision=changed_precision, address=address,
            observe=shown, stop=stop or StopRequest(), quiet=quiet, trial=trial,
        )  # fmt: skip


def _train(
    experiment: Experiment, *, resume: bool, changed_code: bool, changed_precision: bool, address: str | None,
    observe: Callable[[Event], None], stop: StopRequest, quiet: bool, trial: bool,
) -> RunFolder:  # fmt: skip
    experiment, packages = with_absolute_paths(experiment), code_of(experiment)
    run = RunFolder.of(experiment)
    exists = check_run(run, experiment, resume=resume, changed_precision=changed_precision)
    if resume and not exists:
        observe(Notice(f"there is no run at {run.location} to resume: starting it"))
    if exists and is_complete(run, experiment):
        observe(Notice(f"run {run.location} is complete: all {experiment.training.epochs} epochs are done"))
        return run
    check_classes(experiment)
    observe(Waiting("checking the data"))
    manifest = check_data(experiment)
    if exists:
        reached = checkpoints_of(run).reached()
        check_unchanged(f"run {run.location}", reached, experiment, manifest, None if changed_code else packages)
    joined = address or os.environ.get("RAY_ADDRESS")
    observe(Waiting(f"connecting to Ray at {joined}" if joined else "starting Ray, which takes some seconds"))
    busy = f"run {run.location} is being trained by another process"
    with owned(
        run, run.experiment, experiment.to_toml(), busy=busy, ray=ray_session(address, packages), quiet=quiet,
        notify=lambda text: observe(Notice(text)),
    ) as claim:  # fmt: skip
        resources = resources_per_worker(experiment.scaling)
        fewest, most = experiment.scaling.bounds
        workers = f"{fewest} to {most} workers" if experiment.scaling.elastic else counted(most, "worker")
        observe(Waiting(f"starting {workers}, loading TensorFlow: up to a minute"))
        claim.begin()
        with records_of_ray(run) as records:
            _fit(experiment, run, resources, records, _accepting(claim, observe), stop, trial=trial)
    run.patient().refresh()
    return run


def check_unchanged(
    what: str, reached: Position | None, job: Experiment, manifest: Manifest, packages: Sequence[Path] | None
) -> None:
    """Checks that data and code are those of a run's or a sweep's checkpoints, before it is resumed.

    Args:
        what: the run or the sweep, for the message.
        reached: position of its newest checkpoint, None if it has none.
        job: the experiment or the sweep.
        manifest: the manifest of its data.
        packages: the user's packages; None accepts any change of code.

    Raises:
        RunError: the data or a package has changed.
    """
    check_same_data(what, reached, manifest, job.data.path)
    if packages is not None:
        check_same_code(what, reached, digests_of(packages))


def _accepting(claim: Claim, observe: Callable[[Event], None]) -> Callable[[Event], None]:
    """Returns `observe`, but accepts the claim once training has started; before, an older record stays."""

    def follow(event: Event) -> None:
        if isinstance(event, Started):
            claim.accept()
        observe(event)

    return follow


def with_absolute_paths(experiment: E) -> E:
    """Returns an experiment or a sweep whose local paths are absolute, as workers run in other folders.

    Raises:
        ConfigError: it has no name.
    """
    if not experiment.run.name:
        raise ConfigError("run.name is empty: give the run a name")
    path, folder = map(absolute_location, (experiment.data.path, experiment.run.folder))
    return experiment.model_copy(
        update={
            "data": experiment.data.model_copy(update={"path": path}),
            "run": experiment.run.model_copy(update={"folder": folder}),
        }
    )


def check_data(experiment: Experiment) -> Manifest:
    """Checks the data here, in a second; workers would take a minute to fail.

    Returns:
        The manifest of the data.

    Raises:
        VaedistError: the data is missing, damaged, or does not fit the experiment.
    """
    path = experiment.data.path
    # Shards on an object store are not read here; their digests are checked when a machine fetches them.
    manifest = verify(path) if experiment.data.verify and not is_remote(path) else load_manifest(path)
    check_images(experiment, manifest.shape)
    training, scaling = experiment.training, experiment.scaling
    _, most = scaling.bounds
    batches: dict[SplitName, int] = {
        "train": training.global_batch,
        manifest.selection_split: training.eval_batch,
    }
    for split, batch in batches.items():
        listed = manifest.splits[split]
        LanePlan(listed.rows, len(listed.shards), batch, 0, most)
    devices = most * scaling.devices_per_worker
    if training.global_batch < devices:
        raise ConfigError(
            f"training.global_batch = {training.global_batch}: must be at least the number of devices, {devices} "
            f"({most} workers of {scaling.devices_per_worker})"
        )
    return manifest


def _fit(
    experiment: Experiment,
    run: RunFolder,
    resources: dict[str, float],
    records: Path,
    observe: Callable[[Event], None],
    stop: StopRequest,
    *,
    trial: bool,
) -> None:
    """Runs Ray Train in a separate thread, and reports its events in this one."""
    scaling, channel = experiment.scaling, open_channel()
    stop.attach(channel)
    trainer = _trainer(experiment, run, resources, records, channel, trial=trial)
    errors: list[BaseException] = []

    def fit() -> None:
        try:
            with environment(**_patience(scaling)):
                trainer.fit()
        except BaseException as error:  # noqa: BLE001 - passed to the waiting thread
            errors.append(error)
        finally:
            channel.put.remote(ENDED)

    threading.Thread(target=fit, name="ray-train", daemon=True).start()
    advice = f"see {run.store.location_of(run.logs / RAY_LOG)}; {RESUMABLE}"
    try:
        _watch(channel, observe, stop)
        final = ray.get(channel.error.remote())
    except ray.exceptions.RayActorError as error:  # the channel is on this machine, and ends with its Ray
        raise WorkerError(f"Ray has ended on this machine; {advice}") from error
    if final is not None:
        raise final
    if errors:
        raise WorkerError(f"{_reason(errors[0])}; {advice}")


def _reason(error: BaseException) -> str:
    """Returns the reason why Ray Train failed, in one line."""
    cause = getattr(error, "controller_failure", None)
    if isinstance(error, ray.exceptions.RayActorError):
        return "the process that supervises the workers died"
    if isinstance(cause, WorkerError):
        return str(cause)
    return f"Ray Train gave up: {last_line(error)}"


def _trainer(
    experiment: Experiment, run: RunFolder, resources: dict[str, float], records: Path, channel: Any, *, trial: bool
) -> Any:
    """Returns Ray Train's trainer of a run."""
    scaling = experiment.scaling
    supervisor = GroupSupervisor(channel, FailureBudget(scaling.max_failures, scaling.failure_window_hours))
    return data_parallel_trainer()(
        work,
        backend_config=TensorflowCluster(run.location, channel, scaling.ports),
        train_loop_config={
            "experiment": experiment.to_toml(),
            "run": run.location,
            "channel": channel,
            "threads": max(1, int(resources["CPU"])),
            "trial": trial,
        },
        scaling_config=ScalingConfig(
            num_workers=scaling.workers,
            use_gpu=scaling.gpus_per_worker > 0,
            resources_per_worker=resources,
            elastic_resize_monitor_interval_s=scaling.resize_seconds,
        ),
        # vaedist keeps its own checkpoints, and never reads Ray's records of a run.
        run_config=RunConfig(
            name=record_name(),
            storage_path=str(records),
            failure_config=FailureConfig(max_failures=-1),  # `GroupSupervisor` counts failures
            worker_runtime_env=COMPUTING,
            callbacks=[group_callback(supervisor)],
        ),
    )


def _patience(scaling: ScalingSection) -> dict[str, str]:
    """Returns the timeouts for the processes of a run, as environment variables; the user's own values come first."""
    wanted = {
        "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": HANGING_SECONDS,
        "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": DRAINING_SECONDS,
    }
    if scaling.elastic and not scaling.autoscaling:
        wanted["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = ROOM_SECONDS
    return {name: os.environ.get(name, str(seconds)) for name, seconds in wanted.items()}


def _watch(channel: Any, observe: Callable[[Event], None], stop: StopRequest) -> None:
    """Reports events until the end; a first KeyboardInterrupt asks the workers to stop, a second stops at once."""
    started, deadline = False, None
    pending = channel.get.remote()
    while True:
        try:
            left = None if deadline is None else max(deadline - time.monotonic(), 0)
            event = ray.get(pending, timeout=left)
            if event == ENDED:
                return
            pending = channel.get.remote()
            started = started or isinstance(event, Started)
            observe(event)
        except KeyboardInterrupt:
            stop.interrupt()
            if not started:
                raise Interrupted("stopped before training began") from None
            if deadline is not None:
                raise Interrupted("stopped at once; the newest checkpoint stays") from None
            deadline = time.monotonic() + STOP_SECONDS
            observe(Notice("stopping after the current steps, and saving a checkpoint; Ctrl-C again stops at once"))
        except ray.exceptions.GetTimeoutError:
            raise Interrupted(
                f"stopped: the workers did not end within {STOP_SECONDS:.0f} s; the newest checkpoint stays"
            ) from None
