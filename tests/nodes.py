"""Ray clusters of several nodes on this machine, each with its own loopback address, for tests that remove nodes."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

HEAD, FIRST, SECOND, THIRD = (f"127.0.0.{number}" for number in range(2, 6))
SECONDS = 240  # timeout of each step
RAY = "from ray.scripts.scripts import main; main()"


def free_port():
    """Returns a port on which nothing listens."""
    with socket.socket() as free:
        free.bind(("", 0))  # Ray listens on all addresses
        return free.getsockname()[1]


class Nodes:
    """A Ray cluster of several nodes on this machine, each with its own loopback address."""

    def __init__(self, folder):
        self.folder, self.started, self.wanted = folder, {}, {}
        self.address = f"{HEAD}:{free_port()}"

    def start(self, node, cpus):
        """Starts a node, without a dashboard."""
        self.wanted[node] = cpus
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
        """Returns True if a node has joined; restarts it if Ray gave up, after 30 s by default."""
        if self.started[node].poll() is not None:
            self.start(node, self.wanted[node])
        return "Ray runtime started" in (self.folder / f"{node}.log").read_text()

    def processes(self, node):
        """Returns the ids of the process that started a node and of all its descendants."""
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
        """Kills all processes of a node at once, as a power failure does; returns their number."""
        doomed = self.processes(node)
        for pid in doomed:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.started.pop(node).wait()
        return len(doomed)

    def drain(self, node, seconds):
        """Announces the preemption of a node."""
        ask = "import ray; ray.init(address='auto', log_to_driver=False); print(*("
        ask += f"n['NodeID'] for n in ray.nodes() if n['Alive'] and n['NodeManagerAddress'] == {node!r}))"
        environment = os.environ | {"RAY_ADDRESS": self.address}
        options = {"env": environment, "capture_output": True, "text": True, "check": True}
        identity = subprocess.run([sys.executable, "-c", ask], **options).stdout.split()[-1]
        announce = ["drain-node", f"--node-id={identity}", f"--deadline-remaining-seconds={seconds}"]
        announce += ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=a test takes it away"]
        subprocess.run([sys.executable, "-c", RAY, *announce, f"--address={self.address}"], **options)

    def workers(self, node):
        """Returns the number of training workers on a node."""
        return len(self.named(node, "RayTrainWorker"))

    def named(self, node, name):
        """Returns the ids of the processes of a node whose command line contains a name."""
        found = []
        for pid in self.processes(node):
            with contextlib.suppress(OSError):
                if name.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
        return found


@contextlib.contextmanager
def started():
    """Yields a cluster without nodes, which nodes join with a token; ends all its nodes when the context ends.

    Yields:
        the `Nodes`, and the environment that a process needs to join them.
    """
    with tempfile.TemporaryDirectory(prefix="vd", dir="/tmp") as name:  # short, because paths of sockets are limited
        token = Path(name, "token")
        token.touch(mode=0o600)
        token.write_text(os.urandom(32).hex())
        nodes = Nodes(Path(name))
        try:
            yield nodes, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        finally:
            for node in list(nodes.started):
                nodes.kill(node)
