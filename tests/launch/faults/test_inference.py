"""Encoding and generating: workers and commands are killed at random moments; the output is as without that."""

import random
import signal

import pytest
from command import start
from disks import fill

import vaedist
from vaedist.errors import Interrupted, StorageError, WorkerError
from vaedist.inference.encode import encode_job
from vaedist.inference.generate import generate_job
from vaedist.inference.output import OutputFolder, ParquetFormat, PngFormat
from vaedist.launch.inference import Workers, run_job

pytestmark = pytest.mark.usefixtures("cluster")

ROWS = 10  # of a part
PARTS = 170  # of the 1696 images
WORKER = "ray::MapWorker"


@pytest.fixture(scope="module")
def run(trained):
    return vaedist.load_run(trained.run.path)


def contents(folder):
    """Returns the content of all files but logs, by name."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != "_logs"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    """Returns the content of the undisturbed output."""
    folder = tmp_path_factory.mktemp("out") / "encoded"
    run_job(encode_job(run, rows=ROWS), OutputFolder.at(folder), ParquetFormat(), workers=Workers(2))
    return contents(folder)


def reached(out, parts):
    """Returns a condition: a new part is written, and there are more than `parts`; with None, the folder is claimed."""
    if parts is None:
        return (out / "_vaedist.json").exists
    least = max(parts, len(list(out.glob("*.parquet"))))
    return lambda: len(list(out.glob("*.parquet"))) > least


def test_workers_that_are_killed_leave_no_trace(run, whole, tmp_path, processes, recovered):
    moments = sorted(random.Random(0).sample(range(1, PARTS - 30), 3))
    killed, done = [], []

    def progress(rows, _):
        done.append(rows)
        if len(killed) < len(moments) and len(done) > moments[len(killed)] and (workers := processes(WORKER)):
            killed.append(random.Random(len(done)).choice(workers))
            killed[-1].kill()

    job = encode_job(run, rows=ROWS)
    with recovered("three workers that encode are killed, until all rows are encoded"):
        run_job(job, OutputFolder.at(tmp_path / "out"), ParquetFormat(), workers=Workers(2), progress=progress)
    assert len(killed) == 3
    assert done[-1] == job.parts.rows
    assert contents(tmp_path / "out") == whole


def test_a_worker_that_always_dies_ends_the_command(run, tmp_path, processes, monkeypatch):
    """As out of memory: the table of a part ends the process."""
    monkeypatch.setattr(OutputFolder, "finish", lambda *_: pytest.fail("it is not complete"))

    class Deadly(type(generate_job(run, 1))):
        def open(self):
            import os

            os.kill(os.getpid(), signal.SIGKILL)

    made = generate_job(run, 10)
    job = Deadly(made.run, made.parts, made.seed, made.pixels, made.temperature, made.content)
    with pytest.raises(WorkerError, match=r"a worker died more than 3 times: .*; --resume continues"):
        run_job(job, OutputFolder.at(tmp_path / "out"), ParquetFormat(), workers=Workers(1))


def test_a_command_that_is_killed_at_any_moment_is_completed(run, whole, tmp_path, waiting):
    """Five times: while Ray or the model starts, or between two parts."""
    out, log = tmp_path / "out", tmp_path / "log"
    command = ("encode", run.folder.location, "-o", out, "--rows-per-part", ROWS, "--workers", 2)
    moments = sorted(random.Random(1).sample(range(PARTS - 20), 3))
    for parts in (None, *moments, 0):
        resumed = ("--resume",) if out.exists() else ()
        with log.open("a") as said:
            process = start(*command, *resumed, log=said)
        waiting(f"{parts} parts", reached(out, parts))
        assert process.poll() is None, log.read_text()
        process.kill()
        process.wait()
        assert not (out / "_SUCCESS").exists()
    with log.open("a") as said:
        process = start(*command, "--resume", log=said)
    assert process.wait(300) == 0, log.read_text()
    assert "wrote 1,696 rows in 170 parts" in log.read_text()
    assert contents(out) == whole


def test_a_disk_that_is_full_ends_the_command_in_one_line(run, whole, small_disk):
    job, out = encode_job(run, rows=ROWS), OutputFolder.at(small_disk / "out")
    with pytest.raises(StorageError, match=r"cannot write .*\.parquet: No space left on device") as error:
        run_job(job, out, ParquetFormat(), workers=Workers(2), progress=lambda *_: fill(small_disk))
    assert str(error.value).isprintable()
    (small_disk / "filler").unlink()
    run_job(job, out, ParquetFormat(), workers=Workers(2), resume=True)
    assert contents(small_disk / "out") == whole


def test_an_interrupted_command_says_how_to_go_on(run, tmp_path):
    """PNG files; the first interruption is in the middle of the images."""
    job, out = generate_job(run, 400, rows=20), OutputFolder.at(tmp_path / "out")
    done = []

    def progress(rows, _):
        done.append(rows)
        if rows >= 100:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted, match=r"stopped with \d+ of 400 rows in .*out; --resume completes it"):
        run_job(job, out, PngFormat(3), workers=Workers(2), progress=progress)
    run_job(job, out, PngFormat(3), resume=True, workers=Workers(1))
    run_job(job, OutputFolder.at(tmp_path / "whole"), PngFormat(3), workers=Workers(2))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
