"""Nodes of a Ray to take away, and a training run on them, in a process of its own."""

import sys
import time
from contextlib import contextmanager

import pytest
from command import start
from nodes import SECONDS, started

from vaedist.monitor.metrics import read_metrics
from vaedist.runs.checkpoint_store import CheckpointStore
from vaedist.runs.folder import RunFolder

PREEMPTION = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"
RECOVERIES = pytest.StashKey[list]()


def pytest_collection_modifyitems(items):
    """All in this folder take minutes; nodes have addresses that only Linux has."""
    for item in items:
        if "faults" in item.path.parts:
            item.add_marker(pytest.mark.faults)
            item.add_marker(pytest.mark.ray)
            if "nodes" in item.fixturenames:
                elsewhere = sys.platform != "linux"
                item.add_marker(pytest.mark.skipif(elsewhere, reason="only Linux has all of 127.0.0.0/8"))


@pytest.fixture
def nodes(monkeypatch):
    """To be started; ended with the test."""
    with started() as (nodes, environment):
        for name, value in {**environment, PREEMPTION: "1"}.items():  # whatever the shared Ray of other tests has set
            monkeypatch.setenv(name, value)
        yield nodes


class Training:
    """`vaedist train` on an experiment, and what it has come to."""

    def __init__(self, experiment, job, *options):
        job.write_text(experiment.to_toml())
        self.experiment, self.run = experiment, RunFolder.of(experiment)
        self.process = start("train", job, *options)

    def rows(self):
        """The metrics so far."""
        return read_metrics(self.run.metrics) if self.run.metrics.exists() else []

    def runs(self):
        """True; fails with what the command said when it has ended."""
        assert self.process.poll() is None, self.process.communicate()[1]
        return True

    def wait_for_step(self, step):
        """Until the metrics reach it."""
        wait_for(f"step {step}", lambda: self.runs() and any(row["step"] >= step for row in self.rows()))

    def end(self, *, code=0):
        """Waits for the end of the command, and returns its output."""
        _, said = self.process.communicate(timeout=2 * SECONDS)
        assert self.process.returncode == code, said
        assert "Traceback" not in said
        return said

    def check_whole(self):
        """The run is at its last step, and every metric line is there once."""
        training, every = self.experiment.training, self.experiment.monitor.log_every
        last = training.epochs * 100
        assert CheckpointStore(self.run).newest().position.step == last
        expected = [("train", step) for step in range(every, last + 1, every)]
        expected += [("test", step) for step in range(100, last + 1, 100)]
        assert sorted((row["kind"], row["step"]) for row in self.rows()) == sorted(expected)


def wait_for(what, condition, seconds=SECONDS):
    """Until it holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.05)


@pytest.fixture
def training(tmp_path):
    """Gives a `Training` of an experiment, with options of `vaedist train`; it does not outlive the test."""
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
    """Gives a context that lasts from a fault until the run goes on; how long is printed when all tests are over."""

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
    """`wait_for`, for tests."""
    return wait_for
