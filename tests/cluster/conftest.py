"""A Ray cluster of three nodes on this machine, started and ended by the command line, and a job for it.

The fixtures have the scope of a module, so that their environment variables do not affect other tests.
"""

import json
import os
import socket
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from command import run
from dead_proxies import set_dead_proxies

NAME = "tests"
KEYS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "secret-of-the-tests",
    "AWS_EC2_METADATA_DISABLED": "true",
}
CPUS = 2  # CPUs of each node except the head, so that one node has room for two workers if the other dies


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    """Folder of clusters, separate from that of the user who runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("state")
        patch.setenv("VAEDIST_STATE", str(folder))
        patch.setenv("TF_CPP_MIN_LOG_LEVEL", "1")
        for name, value in KEYS.items():
            patch.setenv(name, value)
        for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
            patch.delenv(name, raising=False)
        yield folder


@pytest.fixture(scope="module")
def cluster(state):
    """Output of `vaedist cluster up`; the environment of its nodes has dead proxies."""
    with pytest.MonkeyPatch.context() as patch:
        set_dead_proxies(patch)
        printed, _ = run("cluster", "up", "--name", NAME, "--nodes", "3", "--cpus", CPUS, "--json", seconds=400)
    facts = json.loads(printed)
    yield facts
    from vaedist.launch.local.cluster import local_clusters
    from vaedist.launch.local.nodes import end

    for left in local_clusters():  # unless the last test has ended it
        end(left)


@pytest.fixture(scope="module")
def data(state, s3_server):
    """Location of a small data set on an object store."""
    out = s3_server.uri("cluster/photos")
    run("data", "prepare", "photos", "--out", out, "--train", 1600, "--test", 96, "--shards", 4)
    return out


@pytest.fixture(scope="module")
def runs(state, s3_server):
    """Location of the runs, on the same store."""
    return s3_server.uri("cluster/runs")


@pytest.fixture(scope="module")
def job(tmp_path_factory, data, runs):
    """A job of two workers: 2 epochs of 100 steps."""
    path = tmp_path_factory.mktemp("jobs") / "small.toml"
    path.write_text(f"""
        [run]
        folder = "{runs}"
        [data]
        path = "{data}"
        [model]
        hidden = 24
        latent = 6
        [model.flow]
        depth = 2
        width = 12
        [training]
        epochs = 2
        global_batch = 16
        learning_rate = 0.001
        eval_batch = 32
        [scaling]
        workers = 2
        cpus_per_worker = 1
        [checkpoint]
        every_steps = 0
        [monitor]
        log_every = 10
        pictures = 4
    """)
    return path


class Proxy:
    """Forwards TCP connections to a port of this machine, until they are cut."""

    def __init__(self, port):
        self.target = ("127.0.0.1", port)
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        self.sockets, self.closed = [], False
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self.server.accept()
            except OSError:
                return
            if self.closed:
                client.close()
                continue
            upstream = socket.create_connection(self.target)
            self.sockets += [client, upstream]
            for source, sink in ((client, upstream), (upstream, client)):
                threading.Thread(target=self._pass, args=(source, sink), daemon=True).start()

    @staticmethod
    def _pass(source, sink):
        with suppress(OSError):
            while block := source.recv(1 << 16):
                sink.sendall(block)
        for side in (source, sink):
            with suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)

    def cut(self):
        """Ends all connections, and refuses new ones until `mend`."""
        self.closed = True
        for one in self.sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self.sockets = []

    def mend(self):
        self.closed = False

    def close(self):
        self.cut()
        self.server.close()


@pytest.fixture
def proxy(cluster):
    """A proxy of the dashboard, whose connections can be cut."""
    made = Proxy(int(cluster["dashboard"].rpartition(":")[2]))
    yield made
    made.close()


def processes_with(text):
    """Returns the processes of this machine whose command line or environment contains a text."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):
                if any(text.encode() in (entry / name).read_bytes() for name in ("cmdline", "environ")):
                    found.append(int(entry.name))
    return found
