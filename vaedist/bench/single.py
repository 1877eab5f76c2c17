"""Benchmark of a single worker: its step, the parts of the step, its input and its test pass, measured in turn."""

import itertools
import math
import platform
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from vaedist.bench.hlo_cost import Work, work_of
from vaedist.bench.machine import FLOAT, memory_task, products_task, update_task
from vaedist.bench.record import Record
from vaedist.bench.tasks import Task, in_turn
from vaedist.config import Experiment
from vaedist.data.lane_reader import Chunk, LaneReader
from vaedist.data.manifest import load_manifest
from vaedist.data.rows import SplitRows
from vaedist.data.worker_data import WorkerData, open_inputs
from vaedist.devices.strategy import configure_devices, local_devices, make_strategy
from vaedist.errors import NonFiniteError
from vaedist.evaluation.test_pass import Evaluator
from vaedist.models.build import build_model, training_policy
from vaedist.training.build import build_step
from vaedist.training.initialisation import initialise_from_data
from vaedist.training.step import TrainStep

# Keys that the speed of a job depends on.
KEYS = ("data.path", "model", "objective", "training.global_batch", "training.accumulation_steps", "training.optimizer",
        "training.precision", "training.deterministic", "training.reduce_dtype", "training.steps_per_call")  # fmt: skip


def measure(
    experiment: Experiment, *, threads: int, rounds: int, progress: Callable[[str], None] = lambda _: None
) -> Record:
    """Measures the speed of a single worker, in a process that has not used TensorFlow before.

    Args:
        experiment: the job; its data must be prepared. The number of devices is that of `scaling`; its number of
            workers is ignored.
        threads: CPUs to compute with.
        rounds: number of measurements of each quantity.
        progress: called with a description of each step.

    Raises:
        VaedistError: the data cannot be read, or training diverges.
    """
    scaling, training = experiment.scaling, experiment.training
    configure_devices(
        threads, scaling.gpus_per_worker, scaling.logical_devices,
        tensor_float_32=training.precision == "tf32", deterministic=training.deterministic,
    )  # fmt: skip
    strategy = make_strategy(1)
    manifest = load_manifest(experiment.data.path)
    inputs = open_inputs(experiment, manifest, rank=0, workers=1, replicas=local_devices(strategy))
    with strategy.scope():
        model = build_model(experiment, manifest.shape, training_policy(experiment))
    initialise_from_data(model, strategy, SplitRows(experiment.data.path, manifest, "train"), seed=experiment.seed)
    plan = inputs.train.plan
    step = build_step(experiment, model, strategy, steps_per_epoch=plan.steps, global_batch=training.global_batch)
    evaluator = Evaluator(model, strategy, inputs.scored, seed=experiment.seed)
    progress("compiling")
    chunk = inputs.train.read(0, 0, min(training.steps_per_call, plan.rows // training.global_batch), step.capacity)
    work = work_of(step.program(chunk))
    return Record(
        machine=_machine(threads, strategy.num_replicas_in_sync),
        job={key: _value(experiment, key) for key in KEYS},
        counts=_counts(step, work, manifest.shape),
        measures=in_turn(_tasks(step, chunk, work, inputs, evaluator), rounds, progress),
    )


def _counts(step: TrainStep, work: Work, image_shape: Sequence[int]) -> dict[str, int]:
    """Returns the counts of a record.

    With gradient accumulation, the work on a part of the batch is in the body of a loop, which is counted once.
    """
    parameters, slots, parts = _parameters(step), len(step.optimizer.slots), step.accumulation_steps
    return {
        "parameters": parameters,
        "images a step": step.global_batch,
        "bytes an image": math.prod(image_shape),
        "products": parts * len(work.products),
        "convolutions": parts * len(work.convolutions),
        "flops a step": parts * work.flops,
        "bytes an update": FLOAT * parameters * (2 * (1 + slots) + 1),
    }


def _tasks(step: TrainStep, chunk: Chunk, work: Work, inputs: WorkerData, evaluator: Evaluator) -> dict[str, Task]:
    """Returns the tasks to time: the step, its parts alone, the input and the test pass."""
    images = chunk.steps * step.global_batch
    products = [*work.products, *(convolution.product for convolution in work.convolutions)]
    return {
        "step": Task(_stepping(step, chunk), images, "images/s"),
        "products": products_task(products * step.accumulation_steps),
        "update": update_task(step.optimizer, [tuple(weight.shape) for weight in step.weights]),
        "memory": memory_task(FLOAT * _parameters(step)),
        "input": Task(_reading(inputs.train, chunk.steps, step.capacity), images, "images/s"),
        "test": Task(lambda: evaluator.run(0), inputs.scored.plan.rows, "images/s"),
    }


def _parameters(step: TrainStep) -> int:
    return sum(math.prod(weight.shape) for weight in step.weights)


def _stepping(step: TrainStep, chunk: Chunk) -> Callable[[], Any]:
    """Returns a function that runs the steps of a chunk; each call continues the numbering of steps.

    It raises NonFiniteError if training diverges, after which the remaining steps would not be run.
    """
    firsts = itertools.count(0, chunk.steps)

    def run() -> None:
        first = next(firsts)
        metrics, finite = step.run(chunk, first)
        if not finite:
            raise NonFiniteError(
                f"training became non-finite in step {first + len(metrics)} of the measurement: lower "
                "training.learning_rate or set training.clip_norm"
            )

    return run


def _reading(reader: LaneReader, steps: int, capacity: int) -> Callable[[], Any]:
    """Returns a function that reads the next chunk at each call, and starts over at the end of the epoch."""
    firsts = itertools.cycle(range(0, reader.plan.steps - steps + 1, steps))
    return lambda: reader.read(0, next(firsts), steps, capacity)


def _value(experiment: Experiment, key: str) -> Any:
    value: Any = experiment
    for part in key.split("."):
        value = getattr(value, part)
    return value.model_dump() if hasattr(value, "model_dump") else value


def _machine(threads: int, devices: int) -> dict[str, str]:
    gpus = [tf.config.experimental.get_device_details(gpu).get("device_name", "GPU")
            for gpu in tf.config.get_visible_devices("GPU")]  # fmt: skip
    return {
        "processor": _processor(),
        "threads": str(threads),
        "GPUs": ", ".join(gpus) or "none",
        "devices": str(devices),
        "vaedist": metadata.version("vaedist"),
        "tensorflow": tf.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def _processor() -> str:
    """Returns the name of the processor, from Linux, or elsewhere from Python."""
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
