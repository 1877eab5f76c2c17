"""The command in a separate process with a local Ray and a user's code, interrupted and killed."""

import json
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from command import run as run_command
from command import start

from vaedist.monitor.metrics import read_metrics
from vaedist.runs.checkpoint_store import CheckpointStore
from vaedist.runs.folder import RunFolder

pytestmark = pytest.mark.slow

SECONDS = 240  # timeout
AS_USERS = {"XLA_FLAGS": ""}  # compiles with the flags of users, not of tests


class AnotherCluster(BaseHTTPRequestHandler):
    """Dashboard of a cluster that has none of the requested objects."""

    def do_GET(self):
        answer = {"result": True, "msg": "", "data": {"result": {"result": [], "total": 0, "num_after_truncation": 0}}}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def another_cluster(monkeypatch):
    """Sets the address of the cluster that the user submits jobs to."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), AnotherCluster)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", f"http://127.0.0.1:{server.server_address[1]}")
    yield
    server.shutdown()


def wait_for_step(process, run, step):
    """Waits until the run's metrics reach a step."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if run.metrics.exists() and any(row["step"] >= step for row in read_metrics(run.metrics)):
            return
        time.sleep(0.01)
    pytest.fail(f"step {step} was not reached: {process.communicate()[1] if process.poll() is not None else ''}")


@pytest.mark.usefixtures("another_cluster")
def test_a_run_survives_ctrl_c_and_kill_9_of_the_whole_command(experiment, tmp_path):
    experiment = experiment.with_overrides("training.epochs=12")  # long enough to be interrupted midway
    undisturbed = experiment.with_overrides("run.name=undisturbed", "scaling.max_failures=0")
    (tmp_path / "undisturbed.toml").write_text(undisturbed.to_toml())
    run_command("train", tmp_path / "undisturbed.toml", seconds=SECONDS, **AS_USERS)
    job = tmp_path / "run.toml"
    job.write_text(experiment.with_overrides("training.steps_per_call=4").to_toml())
    run, reference = RunFolder.of(experiment), RunFolder.of(undisturbed)

    first = start("train", job, **AS_USERS)
    wait_for_step(first, run, 20)
    first.send_signal(signal.SIGINT)
    _, said = first.communicate(timeout=SECONDS)
    assert first.returncode == 130, said
    assert said.splitlines()[-1].startswith("stopped at step ")
    assert said.splitlines()[-1].endswith(f"to resume: vaedist train {job} --resume")
    assert "Traceback" not in said
    stopped = CheckpointStore(run).newest().position.step
    assert 20 <= stopped < 1200
    assert f"stopped at step {stopped} of 1200" in said

    second = start("train", job, "--resume", **AS_USERS)
    wait_for_step(second, run, stopped + 60)
    second.kill()
    second.communicate(timeout=SECONDS)
    assert CheckpointStore(run).newest().position.step < 1200, "it was to be killed before its end"

    third = start("train", job, "--resume", **AS_USERS)
    printed, said = third.communicate(timeout=SECONDS)
    assert third.returncode == 0, said
    assert any(line.startswith("test ELBO    ") for line in printed.splitlines())
    assert "tensorboard" in printed
    expected, found = (CheckpointStore(folder).newest() for folder in (reference, run))
    assert found.position.step == expected.position.step == 1200
    for part in ("weights", "optimizer"):
        theirs, ours = getattr(expected, part)(), getattr(found, part)()
        assert all(np.array_equal(theirs[name], ours[name]) for name in theirs), part
    rows, others = read_metrics(run.metrics), read_metrics(reference.metrics)
    assert [(r["kind"], r["step"], r["elbo"]) for r in rows] == [(r["kind"], r["step"], r["elbo"]) for r in others]
