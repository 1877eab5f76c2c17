"""Jobs on Ray: workers that each hold the model compute the parts of a job's table, through Ray Data."""

import pickle
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy, Dataset
from ray.exceptions import RayActorError, RayError

from vaedist.api import Run
from vaedist.config import check_classes
from vaedist.data.manifest import SplitName
from vaedist.errors import ConfigError, Interrupted, VaedistError, WorkerError
from vaedist.evaluation.encoding import Kind
from vaedist.inference.encode import encode_job
from vaedist.inference.job import Job
from vaedist.inference.output import Format, OutputFolder, record_text
from vaedist.inference.parts import Part
from vaedist.launch.session import COMPUTING, check_room, places, ray_session, start_ray
from vaedist.launch.training.locked_folder import owned
from vaedist.launch.user_code import code_of
from vaedist.storage.filesystem import first_line

RESTARTS = 3  # of a worker that died; its part is computed again
AT_ONCE = 2  # parts of a worker: one is computed while the one before is written
MOST_WORKERS = 16  # by default
MOST_GPUS = 64  # of a worker
MOST_BLOCKS = 2048  # of part numbers, which the driver puts into Ray's object store
CPUS = 1.0  # of a worker. With more threads, sums would be rounded in another order.

Progress = Callable[[int, int], None]
Report = Callable[[Part, pa.Table], None]


@dataclass(frozen=True)
class Workers:
    """Workers of a job.

    Attributes:
        count: number of workers; None for one per CPU or, with GPUs, as many as these allow, at most `MOST_WORKERS`.
        gpus: GPUs of each worker, or the fraction of one.

    Raises:
        ConfigError: a number is out of range.
    """

    count: int | None = None
    gpus: float = 0.0

    def __post_init__(self) -> None:
        """Checks the numbers."""
        if self.count is not None and self.count < 1:
            raise ConfigError(f"workers = {self.count}: must be at least 1")
        if not 0 <= self.gpus <= MOST_GPUS or (self.gpus > 1 and self.gpus % 1):
            raise ConfigError(f"gpus_per_worker = {self.gpus:g}: must be an integer up to {MOST_GPUS}, or less than 1")

    def of_cluster(self, parts: int) -> int:
        """Returns the number of workers on the connected cluster, at most one for each part.

        Raises:
            ClusterError: the cluster has no room for them.
        """
        count = self.count or max(1, min(places(CPUS, self.gpus), MOST_WORKERS))
        count = min(count, max(parts, 1))
        check_room(count, CPUS, self.gpus)
        return count


def run_job(
    job: Job,
    output: OutputFolder,
    fmt: Format,
    *,
    resume: bool = False,
    workers: Workers = Workers(),
    address: str | None = None,
    reported: Sequence[str] = (),
    report: Report = lambda part, table: None,
    progress: Progress = lambda done, total: None,
    notify: Callable[[str], None] = lambda text: None,
) -> None:
    """Writes the table of a job to a folder, one part after the other, on Ray workers.

    Each part is written exactly once, under a name that depends only on the job. If the command or a worker is killed,
    `resume` computes the parts that are missing; the result is the same as without the interruption.

    Args:
        job: the job; all workers must reach its run and its data at the same path or URI.
        output: the folder.
        fmt: form in which parts are stored.
        resume: complete the output of the same job, if there is one.
        workers: number and resources of the workers.
        address: address of the Ray cluster, see `ray_session`.
        reported: names of columns for `report`.
        report: called with each part and these columns of its table, in any order of the parts.
        progress: called with the numbers of rows that are done, and of all rows.
        notify: called with a notice if an object store does not answer.

    Raises:
        RunError: the folder exists, or cannot be resumed, or another process writes to it.
        StorageError: a part cannot be written.
        VaedistError: the run or the data cannot be read, or the cluster has no room for the workers.
        WorkerError: a worker died more than `RESTARTS` times, or failed.
        Interrupted: on KeyboardInterrupt.
    """
    output = OutputFolder(output.store.absolute())
    output.check(job, fmt, resume=resume)
    check_classes(job.run.experiment)
    busy = f"{output.location} is being written by another process"
    session = ray_session(address, code_of(job.run.experiment))
    with owned(
        output, output.record, record_text(job, fmt), busy=busy, ray=session, quiet=True, notify=notify
    ) as claim:
        count = workers.of_cluster(len(job.parts))
        claim.begin()
        output.clean()
        worker = _Writer, (job, output, fmt, tuple(reported), workers.gpus)
        done = 0
        try:
            with closing(_results(_mapped(job, worker, count, workers.gpus))) as results:
                for number, table in results:
                    part = job.parts[number]
                    done += part.rows
                    report(part, table)
                    progress(done, job.parts.rows)
        except KeyboardInterrupt:
            raise Interrupted(
                f"stopped with {done:,} of {job.parts.rows:,} rows in {output.location}; --resume completes it"
            ) from None
        output.finish()


