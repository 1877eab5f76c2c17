"""Jobs on Ray: workers that each hold the model compute the parts of a job's table, through Ray Data."""

import math
import pickle
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any

import pyarrow as pa
import ray
from ray.data import Dataset
from ray.exceptions import RayActorError, RayError

from vaedist.api import Run
from vaedist.config import check_classes
from vaedist.data.manifest import SplitName
from vaedist.errors import Interrupted, VaedistError, WorkerError
from vaedist.evaluation.encoding import Kind
from vaedist.inference.encode import encode_job
from vaedist.inference.job import Job
from vaedist.inference.output import Format, OutputFolder, record_text
from vaedist.inference.parts import Part
from vaedist.launch.part_workers import RESTARTS, Encoder, Workers, Writer, mapped
from vaedist.launch.session import connect, ray_session
from vaedist.launch.training.channel import open_channel
from vaedist.launch.training.locked_folder import owned
from vaedist.launch.user_code import code_of
from vaedist.storage.filesystem import first_line
from vaedist.storage.uri import is_remote

NOTICE_SECONDS = 10.0  # between two notices of workers
ADVICE = "--resume completes the output"

Progress = Callable[[int, int], None]
Report = Callable[[Part, pa.Table], None]


def run_job(
    job: Job,
    output: OutputFolder,
    fmt: Format,
    *,
    resume: bool = False,
    workers: Workers = Workers(),  # noqa: B008 - frozen
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
    output = output.absolute()
    output.check(job, fmt, resume=resume)
    output = output.patient(notify)
    check_classes(job.run.experiment)
    busy = f"{output.location} is being written by another process"
    session = ray_session(address, code_of(job.run.experiment))
    with owned(
        output, output.record, record_text(job, fmt), busy=busy, ray=session, quiet=True, notify=notify, advice=ADVICE
    ) as claim:
        if not claim.new:  # another command may have written it after the check
            output.check(job, fmt, resume=resume)
        count = workers.of_cluster(len(job.parts))
        claim.begin()
        output.clean()
        done = 0
        try:
            with (
                _notices(output.location, notify) as notices,
                closing(_results(_written(job, output, fmt, reported, count, workers.gpus, notices))) as results,
            ):
                for number, table in results:
                    part = job.parts[number]
                    done += part.rows
                    report(part, table)
                    progress(done, job.parts.rows)
        except KeyboardInterrupt:
            raise Interrupted(
                f"stopped with {done:,} of {job.parts.rows:,} rows in {output.location}; --resume completes it"
            ) from None
        output.finish(job, fmt)


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
    address: str | None = None,
) -> Dataset:
    """Returns a Ray Dataset of the encoded images of a data set; nothing is computed before it is consumed.

    The columns are those of `encode_job`, which are also those of `vaedist encode`.

    It uses the Ray cluster that this process is connected to. If there is none, it joins one or starts a local Ray as
    `train` does; the connection ends with the process.

    Ray's progress bars are off; `dataset.context.enable_progress_bars = True` shows them.

    When the Dataset is consumed, errors of workers are raised as the subclass of `VaedistError` that they are, and also
    as Ray's `RayTaskError`, whose traceback is that of the worker. A worker that died too often is a `RayError`.

    Args:
        run: the run.
        split: one or several splits; None for all.
        data: any data set whose images have the run's shape; None for the run's own.
        folder: a folder of image files, instead of a data set.
        latents: "sample", "mean" and "log_sigma", or some of them; None for all that the model has.
        seed: seed of the noise.
        workers: number of workers; None for one per CPU or, with GPUs, as many as these allow, at most 16.
        gpus_per_worker: GPUs of each worker, or the fraction of one.
        address: address of the Ray cluster, see `train`; it must reach the run and its data at the same path or URI.

    Raises:
        DataError: there is no such data, its images have another shape than the run's, or the run's own data set has
            changed since the training.
        ConfigError: there are no such latents, or a number of workers or GPUs is out of range.
        ModelError: the model has no such latents.
        ClusterError: the cluster cannot be reached, or has no room for the workers.
    """
    wanted = Workers(workers, gpus_per_worker)
    job = encode_job(run, split=split, data=data, folder=folder, latents=latents, seed=seed)
    check_classes(run.experiment)
    connect(address, code_of(run.experiment))
    count = wanted.of_cluster(len(job.parts))
    encoded = mapped(job, Encoder, (job, gpus_per_worker), count, gpus_per_worker, TF_CPP_MIN_LOG_LEVEL="3")
    encoded.context.raise_original_map_exception = True
    return encoded


def _written(
    job: Job, output: OutputFolder, fmt: Format, reported: Sequence[str], count: int, gpus: float, notices: Any
) -> Dataset:
    """Returns the numbers and the reported columns of the parts that workers write."""
    return mapped(job, Writer, (job, output.patient(), fmt, tuple(reported), gpus, notices), count, gpus)


@contextmanager
def _notices(location: str, notify: Callable[[str], None]) -> Iterator[Any]:
    """Yields a channel whose notices are passed on in another thread; None for a local folder, which has none.

    Every worker that waits for an object store says so. Within `NOTICE_SECONDS`, only the first notice is passed on.
    """
    if not is_remote(location):
        yield None
        return
    channel = open_channel()

    def pass_on() -> None:
        last = -math.inf
        with suppress(RayError):  # Ray has ended, which the command reports
            while (event := ray.get(channel.get.remote())) is not None:
                if time.monotonic() > last + NOTICE_SECONDS:
                    last = time.monotonic()
                    notify(event.text)

    thread = Thread(target=pass_on, daemon=True)
    thread.start()
    try:
        yield channel
    finally:
        channel.put.remote(None)
        thread.join(NOTICE_SECONDS)
        ray.kill(channel)


def _results(dataset: Dataset) -> Generator[tuple[int, pa.Table], None, None]:
    """Yields the number and the reported columns of each part that is written, as soon as it is.

    Raises:
        VaedistError: a worker raised it.
        WorkerError: a worker died too often, or failed.
    """
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
