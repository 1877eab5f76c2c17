"""A machine of the cluster dies under a run."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from command import start

from vaedist.monitor.metrics import read_metrics
from vaedist.training.checkpoint import CheckpointStore
from vaedist.training.run_folder import RunFolder

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8, an address for each node"),
]

HEAD, FIRST, SECOND, THIRD = (f"127.0.0.{number}" for number in range(2, 6))
SECONDS = 240  # far more than any of it takes
EPOCHS = 12
RAY = "from ray.scripts.scripts import main; main()"


class Nodes:
    """A Ray of several nodes on this machine, each with an address of the loopback."""

    def __init__(self, folder):
        self.folder, self.started, self.cpus = folder, {}, {}
        with socket.socket() as free:
            free.bind(("", 0))  # Ray listens at all addresses
            self.address = f"{HEAD}:{free.getsockname()[1]}"

    def start(self, node, cpus):
        """Start a node."""
        self.cpus[node] = cpus
        port = self.address.partition(":")[2]
        head = ["--head", f"--port={port}", "--include-dashboard=false"]
        where = head if node == HEAD else [f"--address={self.address}"]
        options = ["--block", f"--num-cpus={cpus}", f"--node-ip-address={node}", "--object-store-memory=80000000"]
        ports = ["--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0"]
        with (self.folder / f"{node}.log").open("w") as log:
            self.started[node] = subprocess.Popen(
                [sys.executable, "-c", RAY, "start", *where, *options, *ports, f"--temp-dir={self.folder / node[-1]}"],
                stdout=log, stderr=log, env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0"},
            )  # fmt: skip

    def joined(self, node):
        """Whether it has; started again where Ray gave itself up, after 30 s, which are short on a busy machine."""
        if self.started[node].poll() is not None:
            self.start(node, self.cpus[node])
        return "Ray runtime started" in (self.folder / f"{node}.log").read_text()

    def processes(self, node):
        """All that descend from what started a node."""
        parents = {}
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit():
                    parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        found = {self.started[node].pid}
        while more := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= more
        return found

    def kill(self, node):
        """End all processes of a node at once, as a machine does that loses its power; returns how many."""
        doomed = self.processes(node)
        for pid in doomed:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.started.pop(node).wait()
        return len(doomed)

    def workers(self, node):
        """How many training workers a node has."""
        pids, count = self.processes(node), 0
        for pid in pids:
            with contextlib.suppress(OSError):
                count += b"RayTrainWorker" in Path(f"/proc/{pid}/cmdline").read_bytes()
        return count


def wait_for(what, condition):
    """Until it holds."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {SECONDS} s"
        time.sleep(0.05)


@pytest.fixture
def nodes(monkeypatch):
    """To be started; ended with the test."""
    with tempfile.TemporaryDirectory(prefix="vd", dir="/tmp") as name:  # short, for the sake of the sockets in it
        token = Path(name, "token")
        token.touch(mode=0o600)
        token.write_text(os.urandom(32).hex())
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
        nodes = Nodes(Path(name))
        yield nodes
        for node in list(nodes.started):
            nodes.kill(node)


def test_a_run_goes_on_when_a_node_is_killed(experiment, nodes, tmp_path):
    experiment = experiment.with_overrides(f"training.epochs={EPOCHS}", "scaling.workers=2")
    job = tmp_path / "run.toml"
    job.write_text(experiment.with_overrides("training.steps_per_call=4").to_toml())
    run, last = RunFolder.of(experiment), 100 * EPOCHS

    def rows():
        return read_metrics(run.metrics) if run.metrics.exists() else []

    nodes.start(HEAD, cpus=0)
    wait_for("the head", lambda: nodes.joined(HEAD))
    nodes.start(FIRST, cpus=1)
    nodes.start(SECOND, cpus=1)
    wait_for("two nodes", lambda: nodes.joined(FIRST) and nodes.joined(SECOND))
    training = nodes.started["command"] = start("train", job, "--address", nodes.address)

    def running():
        assert training.poll() is None, training.communicate()[1]
        return True

    wait_for(
        "workers", lambda: running() and nodes.workers(FIRST) and nodes.workers(SECOND)
    )  # one has no room for both
    nodes.start(THIRD, cpus=1)
    wait_for("the third node", lambda: running() and nodes.joined(THIRD))
    wait_for("step 40", lambda: running() and any(row["step"] >= 40 for row in rows()))
    assert nodes.kill(FIRST) > 2
    assert rows()[-1]["step"] < last, "it was to be killed before the end"
    _, said = training.communicate(timeout=SECONDS)
    assert training.returncode == 0, said
    assert "resumed at step" in said
    assert CheckpointStore(run.checkpoints).newest().position.step == last
    expected = [("train", step) for step in range(5, last + 1, 5)]
    expected += [("test", step) for step in range(100, last + 1, 100)]
    assert sorted((row["kind"], row["step"]) for row in rows()) == sorted(expected)