def encode_dataset(
    run: Run,
    *,
    split: SplitName | Sequence[SplitName] | None = None,
    data: str | None = None,
    folder: str | Path | None = None,
    latents: Kind | Sequence[Kind] | None = None,
    seed: int = 0,
    workers: int | None = None,
    gpus_per_worker: float = 0.0,
) -> Dataset:
    """Returns a Ray Dataset of the encoded images of a data set; nothing is computed before it is consumed.

    The columns are those of `encode_job`, which are also those of `vaedist encode`.

    It uses the Ray cluster that this process is connected to. If there is none, it starts a local Ray, which ends with
    the process.

    Args:
        run: the run.
        split: one or several splits; None for all.
        data: any data set whose images have the run's shape; None for the run's own.
        folder: a folder of image files, instead of a data set.
        latents: "sample", "mean" and "log_sigma", or some of them; None for all that the model has.
        seed: seed of the noise.
        workers: number of workers; None for one per CPU or, with GPUs, as many as these allow, at most 16.
        gpus_per_worker: GPUs of each worker, or the fraction of one.

    Raises:
        DataError: there is no such data, or its images have another shape than the run's.
        ClusterError: the cluster has no room for the workers.
    """
    job = encode_job(run, split=split, data=data, folder=folder, latents=latents, seed=seed)
    check_classes(run.experiment)
    if not ray.is_initialized():
        start_ray(code_of(run.experiment))
    count = Workers(workers, gpus_per_worker).of_cluster(len(job.parts))
    return _mapped(job, (_Computer, (job, gpus_per_worker)), count, gpus_per_worker)


def _mapped(job: Job, worker: tuple[type, tuple[Any, ...]], count: int, gpus: float) -> Dataset:
    """Returns the results of workers, instances of a class with these arguments, for the numbers of all parts."""
    numbers = ray.data.from_items(
        [{"part": number} for number in range(len(job.parts))],
        override_num_blocks=min(len(job.parts), MOST_BLOCKS),
    )
    made, arguments = worker
    return numbers.map_batches(
        made,
        fn_constructor_args=arguments,
        batch_size=1,
        compute=ActorPoolStrategy(size=count),
        num_cpus=CPUS,
        num_gpus=gpus,
        max_restarts=RESTARTS,
        max_task_retries=RESTARTS,
        max_concurrency=AT_ONCE,
        runtime_env=COMPUTING,
    )


def _results(dataset: Dataset) -> Generator[tuple[int, pa.Table], None, None]:
    """Yields the number and the reported columns of each part that is written, as soon as it is.

    Raises:
        VaedistError: a worker raised it.
        WorkerError: a worker died too often, or failed.
    """
    dataset.context.enable_progress_bars = False
    dataset.context.print_on_execution_start = False
    try:
        for rows in dataset.iter_batches(batch_size=None, prefetch_batches=0, batch_format="numpy"):
            for number, result in zip(rows["part"], rows["result"], strict=True):
                found = pickle.loads(result)
                if isinstance(found, VaedistError):
                    raise found
                yield int(number), found
    except RayActorError as error:
        raise WorkerError(
            f"a worker died more than {RESTARTS} times: {str(error).splitlines()[0]}; --resume continues"
        ) from error
    except RayError as error:
        cause = error.__cause__ or error
        raise WorkerError(f"a worker failed: {type(cause).__name__}: {first_line(cause)}") from error


class _Computer:
    """Worker that computes the tables of parts; it loads the model at the first one."""

    def __init__(self, job: Job, gpus: float) -> None:
        self.job, self._gpus = job, gpus
        self._lock = Lock()
        self._compute: Callable[[Part], pa.Table] | None = None

    def table(self, part: Part) -> pa.Table:
        """Returns the table of a part; computes one at a time."""
        with self._lock:
            if self._compute is None:
                from vaedist.devices.strategy import configure_devices

                configure_devices(int(CPUS), self._gpus, 1)
                self._compute = self.job.open()
            return self._compute(part)

    def __call__(self, rows: dict[str, np.ndarray]) -> pa.Table:
        """Returns the table of the part with the given number."""
        return self.table(self.job.parts[int(rows["part"][0])])


class _Writer(_Computer):
    """Worker that writes the parts of an output which do not exist yet."""

    def __init__(self, job: Job, output: OutputFolder, fmt: Format, reported: Sequence[str], gpus: float) -> None:
        super().__init__(job, gpus)
        self._output, self._format, self._reported = OutputFolder(output.store.patient()), fmt, list(reported)
        self._metadata = job.metadata()

    def __call__(self, rows: dict[str, np.ndarray]) -> dict[str, Any]:  # type: ignore[override]
        """Returns the number of the part, and its reported columns or the error, pickled."""
        number = int(rows["part"][0])
        result: pa.Table | VaedistError
        try:
            result = self._written(self.job.parts[number])
        except VaedistError as error:
            result = error
        return {"part": [number], "result": [pickle.dumps(result)]}

    def _written(self, part: Part) -> pa.Table:
        found = self._format.find(self._output, part, self._metadata, self._reported)
        if found is None:
            table = self.table(part)
            self._format.write(self._output, part, table)
            found = table.select(self._reported)
        return found
