"""One process's part of a benchmark: its device, its rows, its step and its test pass, measured in turn."""

import itertools
import math
import platform
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from vaedist.bench.hlo_cost import work_of
from vaedist.bench.machine import FLOAT, memory_task, products_task, update_task
from vaedist.bench.record import Record
from vaedist.bench.tasks import Task, in_turn
from vaedist.config import Experiment
from vaedist.data.lane_reader import Chunk, LaneReader
from vaedist.data.manifest import load_manifest
from vaedist.data.worker_data import open_inputs
from vaedist.devices.strategy import configure_devices, local_devices, make_strategy
from vaedist.evaluation.test_pass import Evaluator
from vaedist.models.build import build_model
from vaedist.training.build import build_step
from vaedist.training.step import TrainStep

# What the speed of a job depends on.
KEYS = ("data.path", "model", "objective", "training.global_batch", "training.accumulation_steps", "training.optimizer",
        "training.reduce_dtype", "training.steps_per_call")  # fmt: skip


def measure(
    experiment: Experiment, *, threads: int, rounds: int, progress: Callable[[str], None] = lambda _: None
) -> Record:
    """Measure what a lone worker does, in a process where TensorFlow was not used before.

    Args:
        experiment: the job; its data must be prepared. `scaling` says on how many devices, not in how many workers.
        threads: CPUs to compute with.
        rounds: measurements of each.
        progress: told what is being done.

    Raises:
        VaedistError: the data cannot be read.
    """
    scaling, training = experiment.scaling, experiment.training
    configure_devices(
        threads, math.ceil(scaling.gpus_per_worker), scaling.logical_devices,
        tensor_float_32=experiment.training.tensor_float_32,
    )  # fmt: skip
    strategy = make_strategy(1)
    manifest = load_manifest(experiment.data.path)
    inputs = open_inputs(experiment, manifest, rank=0, workers=1, replicas=local_devices(strategy))
    with strategy.scope():
        model = build_model(experiment, manifest.shape)
    plan = inputs.train.plan
    step = build_step(experiment, model, strategy, steps_per_epoch=plan.steps, global_batch=training.global_batch)
    evaluator = Evaluator(model, strategy, inputs.scored, seed=experiment.seed)

    progress("compiling")
    steps = min(training.steps_per_call, plan.rows // training.global_batch)
    chunk = inputs.train.read(0, 0, steps, training.steps_per_call)
    # Those of a part of a batch are in the body of a loop, which counts once.
    products = work_of(step.program(chunk)).products * step.accumulation_steps
    shapes = [tuple(weight.shape) for weight in step.weights]
    parameters = sum(map(math.prod, shapes))
    slots = len(step.optimizer.slots)
    images, capacity = steps * training.global_batch, training.steps_per_call
    tasks = {
        "step": Task(_stepping(step, chunk), images, "images/s"),
        "products": products_task(products),
        "update": update_task(step.optimizer, shapes),
        "memory": memory_task(FLOAT * parameters),
        "input": Task(_reading(inputs.train, steps, capacity), images, "images/s"),
        "test": Task(lambda: evaluator.run(0), inputs.scored.plan.rows, "images/s"),
    }
    return Record(
        machine=_machine(threads, strategy.num_replicas_in_sync),
        job={key: _value(experiment, key) for key in KEYS},
        counts={
            "parameters": parameters,
            "images a step": training.global_batch,
            "bytes an image": math.prod(manifest.shape),
            "products": len(products),
            "flops a step": sum(product.flops for product in products),
            "bytes an update": FLOAT * parameters * (2 * (1 + slots) + 1),
        },
        measures=in_turn(tasks, rounds, progress),
    )


def _stepping(step: TrainStep, chunk: Chunk) -> Callable[[], Any]:
    """Takes a chunk's steps, again and again."""
    firsts = itertools.count(0, chunk.steps)
    return lambda: step.run(chunk, next(firsts))


def _reading(reader: LaneReader, steps: int, capacity: int) -> Callable[[], Any]:
    """Reads one chunk after another, epoch after epoch in the order of the first."""
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
    """The processor's name, as Linux has it; elsewhere as Python does."""
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
