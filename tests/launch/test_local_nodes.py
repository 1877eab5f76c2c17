"""The end of the processes of a local cluster."""

import subprocess
import sys

import psutil
import pytest

from vaedist.errors import ClusterError
from vaedist.launch.local import nodes

STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(600)
"""


@pytest.fixture
def stubborn():
    """A process that ignores SIGTERM."""
    with subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def test_a_process_that_is_found_only_once_is_killed(stubborn, monkeypatch):
    """As one that overwrites its environment with its title, once its parent has ended."""
    monkeypatch.setattr(nodes, "END_SECONDS", 0.2)
    answers = [[psutil.Process(stubborn.pid)]]
    assert nodes._end_processes(lambda: answers.pop() if answers else [], "tests") == 1
    assert not psutil.pid_exists(stubborn.pid)


def test_processes_that_stay_are_named(stubborn, monkeypatch):
    monkeypatch.setattr(nodes, "END_SECONDS", 0.1)
    monkeypatch.setattr(psutil.Process, "kill", lambda self: None)
    with pytest.raises(ClusterError, match=f"cluster tests: processes {stubborn.pid} do not end"):
        nodes._end_processes(lambda: [psutil.Process(stubborn.pid)], "tests")
