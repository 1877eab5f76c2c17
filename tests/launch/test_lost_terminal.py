"""Signals that all processes of a command get, and training whose output pipe is closed or whose terminal is lost."""

import os
import pty
import select
import signal
import subprocess
import sys
import time

import psutil
import pytest
from command import start, start_python

from vaedist.monitor.metrics import read_metrics
from vaedist.runs.checkpoint_store import CheckpointStore
from vaedist.runs.folder import RunFolder

pytestmark = [pytest.mark.ray, pytest.mark.faults]

SECONDS = 240  # timeout
SCRIPT = """
import sys, vaedist
vaedist.train(vaedist.Experiment.from_file(sys.argv[1]))
"""
ON_A_TERMINAL = """
import fcntl, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # of its own: the kernel tells all its processes when it is gone
from vaedist.cli import main
main(prog_name="vaedist")
"""


def newest_step(run):
    return CheckpointStore(run).newest().position.step


def last_row(run):
    return max((row["step"] for row in read_metrics(run.metrics)), default=0) if run.metrics.exists() else 0


def test_a_run_survives_a_closed_pipe_and_is_saved_when_its_terminal_is_lost(experiment, tmp_path):
    experiment = experiment.with_overrides("checkpoint.every_steps=0", "training.steps_per_call=4")
    run, job = RunFolder.of(experiment), tmp_path / "run.toml"
    job.write_text(experiment.to_toml())
    reading, writing = os.pipe()
    process = start("train", job, log=writing)
    os.close(writing)
    with os.fdopen(reading) as reader:  # ... 2>&1 | head -1
        assert reader.readline()
    assert process.wait(SECONDS) == 0
    assert newest_step(run) == 200
    assert (run.pictures / "samples.png").exists()

    master, slave = pty.openpty()
    arguments = ["train", str(job), "--resume", "--set", "training.epochs=60"]
    process = subprocess.Popen(
        [sys.executable, "-c", ON_A_TERMINAL, *arguments], stdin=slave, stdout=slave, stderr=slave,
        start_new_session=True, env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
    )  # fmt: skip
    os.close(slave)
    deadline = time.monotonic() + SECONDS
    while last_row(run) < 220:
        assert time.monotonic() < deadline, "it did not go on"
        assert process.poll() is None
        if select.select([master], [], [], 0.01)[0]:
            os.read(master, 65536)
    children = psutil.Process(process.pid).children(recursive=True)
    reached = last_row(run)
    os.close(master)
    assert process.wait(SECONDS) == 130
    assert reached <= newest_step(run) < 6000
    assert 0 <= newest_step(run) - last_row(run) < experiment.monitor.log_every, "the step that it was at is saved"
    _, left = psutil.wait_procs(children, timeout=30)
    assert not left


@pytest.mark.parametrize(("program", "code"), [("command", 130), ("script", 1)])
def test_signals_to_all_its_processes_suspend_resume_and_stop_a_training(experiment, tmp_path, program, code):
    experiment = experiment.with_overrides("checkpoint.every_steps=0", "training.epochs=100000")
    run, job = RunFolder.of(experiment), tmp_path / "run.toml"
    job.write_text(experiment.to_toml())
    with (tmp_path / "log").open("w") as log:
        if program == "command":
            process = start("train", job, log=log, process_group=0)
        else:
            process = start_python(SCRIPT, job, log=log, process_group=0)
    main, children = psutil.Process(process.pid), []
    try:
        wait(lambda: last_row(run) > 100)
        children = main.children(recursive=True)
        os.killpg(process.pid, signal.SIGTSTP)  # Ctrl-Z
        wait(lambda: {one.status() for one in [main, *children]} == {psutil.STATUS_STOPPED})
        reached = last_row(run)
        os.killpg(process.pid, signal.SIGCONT)
        wait(lambda: last_row(run) > reached + 100)
        os.killpg(process.pid, signal.SIGTERM)  # as by `timeout`
        assert process.wait(SECONDS) == code, (tmp_path / "log").read_text()
        assert f"stopped at step {newest_step(run)} of" in (tmp_path / "log").read_text()
        assert newest_step(run) >= reached
        _, left = psutil.wait_procs(children, timeout=30)
        assert not left
    finally:
        for one in filter(psutil.Process.is_running, [main, *children]):
            one.kill()


def wait(condition):
    """Waits until a condition holds."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
