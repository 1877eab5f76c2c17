"""Benchmarks on Ray: one worker that measures all it does, and runs of several workers that are cut short."""

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

ROW_SECONDS = 2.0  # of training, for one sample of its rate
MANY_EPOCHS = 1_000_000  # it is stopped before


def bench(
    experiment: Experiment,
    *,
    workers: Sequence[int] = (1,),
    rounds: int = 5,
    address: str | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Record:
    """Measure a job on Ray's workers, as large as training would make them.

    Args:
        experiment: the job; its data must be prepared. `run.folder` takes runs that are removed again.
        workers: for each of these counts, the images a second of runs with so many workers, which share the
            cluster's CPUs.
        rounds: measurements of each. Of several counts they are taken in turn, each in a run of its own.
        address: of the Ray cluster, see `ray_session`.
        progress: told what is being done.

    Raises:
        ValueError: there is no count of workers, or no round.
        VaedistError: the data cannot be read, or the cluster has no room.
        WorkerError: a worker died.
    """
    if not workers or min(workers) < 1 or rounds < 1:
        raise ValueError(f"workers = {tuple(workers)}, rounds = {rounds}: must be counts from 1 on")
    experiment = with_absolute_paths(experiment.with_values({"run.name": "bench"}))
    runs = {count: _short(experiment, count) for count in workers}
    check_classes(experiment)
    check_data(experiment.with_values({"scaling.workers": max(workers)}))  # once: it may read all of it
    progress("joining Ray")
    with ray_session(address, code_of(experiment)):
        for short in runs.values():
            resources_per_worker(short.scaling)
        record = _single(experiment, rounds, progress)
        measures = dict(record.measures)
        a_call = experiment.training.steps_per_call * experiment.training.global_batch
        calls = math.ceil(ROW_SECONDS * record.measures["step"].median / a_call)
        every = calls * experiment.training.steps_per_call  # rows of one call would all have the same rate
        runs = {count: short.with_values({"monitor.log_every": every}) for count, short in runs.items()}
        for count, rates in _in_turn(runs, rounds, progress).items():
            measures[f"{WORKERS}{count}"] = Measure("images/s", tuple(rates))
    return replace(record, measures=measures)


def _short(experiment: Experiment, count: int) -> Experiment:
    """A run of so many workers that does nothing but train until it is stopped."""
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
    """What one worker measures alone."""
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
    """A worker in a process of its own."""

    def measure(self, experiment: Experiment, threads: int, rounds: int, channel: Any) -> Record:
        from vaedist.bench.single import measure  # TensorFlow takes seconds

        return measure(experiment, threads=threads, rounds=rounds, progress=channel.put.remote)


def _in_turn(runs: Mapping[int, Experiment], rounds: int, progress: Callable[[str], None]) -> dict[int, list[float]]:
    """Images a second in each round, by the number of workers: in one run, or where there are several, in turn."""
    found: dict[int, list[float]] = {count: [] for count in runs}
    at_once = rounds if len(runs) == 1 else 1
    for done in range(0, rounds, at_once):
        for count, short in runs.items():
            one = short.with_values({"run.name": f"{short.run.name}-{done + 1}"})
            found[count] += _rates(one, done, at_once, rounds, progress)
    return found


def _rates(short: Experiment, done: int, rows: int, rounds: int, progress: Callable[[str], None]) -> list[float]:
    """Images a second of a run, in each of some rows of metrics; the first, which compiles, is left out.

    `done` of all `rounds` were measured before.
    """
    name, rates, stop = f"{short.scaling.workers} worker(s)", list[float](), StopRequest()

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
            if stop.by_hand or len(rates) <= rows:  # it was not the end of its rounds that stopped it
                raise
    return rates[1 : rows + 1]


@contextmanager
def _removed(run: RunFolder) -> Iterator[None]:
    """Removes a run, which was only measured, when the context ends."""
    try:
        yield
    finally:
        run.store.remove_all()
