"""Ray workers that each hold a run's model, and compute or write the parts of a job's table."""

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
from ray.data import ActorPoolStrategy, Dataset
from ray.exceptions import UserCodeException

from vaedist.errors import ConfigError, VaedistError, WorkerError
from vaedist.inference.job import Job
from vaedist.inference.output import Format, OutputFolder
from vaedist.inference.parts import Part
from vaedist.launch.session import COMPUTING, check_room, places
from vaedist.storage.filesystem import first_line

RESTARTS = 3  # of a worker that died; its part is computed again
AT_ONCE = 2  # parts of a worker: one is computed while the one before is written
MOST_WORKERS = 16  # by default
MOST_GPUS = 64  # of a worker
MOST_BLOCKS = 2048  # of part numbers, which the driver puts into Ray's object store
CPUS = 1.0  # of a worker. With more threads, sums would be rounded in another order.


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


def mapped(job: Job, worker: type, arguments: tuple[Any, ...], count: int, gpus: float, **variables: str) -> Dataset:
    """Returns the results of workers, instances of a class with these arguments, for the numbers of all parts.

    The workers have the environment variables `variables`.
    """
    # Not `ray.data.range`, whose tasks would wait for a CPU if the workers have all
    edges = [len(job.parts) * block // MOST_BLOCKS for block in range(MOST_BLOCKS + 1)]
    ranges = [np.arange(start, stop) for start, stop in pairwise(edges) if start < stop]
    numbers = ray.data.from_blocks([pa.table({"part": block}) for block in ranges])
    numbers.context.print_on_execution_start = False
    numbers.context.enable_progress_bars = False
    return numbers.map_batches(
        worker,
        fn_constructor_args=arguments,
        batch_size=1,
        compute=ActorPoolStrategy(size=count),
        num_cpus=CPUS,
        num_gpus=gpus,
        max_restarts=RESTARTS,
        max_task_retries=RESTARTS,
        max_concurrency=AT_ONCE,
        runtime_env={"env_vars": COMPUTING["env_vars"] | variables},
    )


class Computer:
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


class Encoder(Computer):
    """Worker that returns the tables of parts."""

    def __call__(self, rows: dict[str, np.ndarray]) -> pa.Table:
        """Returns the table of the part with the given number."""
        try:
            return self.table(self.job.parts[int(rows["part"][0])])
        except VaedistError as error:
            raise _of_user_code(error) from error
        except Exception as error:
            raise _of_user_code(WorkerError(f"a worker failed: {type(error).__name__}: {first_line(error)}")) from error


def _of_user_code(error: VaedistError) -> Exception:
    """Returns the error as one of users' code, too, because Ray Data reports others as faults of its own."""
    made: Exception = type(type(error).__name__, (type(error), UserCodeException), {})(str(error))
    return made


class Writer(Computer):
    """Worker that writes the parts of an output which do not exist yet."""

    def __init__(
        self, job: Job, output: OutputFolder, fmt: Format, reported: Sequence[str], gpus: float, notices: Any
    ) -> None:
        super().__init__(job, gpus)
        if notices is not None:
            output = output.patient(lambda text: notices.tell.remote(text))
        self._output, self._format, self._reported = output, fmt, list(reported)
        self._metadata = job.metadata()

    def __call__(self, rows: dict[str, np.ndarray]) -> dict[str, Any]:
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
            self._output.check_owner(self.job, self._format)
            self._format.write(self._output, part, table)
            found = table.select(self._reported)
        return found
