"""What one worker does, from nothing to the end of a run. Who starts workers, and how, is not its business."""

import math
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import Any

from vaedist.config import Experiment
from vaedist.data.manifest import load_manifest
from vaedist.data.rows import SplitRows
from vaedist.data.worker_data import open_inputs
from vaedist.devices.strategy import configure_devices, local_devices, make_strategy, require_replicas
from vaedist.errors import DataError, RunError
from vaedist.evaluation.importance import ImportanceEvaluator
from vaedist.models.build import build_model
from vaedist.monitor.events import Event, Finished, Notice
from vaedist.runs.checkpoint import Checkpoint
from vaedist.runs.checkpoint_store import CheckpointStore
from vaedist.runs.folder import RunFolder
from vaedist.runs.workspace import workspace
from vaedist.storage.retry import RUN_SECONDS
from vaedist.training.loop import Loop
from vaedist.training.run_logger import RunLogger


@dataclass(frozen=True)
class Worker:
    """A worker's place and its ways to the outside.

    Attributes:
        rank, workers: which one it is, and of how many.
        threads: CPUs that it was given.
        notify: takes the events of the first worker.
        should_stop: whether the user asked to stop.
        should_save: whether the first worker is asked to save, in its own good time before the group is ended.
        agree: gives every worker what the first one passed in.
        may_write: asked before anything is written; raises when others write now.
        guard: context in which TensorFlow's server is started, should the worker have one.
    """

    rank: int = 0
    workers: int = 1
    threads: int = 1
    notify: Callable[[Event], None] = lambda _: None
    should_stop: Callable[[], bool] = lambda: False
    should_save: Callable[[], bool] = lambda: False
    agree: Callable[[Any], Any] = lambda value: value
    may_write: Callable[[], None] = lambda: None
    guard: AbstractContextManager[None] = field(default_factory=nullcontext)


def train(experiment: Experiment, run: RunFolder, worker: Worker) -> dict[str, float]:
    """Train a run, from its newest intact checkpoint if it has one, to its end.

    Every worker of a run calls this, in a process where TensorFlow was not used before.

    Returns:
        the means of the last pass over the split that is scored, in nats an image.

    Raises:
        VaedistError: whatever the user has to know; what was committed stays.
    """
    scaling = experiment.scaling
    configure_devices(
        worker.threads, math.ceil(scaling.gpus_per_worker), scaling.logical_devices,
        tensor_float_32=experiment.training.tensor_float_32,
    )  # fmt: skip
    with worker.guard:
        strategy = make_strategy(worker.workers)
    require_replicas(strategy, worker.workers, scaling.devices_per_worker)
    manifest = load_manifest(experiment.data.path, seconds=RUN_SECONDS)
    inputs = open_inputs(
        experiment, manifest, rank=worker.rank, workers=worker.workers, replicas=local_devices(strategy)
    )
    first = worker.agree(inputs.fingerprint)
    if inputs.fingerprint != first:
        raise DataError(
            f"worker {worker.rank} on {os.uname().nodename} finds other data at {experiment.data.path} than the first "
            f"worker: {inputs.fingerprint[:12]}, not {first[:12]}; data.path must be the same data on all machines"
        )
    with ExitStack() as stack:
        run, checkpoints = stack.enter_context(
            workspace(
                run, experiment.checkpoint.keep,
                first=worker.rank == 0, notify=worker.notify, may_write=worker.may_write,
            )
        )  # fmt: skip
        checkpoint = _checkpoint(checkpoints, worker)
        with strategy.scope():
            model = build_model(experiment, manifest.shape)
        recorder = importance = None
        if worker.rank == 0:
            step = checkpoint.position.step if checkpoint else None
            if step is not None:
                checkpoints.drop_after(step)
            recorder = stack.enter_context(
                RunLogger(
                    run, experiment, split=inputs.split, resume_step=step, workers=worker.workers,
                    notify=worker.notify,
                )
            )  # fmt: skip
            if samples := experiment.monitor.importance_samples:
                rows = SplitRows(experiment.data.path, manifest, inputs.split)
                importance = ImportanceEvaluator(model, rows, samples=samples, seed=experiment.seed)
        loop = Loop(
            experiment, model, strategy, inputs, checkpoints, checkpoint=checkpoint, recorder=recorder,
            importance=importance, workers=worker.workers,
            should_stop=worker.should_stop, should_save=worker.should_save,
        )  # fmt: skip
        means = loop.run()
    if worker.rank == 0:  # all is where it belongs by now, be it on a store
        worker.notify(Finished(experiment.training.epochs, loop.total_steps, means["elbo"], inputs.split))
    return means


def _checkpoint(checkpoints: CheckpointStore, worker: Worker) -> Checkpoint | None:
    """Returns the checkpoint that the first worker finds to be the newest intact one; every worker opens it."""
    name = None
    if worker.rank == 0:
        newest = checkpoints.newest(lambda text: worker.notify(Notice(text)))
        name = newest.path.name if newest else None
    name = worker.agree(name)
    if name is None:
        return None
    path = checkpoints.folder / name
    if not checkpoints.find(name):
        raise RunError(f"worker {worker.rank} cannot see {path}: run.folder must be shared by all workers' machines")
    return checkpoints.open(path)
