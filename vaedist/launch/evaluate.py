"""Evaluation of a run on Ray workers that share its images; the result does not depend on their number."""

from collections.abc import Callable
from threading import Lock
from typing import Any

import ray
from ray.util.actor_pool import ActorPool

from vaedist.api import Run
from vaedist.config import EVALUATION_SAMPLES, ScalingSection, check_classes
from vaedist.data.manifest import SplitName
from vaedist.evaluation.importance import BLOCKS_AT_ONCE, BlockScores
from vaedist.evaluation.results import Evaluation
from vaedist.launch.actors import ended
from vaedist.launch.session import COMPUTING, check_room, ray_session, resources_per_worker
from vaedist.launch.user_code import code_of

RESTARTS = 3  # of a worker that died; its block is scored again


def evaluate(
    run: Run,
    *,
    samples: int = EVALUATION_SAMPLES,
    split: SplitName = "test",
    limit: int | None = None,
    workers: int = 1,
    gpus_per_worker: int = 0,
    address: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Scores a run as `vaedist evaluate` does, saves the scores in the run's folder, and returns them.

    Args:
        run: the run.
        samples: samples of z per image.
        split: the split to score.
        limit: maximum number of images, drawn at random from the split.
        workers: number of Ray workers that share the images; with 1, and neither GPUs nor an address, this process
            scores them.
        gpus_per_worker: GPUs that each worker reserves.
        address: address of the Ray cluster, see `train`; it must reach the run and its data at the same path or URI.
        progress: called with the number of scored blocks and of all blocks.

    Raises:
        DataError: the data set is missing or has changed.
        StorageError: the scores cannot be written.
        ClusterError: the cluster cannot be reached, or has no room.
        WorkerError: a worker died more than three times.
    """
    options: dict[str, Any] = {"samples": samples, "split": split, "limit": limit, "progress": progress}
    if workers > 1 or gpus_per_worker or address:
        found = evaluate_on_ray(run, workers=workers, gpus_per_worker=gpus_per_worker, address=address, **options)
    else:
        found = run.evaluate(**options)
    run.save_evaluation(found, split=split, limit=limit)
    return found


def evaluate_on_ray(
    run: Run,
    *,
    workers: int,
    gpus_per_worker: int = 0,
    address: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    **options: Any,
) -> Evaluation:
    """Returns the result of `Run.evaluate`, computed by Ray workers that share the blocks of images.

    Args:
        run: the run; all workers must reach its folder and its data at the same path or URI.
        workers: number of workers.
        gpus_per_worker: GPUs that each worker reserves; it computes on the first.
        address: address of the Ray cluster, see `ray_session`.
        progress: called with the number of scored blocks and of all blocks.
        options: `samples`, `split` and `limit` of `Run.evaluate`.

    Raises:
        VaedistError: `Run.evaluate` raised it, or the cluster cannot be reached or has no room.
        WorkerError: a worker died more than `RESTARTS` times.
    """
    run = run.for_workers()
    check_classes(run.experiment)
    with ray_session(address, code_of(run.experiment)):
        scaling = ScalingSection(workers=workers, gpus_per_worker=gpus_per_worker, autoscaling=True)  # not checked
        cpus = resources_per_worker(scaling)["CPU"]
        check_room(workers, cpus, gpus_per_worker)
        scorers = _start(run, workers, max(1, int(cpus)), gpus_per_worker, options)
        with ended(scorers, f"a worker died more than {RESTARTS} times"):
            blocks, scores = ray.get(scorers[0].blocks.remote()), []
            pool = ActorPool(scorers * BLOCKS_AT_ONCE)
            for score in pool.map(lambda scorer, number: scorer.score.remote(number), range(blocks)):
                scores.append(score)
                progress(len(scores), blocks)
            return ray.get(scorers[0].summary.remote(scores))


def _start(run: Run, workers: int, threads: int, gpus: int, options: dict[str, Any]) -> list[Any]:
    """Starts the actors that score blocks."""
    actor = ray.remote(_Scorer).options(
        num_cpus=threads,
        num_gpus=gpus,
        max_restarts=RESTARTS,
        max_task_retries=RESTARTS,
        max_concurrency=BLOCKS_AT_ONCE,
        runtime_env=COMPUTING,
    )
    return [actor.remote(run, threads, gpus, options) for _ in range(workers)]


class _Scorer:
    """Actor that scores blocks of images; it loads the model at the first request."""

    def __init__(self, run: Run, threads: int, gpus: int, options: dict[str, Any]) -> None:
        self._run, self._options = run, options
        self._evaluator: Any = None
        self._lock = Lock()
        self._devices = threads, gpus

    def blocks(self) -> int:
        return self._loaded().blocks

    def score(self, number: int) -> BlockScores:
        return self._loaded().score(number)

    def summary(self, scores: list[BlockScores]) -> Evaluation:
        return self._loaded().summary(scores)

    def _loaded(self) -> Any:
        with self._lock:
            if self._evaluator is None:
                from vaedist.devices.strategy import configure_devices

                configure_devices(*self._devices, 1)
                self._evaluator = self._run.here().evaluator(**self._options)
        return self._evaluator
