"""Commands that end because of a signal, or because nobody reads their output."""

import os
import signal
import subprocess
import sys

import pytest

# A command that replaces a training: it waits, and when it is interrupted, it saves, which takes some time.
WAITING = """
import signal, sys, time
import click
from vaedist.cli import main
from vaedist.errors import Interrupted

@main.command()
def waiting():
    try:
        print("ready", flush=True)
        time.sleep(30)
    except KeyboardInterrupt:
        print("saving", flush=True)
        time.sleep(1)
        print("saved", flush=True)
        raise Interrupted("stopped at step 3, which is saved") from None
    print("undisturbed", flush=True)

# The parent of the tests may ignore signals, as nohup does.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
{before}
main(["waiting"])
"""


def waiting(before=""):
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING.format(before=before)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("first", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_signals_and_a_lost_terminal_give_a_command_time_to_save(first):
    process = waiting()
    process.send_signal(first)
    assert process.stdout.readline() == "saving\n"
    for _ in range(3):  # in the representations of the kernel and of shells
        process.send_signal(signal.SIGHUP)
    out, err = process.communicate(timeout=30)
    assert (out, err) == ("saved\n", "stopped at step 3, which is saved\n")
    assert process.returncode == 130


@pytest.mark.parametrize("ignored", [signal.SIGHUP, signal.SIGINT])
def test_signals_that_were_ignored_at_the_start_stay_ignored(ignored):
    process = waiting(f"signal.signal({int(ignored)}, signal.SIG_IGN)")
    process.send_signal(ignored)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "saving\n"
    process.send_signal(signal.SIGHUP)
    out, _ = process.communicate(timeout=30)
    assert (out, process.returncode) == ("saved\n", 130)


def test_the_exit_code_is_kept_if_nobody_reads_the_output():
    process = waiting()
    process.stderr.close()
    process.send_signal(signal.SIGTERM)
    process.stdout.read()
    assert process.wait(30) == 130
    script = "import sys, time; from vaedist.cli.output import echo_result; echo_result('test ELBO'); sys.exit(0)"
    for device in (closed_pipe(), os.open("/dev/full", os.O_WRONLY)):
        ended = subprocess.run([sys.executable, "-c", script], stdout=device, stderr=subprocess.PIPE, check=False)
        os.close(device)
        assert (ended.returncode, ended.stderr) == (0, b"")


# A job that prints for ever.
FOLLOWING = """
import asyncio
from vaedist.cli import jobs, main
from vaedist.launch.jobs.client import Jobs
from vaedist.launch.jobs.dashboard import Dashboard
from vaedist.launch.jobs.job import Job

class Client:
    async def tail_job_logs(self, name):
        while True:
            yield "line of a log\\n"
            await asyncio.sleep(0)

cluster = object.__new__(Jobs)
cluster._dashboard = Dashboard("http://127.0.0.1:1", Client())
cluster.get = lambda name: Job("job", "RUNNING", "", "")
jobs._jobs = lambda address: cluster
main(["jobs", "logs", "-f", "job"])
"""


def test_following_a_job_ends_quietly_when_nobody_reads_it_and_in_a_line_on_a_full_disk():
    for device, code, said in (
        (closed_pipe(), 141, ""),
        (os.open("/dev/full", os.O_WRONLY), 2, "cannot write to stdout"),
    ):
        ended = subprocess.run(
            [sys.executable, "-c", FOLLOWING], stdout=device, stderr=subprocess.PIPE, text=True, timeout=60, check=False
        )
        os.close(device)
        assert ended.returncode == code, ended.stderr
        assert said in ended.stderr
        assert "the connection to" not in ended.stderr


def closed_pipe():
    reading, writing = os.pipe()
    os.close(reading)
    return writing


# Stderr is a file that temporarily cannot grow, as on a full disk.
FULL_FOR_A_WHILE = """
import resource, signal, sys
from vaedist.cli.streams import open_streams

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
open_streams()
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, most))
print("lost", file=sys.stderr)
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
print("shown", file=sys.stderr)
"""


def test_stderr_is_tried_again_when_there_is_room(tmp_path):
    with (tmp_path / "stderr").open("w") as file:
        ended = subprocess.run([sys.executable, "-c", FULL_FOR_A_WHILE], stderr=file, timeout=60, check=False)
    assert (ended.returncode, (tmp_path / "stderr").read_text()) == (0, "shown\n")
