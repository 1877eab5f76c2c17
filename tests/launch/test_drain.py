"""Finding and draining the Ray node of this machine; `faults/test_nodes.py` removes a real one."""

import subprocess
import sys
import time

import psutil
import pytest
import ray
from command import refused, run

from vaedist.errors import ClusterError
from vaedist.launch.preemption.drain import OwnNode, wait_for_workers, workers

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]


@pytest.fixture
def address():
    return ray.get_runtime_context().gcs_address


@pytest.fixture
def worker():
    """Starts a process that looks like a training worker."""
    code = "import time; time.sleep(60)  # ray::RayTrainWorker.execute"
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        yield process
        process.kill()


def test_a_machine_finds_its_own_node(address):
    found, ip = OwnNode(address).find()
    assert found == ray.get_runtime_context().get_node_id()
    assert OwnNode(address, ip).find() == (found, ip)


def test_a_machine_that_the_cluster_does_not_know_is_named(address):
    with pytest.raises(ClusterError, match=r"has no live node on 192\.0\.2\.1"):
        OwnNode(address, "192.0.2.1").find()


def test_a_cluster_that_does_not_answer_is_named():
    with pytest.raises(ClusterError, match=r"no Ray cluster answers at 127\.0\.0\.1:9: .*refused"):
        OwnNode("127.0.0.1:9").drain("a test", time.time())


def test_a_cluster_that_cannot_be_reached_is_reported_in_one_line(tmp_path):
    assert "no Ray cluster answers at 127.0.0.1:9" in refused(tmp_path, "cluster", "drain", "--address", "127.0.0.1:9")


def test_a_wrong_token_is_one_line(address):
    wrong = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    _, said = run("cluster", "drain", "--address", address, code=2, **wrong)
    [line] = said.splitlines()
    assert address in line
    assert "token" in line


def test_workers_are_waited_for_until_they_have_ended_or_the_deadline(worker, monkeypatch):
    everybody = psutil.process_iter
    only = {worker.pid}  # of this machine's cluster, which may have other nodes
    monkeypatch.setattr(psutil, "process_iter", lambda *given: (one for one in everybody(*given) if one.pid in only))
    assert workers() == 1
    said = []
    wait_for_workers(time.time() + 0.3, notify=said.append)
    assert said == ["waiting for 1 training worker to save and end"]
    worker.kill()
    worker.wait()
    began = time.monotonic()
    wait_for_workers(time.time() + 60)
    assert time.monotonic() - began < 30
