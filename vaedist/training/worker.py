"""Training as one worker of a run; independent of how workers are started."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import Any

from vaedist.config import Experiment
from vaedist.data.manifest import Manifest, load_manifest
from vaedist.data.rows import SplitRows
from vaedist.data.worker_data import WorkerData, open_inputs
from vaedist.devices.strategy import configure_devices, local_devices, make_strategy, require_replicas
from vaedist.errors import DataError, RunError
from vaedist.evaluation.importance import ImportanceEvaluator
from vaedist.evaluation.scoring import score_layout
from vaedist.models.build import build_model, training_policy
from vaedist.models.model import Model
from vaedist.monitor.events import Event, Finished, Notice
from vaedist.runs.checkpoint import Checkpoint
from vaedist.runs.checkpoint_store import CheckpointStore
from vaedist.runs.folder import RunFolder
from vaedist.runs.workspace import workspace
from vaedist.storage.retry import RUN_SECONDS
from vaedist.training.initialisation import initialise_from_data
from vaedist.training.loop import Loop
from vaedist.training.run_board import LoggedRun
from vaedist.training.run_logger import RunLogger

# What a precision other than float32 means without GPUs.
ON_CPUS = {
    "tf32": "has no effect on CPUs",
    "mixed_bfloat16": "rounds as on GPUs, but is not faster: on CPUs, products are computed in float32",
}


@dataclass(frozen=True)
class Worker:
    """A worker's rank and resources, and its callbacks to the launcher.

    Attributes:
        rank: rank of the worker.
        workers: number of workers.
        threads: CPUs of the worker.
        notify: called with each event, on rank 0.
        should_stop: returns True once a stop was requested.
        should_save: returns True if a checkpoint is requested, before the worker group is replaced; on rank 0.
        agree: broadcasts rank 0's value to all workers.
        may_write: called before each write; raises if another worker group holds the writer lease.
        guard: context in which TensorFlow's server is started, if the worker has one.
        trial: True if the run is a trial of a sweep, which writes the run's row in TensorBoard's HParams table.
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
    trial: bool = False


def train(experiment: Experiment, run: RunFolder, worker: Worker) -> dict[str, float]:
    """Trains a run to its end, from its newest intact checkpoint if it has one.

    Every worker of a run calls this, in a process that has not used TensorFlow before.

    Returns:
        Means of the last pass over the evaluated split, in nats per image.

    Raises:
        VaedistError: the run cannot be trained further; committed checkpoints stay.
    """
    strategy = _make_strategy(experiment, worker)
    manifest = load_manifest(experiment.data.path, seconds=RUN_SECONDS)
    inputs = open_inputs(
        experiment, manifest, rank=worker.rank, workers=worker.workers, replicas=local_devices(strategy)
    )
    _check_same_data(experiment, worker, inputs.fingerprint)
    with ExitStack() as stack:
        run, checkpoints = stack.enter_context(
            workspace(
                run, experiment.checkpoint.keep,
                first=worker.rank == 0, notify=worker.notify, may_write=worker.may_write,
            )
        )  # fmt: skip
        checkpoint = _newest_checkpoint(checkpoints, worker)
        with strategy.scope():
            model = build_model(experiment, manifest.shape, training_policy(experiment))
        if checkpoint is None:
            rows = SplitRows(experiment.data.path, manifest, "train") if worker.rank == 0 else None
            initialise_from_data(model, strategy, rows, seed=experiment.seed)
        logger = importance = None
        if worker.rank == 0:
            step = checkpoint.position.step if checkpoint else None
            if step is not None:
                checkpoints.drop_after(step)
            logger = stack.enter_context(_logger(run, experiment, inputs, worker, step, model))
            importance = _importance_evaluator(experiment, manifest, inputs, model)
        loop = Loop(
            experiment, model, strategy, inputs, checkpoints, checkpoint=checkpoint, recorder=logger,
            importance=importance, workers=worker.workers,
            should_stop=worker.should_stop, should_save=worker.should_save,
        )  # fmt: skip
        means = loop.run()
    if worker.rank == 0:  # after the workspace has pushed everything to the run's folder
        worker.notify(Finished(experiment.training.epochs, loop.total_steps, means["elbo"], inputs.split))
    return means


def _make_strategy(experiment: Experiment, worker: Worker) -> Any:
    """Configures the worker's devices, and returns the strategy over those of all workers."""
    scaling = experiment.scaling
    configure_devices(
        worker.threads, scaling.gpus_per_worker, scaling.logical_devices,
        tensor_float_32=experiment.training.precision == "tf32", deterministic=experiment.training.deterministic,
    )  # fmt: skip
    precision = experiment.training.precision
    if precision != "float32" and not scaling.gpus_per_worker and worker.rank == 0:
        worker.notify(Notice(f"training.precision = {precision!r} {ON_CPUS[precision]}"))
    with worker.guard:
        strategy = make_strategy(worker.workers)
    require_replicas(strategy, worker.workers, scaling.devices_per_worker)
    return strategy


def _check_same_data(experiment: Experiment, worker: Worker, fingerprint: str) -> None:
    """Compares the fingerprint of this worker's data with that of rank 0."""
    first = worker.agree(fingerprint)
    if fingerprint != first:
        raise DataError(
            f"worker {worker.rank} on {os.uname().nodename} finds other data at {experiment.data.path} than the first "
            f"worker: {fingerprint[:12]}, not {first[:12]}; data.path must be the same data on all machines"
        )


def _logger(
    run: RunFolder, experiment: Experiment, inputs: WorkerData, worker: Worker, resume_step: int | None, model: Model
) -> RunLogger:
    facts = LoggedRun(
        split=inputs.split,
        resume_step=resume_step,
        workers=worker.workers,
        layers=tuple(score_layout(model).layers),
        bits_per_dim=model.levels is not None,
        trial=worker.trial,
    )
    return RunLogger(run, experiment, facts, notify=worker.notify)


def _importance_evaluator(
    experiment: Experiment, manifest: Manifest, inputs: WorkerData, model: Model
) -> ImportanceEvaluator | None:
    """Returns the evaluator of the importance-weighted bound after each epoch, None if it is disabled."""
    samples = experiment.monitor.importance_samples
    if not samples:
        return None
    rows = SplitRows(experiment.data.path, manifest, inputs.split)
    return ImportanceEvaluator(model, rows, samples=samples, seed=experiment.seed)


def _newest_checkpoint(checkpoints: CheckpointStore, worker: Worker) -> Checkpoint | None:
    """Opens the newest intact checkpoint, as found by rank 0, on every worker; returns None if there is none."""
    name = None
    if worker.rank == 0:
        newest = checkpoints.newest(lambda text: worker.notify(Notice(f"{text}; skipped")))
        name = newest.path.name if newest else None
    name = worker.agree(name)
    if name is None:
        return None
    path = checkpoints.folder / name
    if not checkpoints.find(name):
        raise RunError(f"worker {worker.rank} cannot see {path}: run.folder must be shared by all workers' machines")
    return checkpoints.open(path)
