"""A Ray cluster whose nodes can be removed, and a training run on it in a separate process."""

import sys
import time
from contextlib import contextmanager

import pytest
from command import start
from disks import mounted
from nodes import SECONDS, started

from vaedist.monitor.metrics import read_metrics
from vaedist.runs.checkpoint_store import CheckpointStore
from vaedist.runs.folder import RunFolder

PREEMPTION = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"
RECOVERIES = pytest.StashKey[list]()


def pytest_collection_modifyitems(items):
    """Marks the tests of this folder, which take minutes, and skips them outside Linux, whose addresses nodes need."""
    for item in items:
        if "faults" in item.path.parts:
            item.add_marker(pytest.mark.faults)
            item.add_marker(pytest.mark.ray)
            if "nodes" in item.fixturenames:
                elsewhere = sys.platform != "linux"
                item.add_marker(pytest.mark.skipif(elsewhere, reason="only Linux has all of 127.0.0.0/8"))


@pytest.fixture
def nodes(monkeypatch):
    """Returns a cluster to start, which ends with the test."""
    with started() as (nodes, environment):
        for name, value in {**environment, PREEMPTION: "1"}.items():  # regardless of the Ray that other tests share
            monkeypatch.setenv(name, value)
        yield nodes


class Training:
    """A `vaedist train` of an experiment, and its progress."""

    def __init__(self, experiment, job, *options):
        job.write_text(experiment.to_toml())
        self.experiment, self.run = experiment, RunFolder.of(experiment)
        self.process = start("train", job, *options)

    def rows(self):
        """Returns the metrics so far."""
        return read_metrics(self.run.metrics) if self.run.metrics.exists() else []

    def runs(self):
        """Returns True, or fails with the command's output if it has ended."""
        assert self.process.poll() is None, self.process.communicate()[1]
        return True

    def wait_for_step(self, step):
        """Waits until the metrics reach a step."""
        wait_for(f"step {step}", lambda: self.runs() and any(row["step"] >= step for row in self.rows()))

    def end(self, *, code=0):
        """Waits for the end of the command, and returns its output."""
        _, said = self.process.communicate(timeout=2 * SECONDS)
        assert self.process.returncode == code, said
        assert "Traceback" not in said
        return said

    def check_whole(self):
        """Asserts that the run is at its last step, with every metrics row exactly once."""
        training, every = self.experiment.training, self.experiment.monitor.log_every
        last = training.epochs * 100
        assert CheckpointStore(self.run).newest().position.step == last
        expected = [("train", step) for step in range(every, last + 1, every)]
        expected += [("test", step) for step in range(100, last + 1, 100)]
        assert sorted((row["kind"], row["step"]) for row in self.rows()) == sorted(expected)


def wait_for(what, condition, seconds=SECONDS):
    """Waits until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.05)


@pytest.fixture
def training(tmp_path):
    """Returns a function that starts a `Training` with options of `vaedist train`; it ends with the test."""
    begun = []

    def begin(experiment, *options):
        begun.append(Training(experiment, tmp_path / f"{experiment.run.name}.toml", *options))
        return begun[-1]

    yield begin
    for one in begun:
        if one.process.poll() is None:
            one.process.kill()
            one.process.communicate()


@pytest.fixture
def recovered(request):
    """Returns a context from a fault until the run continues; its duration is printed after all tests."""

    @contextmanager
    def measured(fault):
        start = time.monotonic()
        yield
        request.config.stash.setdefault(RECOVERIES, []).append((fault, time.monotonic() - start))

    return measured


def pytest_terminal_summary(terminalreporter, config):
    """Returns the measurements."""
    if recoveries := config.stash.get(RECOVERIES, []):
        terminalreporter.section("seconds from a fault until the run went on")
        for fault, seconds in recoveries:
            terminalreporter.line(f"{seconds:8.1f}  {fault}")


@pytest.fixture
def waiting():
    """Returns `wait_for`."""
    return wait_for


@pytest.fixture
def small_disk(tmp_path):
    """Returns a file system of 16 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    with mounted(place, "-t", "tmpfs", "-o", "size=16m", "tmpfs"):
        yield place
