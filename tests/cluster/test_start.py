"""The start of a local cluster whose head fails at first, as it does where Ray's 30 s are too few."""

import os
import signal
import threading
import time
from contextlib import suppress

import psutil
import pytest

from vaedist.launch.local import nodes
from vaedist.launch.local.cluster import get_cluster, joined, local_clusters

pytestmark = pytest.mark.cluster


@pytest.fixture
def state(tmp_path, monkeypatch):
    """Sets the folder of this machine's clusters, which are ended after the test."""
    monkeypatch.setenv("VAEDIST_STATE", str(tmp_path))
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    yield
    for cluster in local_clusters():
        nodes.end(cluster)


def killed_while_it_starts(killed):
    """Kills the first head once it has started a process, and adds both to `killed`."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for cluster in local_clusters():
            with suppress(psutil.Error):
                head = psutil.Process(cluster.nodes[0].pid)
                if started := [child for child in head.children() if "gcs_server" in " ".join(child.cmdline())]:
                    os.kill(head.pid, signal.SIGKILL)
                    killed += [head, *started]
                    return
        time.sleep(0.02)


def test_a_head_that_ends_while_it_starts_is_started_again(state):
    killed, told = [], []
    killer = threading.Thread(target=killed_while_it_starts, args=(killed,))
    killer.start()
    cluster = nodes.up("again", nodes=2, cpus=1, progress=told.append)
    killer.join()
    assert len(killed) == 2
    assert told == [
        "starting node 1 of 2, the head",
        "starting node 1 of 2, the head, attempt 2",
        "starting node 2 of 2",
    ]
    assert [node.role for node in cluster.nodes] == ["head", "worker"]
    assert joined(cluster) == 2
    assert get_cluster("again") == cluster
    left = {process.pid for process in cluster.processes()}
    assert not left & {process.pid for process in killed}
    assert sum("gcs_server" in " ".join(process.cmdline()) for process in cluster.processes()) == 1
