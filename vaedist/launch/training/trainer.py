"""Training on Ray: checks first, then Ray Train's workers, and their events to whoever watches."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig

from vaedist.config import Experiment, ScalingSection, check_classes
from vaedist.data.lanes import LanePlan
from vaedist.data.manifest import Manifest, SplitName, load_manifest, verify
from vaedist.data.worker_data import check_images
from vaedist.errors import ConfigError, Interrupted, WorkerError
from vaedist.launch.ray_internals import data_parallel_trainer, group_callback
from vaedist.launch.session import COMPUTING, environment, ray_session, resources_per_worker
from vaedist.launch.training.backend import TensorflowCluster
from vaedist.launch.training.channel import StopRequest, open_channel
from vaedist.launch.training.failure_budget import FailureBudget
from vaedist.launch.training.group_supervisor import GroupSupervisor, last_line
from vaedist.launch.training.locked_folder import RAY_LOG, owned, record_name, records_of_ray
from vaedist.launch.training.ray_worker import work
from vaedist.launch.user_code import code_of
from vaedist.monitor.events import Event, Notice, Started, Waiting
from vaedist.packages import digests_of
from vaedist.runs.checkpoint_store import checkpoints_of
from vaedist.runs.folder import RunFolder
from vaedist.runs.resuming import check_run, check_same_code, check_same_data, is_complete
from vaedist.storage.uri import absolute_location, is_remote

E = TypeVar("E", bound=Experiment)
# For a worker that gives no sign of life, as one that was stopped by a signal. Ray's own 600 s are for those that keep
# Python's interpreter busy, as these never do for longer than it takes to import TensorFlow.
HANGING_SECONDS = 60
# For an elastic group to find its places. Ray counts on a machine that is gone for up to 20 s more, and tries a group
# that has no room; the next try is with what is left.
ROOM_SECONDS = 15
# Between two looks for nodes that are to be taken away: of the 30 s that some clouds give, Ray's own 5 are many.
DRAINING_SECONDS = 1
STOP_SECONDS = 120.0  # for the workers to end their step and commit a checkpoint
ENDED = "ended"


def train(
    experiment: Experiment,
    *,
    resume: bool = False,
    changed_code: bool = False,
    address: str | None = None,
    observe: Callable[[Event], None] = lambda _: None,
    stop: StopRequest | None = None,
    quiet: bool = True,
) -> RunFolder:
    """Train an experiment with Ray Train, and return the run's folder.

    Args:
        experiment: what to train; `run.name` must be set.
        resume: go on with the run of that name, or return it if it is complete; without it, one that exists is refused.
        changed_code: resume although the code of the user's package that the model is in has changed.
        address: of the Ray cluster, see `ray_session`.
        observe: called with each event, in this thread.
        stop: for another thread to stop the run by, as KeyboardInterrupt does in this one.
        quiet: send what Ray prints to logs/ray.log in the run's folder instead of the terminal.

    Raises:
        VaedistError: what the user has to know; nothing was started, or what was committed stays.
        Interrupted: on KeyboardInterrupt or `stop`; if training had begun, its last step is in a checkpoint.
    """
    experiment, packages = with_absolute_paths(experiment), code_of(experiment)
    run = RunFolder.of(experiment)
    exists = check_run(run, experiment, resume=resume)
    if resume and not exists:
        observe(Notice(f"there is no run at {run.location} to go on with: starting it"))
    if exists and is_complete(run, experiment):
        observe(Notice(f"run {run.location} is complete: its {experiment.training.epochs} epochs are made"))
        return run
    check_classes(experiment)
    observe(Waiting("checking the data"))
    manifest = check_data(experiment)
    if exists:
        what, position = f"run {run.location}", checkpoints_of(run).reached()
        check_same_data(what, position, manifest, experiment.data.path)
        if not changed_code:
            check_same_code(what, position, digests_of(packages))
    busy = f"run {run.location} is being trained by another process"
    joined = address or os.environ.get("RAY_ADDRESS")
    observe(Waiting(f"joining Ray at {joined}" if joined else "starting Ray"))
    with owned(
        run, run.experiment, experiment.to_toml(), busy=busy, ray=ray_session(address, packages), quiet=quiet,
        notify=lambda text: observe(Notice(text)),
    ) as claim:  # fmt: skip

        def follow(event: Event) -> None:
            if isinstance(event, Started):  # until then the run is as it was, whatever may be in the way
                claim.accept()
            observe(event)

        resources = resources_per_worker(experiment.scaling)
        fewest, most = experiment.scaling.bounds
        count = f"{fewest} to {most}" if experiment.scaling.elastic else str(most)
        observe(Waiting(f"starting {count} worker(s)"))
        claim.begin()
        with records_of_ray(run) as records:
            _fit(experiment, run, resources, records, follow, stop or StopRequest())
    run.patient().refresh()
    return run


def with_absolute_paths(experiment: E) -> E:
    """An experiment or a sweep, with local paths that mean the same wherever a worker runs.

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
    """Finds out here, in a second, what workers would find out in a minute.

    Returns:
        the manifest of the data.

    Raises:
        VaedistError: the data is missing, damaged, or does not fit the experiment.
    """
    path = experiment.data.path
    # What is on a store is not read here: each shard's digest is checked when a machine fetches it.
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
) -> None:
    """Run Ray Train in a thread of its own, and pass events on in this one."""
    scaling, channel = experiment.scaling, open_channel()
    stop.attach(channel)
    trainer = _trainer(experiment, run, resources, records, channel)
    errors: list[BaseException] = []

    def fit() -> None:
        try:
            with environment(**_patience(scaling)):
                trainer.fit()
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
            errors.append(error)
        finally:
            channel.put.remote(ENDED)

    threading.Thread(target=fit, name="ray-train", daemon=True).start()
    _watch(channel, observe, stop)
    final = ray.get(channel.error.remote())
    if final is not None:
        raise final
    if errors:
        cause = getattr(errors[0], "controller_failure", None)
        if isinstance(errors[0], ray.exceptions.RayActorError):
            reason = "the process that watches over the workers died"
        elif isinstance(cause, WorkerError):
            reason = str(cause)
        else:
            reason = f"Ray Train gave up: {last_line(errors[0])}"
        log = run.store.location_of(run.logs / RAY_LOG)
        raise WorkerError(f"{reason}; {log} tells more, --resume goes on from the newest checkpoint")


