"""Benchmarks on Ray: of a single worker and its parts, and of the throughput of short runs of several workers."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import ray

from vaedist.bench.record import WORKERS, Measure, Record
from vaedist.config import Experiment, ScalingSection, check_classes
from vaedist.errors import Interrupted
from vaedist.launch.actors import ended
from vaedist.launch.session import COMPUTING, ray_session, resources_per_worker
from vaedist.launch.training.channel import StopRequest, open_channel
from vaedist.launch.training.trainer import check_data, train, with_absolute_paths
from vaedist.launch.user_code import code_of
from vaedist.monitor.events import Event, Progress, Started
from vaedist.runs.folder import RunFolder
from vaedist.wording import counted

ROW_SECONDS = 2.0  # of training, for one sample of the throughput
MANY_EPOCHS = 1_000_000  # never reached, as the run is stopped before


def bench(
    experiment: Experiment,
    *,
    workers: Sequence[int] = (1,),
    rounds: int = 5,
    address: str | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Record:
    """Measures the speed of a job, on Ray workers with the resources that training would use.

    Args:
        experiment: the job; its data must be prepared. `run.folder` temporarily holds the measured runs.
        workers: numbers of workers to measure the throughput for; the workers share the cluster's CPUs.
        rounds: number of measurements of each quantity. If there are several numbers of workers, they alternate, each
            measurement in a separate run.
        address: address of the Ray cluster, see `ray_session`.
        progress: called with a description of each step.

    Raises:
        ValueError: `workers` is empty, or a number is less than 1.
        VaedistError: the data cannot be read, or the cluster has no room.
        WorkerError: a worker died.
    """
    if not workers or min(workers) < 1 or rounds < 1:
        raise ValueError(f"workers = {tuple(workers)}, rounds = {rounds}: must be at least 1")
    experiment = with_absolute_paths(experiment.with_values({"run.name": "bench"}))
    runs = {count: _short(experiment, count) for count in workers}
    check_classes(experiment)
    check_data(experiment.with_values({"scaling.workers": max(workers)}))  # only once, as it may read all data
    progress("connecting to Ray")
    with ray_session(address, code_of(experiment)):
        for short in runs.values():
            resources_per_worker(short.scaling)
        record = _single(experiment, rounds, progress)
        every = _steps_per_row(experiment, record)
        runs = {count: short.with_values({"monitor.log_every": every}) for count, short in runs.items()}
        scaling = {
            f"{WORKERS}{count}": Measure("images/s", tuple(rates))
            for count, rates in _in_turn(runs, rounds, progress).items()
        }
    return replace(record, measures={**record.measures, **scaling})


def _steps_per_row(experiment: Experiment, record: Record) -> int:
    """Returns the steps of `ROW_SECONDS`: whole calls, as rows of one call would all have the same throughput."""
    training = experiment.training
    images_per_call = training.steps_per_call * training.global_batch
    return training.steps_per_call * math.ceil(ROW_SECONDS * record.measures["step"].median / images_per_call)


def _short(experiment: Experiment, count: int) -> Experiment:
    """Returns a run of `count` workers that only trains, until it is stopped."""
    return experiment.with_values(
        {
            "run.name": f"bench-{count}-{time.strftime('%Y%m%d-%H%M%S')}",
            "scaling.workers": count,
            "training.epochs": MANY_EPOCHS,
            "scaling.max_failures": 0,
            "scaling.cpus_per_worker": 0,
            "checkpoint.every_steps": 0,
            "monitor.pictures_every": 0,
            "monitor.importance_samples": 0,
            "data.verify": False,
        }
    )


def _single(experiment: Experiment, rounds: int, progress: Callable[[str], None]) -> Record:
    """Returns the measurements of a single worker."""
    scaling = experiment.scaling
    resources = resources_per_worker(ScalingSection(gpus_per_worker=scaling.gpus_per_worker))
    channel = open_channel()
    actor = ray.remote(_Single).options(
        num_cpus=resources["CPU"], num_gpus=resources.get("GPU", 0), runtime_env=COMPUTING
    ).remote()  # fmt: skip
    found = actor.measure.remote(experiment, max(1, int(resources["CPU"])), rounds, channel)
    with ended([actor], "the worker died"):
        heard = channel.get.remote()
        while True:
            ready, _ = ray.wait([found, heard])
            if found in ready:
                return ray.get(found)
            progress(ray.get(heard))
            heard = channel.get.remote()


class _Single:
    """Actor that measures a single worker in its own process."""

    def measure(self, experiment: Experiment, threads: int, rounds: int, channel: Any) -> Record:
        from vaedist.bench.single import measure  # importing TensorFlow takes seconds

        return measure(experiment, threads=threads, rounds=rounds, progress=channel.put.remote)


def _in_turn(runs: Mapping[int, Experiment], rounds: int, progress: Callable[[str], None]) -> dict[int, list[float]]:
    """Measures images per second in each round, by number of workers; several numbers alternate, in separate runs."""
    found: dict[int, list[float]] = {count: [] for count in runs}
    at_once = rounds if len(runs) == 1 else 1
    for done in range(0, rounds, at_once):
        for count, short in runs.items():
            one = short.with_values({"run.name": f"{short.run.name}-{done + 1}"})
            found[count] += _rates(one, done, at_once, rounds, progress)
    return found


def _rates(short: Experiment, done: int, rows: int, rounds: int, progress: Callable[[str], None]) -> list[float]:
    """Measures images per second of a run, once per logged row, without the first row, which includes compilation.

    Args:
        short: the run.
        done: rounds that were measured before, for the progress.
        rows: number of rows to measure.
        rounds: all rounds, for the progress.
        progress: called with a description of each step.
    """
    name, rates, stop = counted(short.scaling.bounds[1], "worker"), list[float](), StopRequest()

    def observe(event: Event) -> None:
        if isinstance(event, Started):
            progress(f"{name}: compiling")
        if isinstance(event, Progress):
            rates.append(event.images_per_second)
            if len(rates) > rows:
                stop.make()
            progress(f"{name}: round {done + min(len(rates), rows)} of {rounds}")

    progress(f"{name}: starting")
    with _removed(RunFolder.of(short)):
        try:
            train(short, observe=observe, stop=stop)
        except Interrupted:
            if stop.by_hand or len(rates) <= rows:  # stopped by the user, and not by the end of its rounds
                raise Interrupted("stopped before the end of the measurement") from None
    return rates[1 : rows + 1]


@contextmanager
def _removed(run: RunFolder) -> Iterator[None]:
    """Removes a run when the context ends."""
    try:
        yield
    finally:
        run.store.remove_all()