def _trainer(experiment: Experiment, run: RunFolder, resources: dict[str, float], records: Path, channel: Any) -> Any:
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
        },
        scaling_config=ScalingConfig(
            num_workers=scaling.workers,
            use_gpu=scaling.gpus_per_worker > 0,
            resources_per_worker=resources,
            elastic_resize_monitor_interval_s=scaling.resize_seconds,
        ),
        # Checkpoints are ours, and the newest is found by looking: Ray's own record of a run is never read again.
        run_config=RunConfig(
            name=record_name(),
            storage_path=str(records),
            failure_config=FailureConfig(max_failures=-1),  # `GroupSupervisor` counts them
            worker_runtime_env=COMPUTING,
            callbacks=[group_callback(supervisor)],
        ),
    )


def _patience(scaling: ScalingSection) -> dict[str, str]:
    """Variables that Ray Train hands on to the processes of a run, but for what the user has set."""
    wanted = {
        "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": HANGING_SECONDS,
        "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": DRAINING_SECONDS,
    }
    if scaling.elastic and not scaling.autoscaling:
        wanted["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = ROOM_SECONDS
    return {name: os.environ.get(name, str(seconds)) for name, seconds in wanted.items()}


def _watch(channel: Any, observe: Callable[[Event], None], stop: StopRequest) -> None:
    """Pass events on until the end; a first KeyboardInterrupt asks the workers to stop, a second one does not wait."""
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
            observe(Notice("stopping after this step, to save it; Ctrl-C again stops at once"))
        except ray.exceptions.GetTimeoutError:
            raise Interrupted(f"stopped: the workers did not end within {STOP_SECONDS:.0f} s") from None
