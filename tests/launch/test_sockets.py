"""Listening sockets of a training run of two workers with a local Ray, and their access without a token."""

import contextlib
import ipaddress
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass

import command
import psutil
import pytest
import requests

from vaedist.launch.addresses import free_port

pytestmark = [pytest.mark.ray, pytest.mark.slow]

WORKER, WORKERS = "RayTrainWorker", 2
UP_SECONDS, DROPPED_SECONDS, REFUSED_SECONDS = 300.0, 2.0, 30.0
# A method of each of Ray's servers. The server of a method requires the token; the others do not have the method.
METHODS = (
    "NodeInfoGcsService/GetAllNodeInfo", "NodeManagerService/GetNodeStats", "ObjectManagerService/Pull",
    "CoreWorkerService/PushTask", "ReporterService/HealthCheck",
)  # fmt: skip
# Calls every method on every port without a token, and prints the status.
STRANGER = """
import sys, grpc
for port in sys.argv[2:]:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        for method in sys.argv[1].split(","):
            try:
                channel.unary_unary(f"/ray.rpc.{method}")(b"", timeout=20)
                print(port, "OK")
            except grpc.RpcError as error:
                print(port, error.code().name)
"""
# TensorFlow 1's client, which reads a file on the server's machine.
SESSION = """
import sys
import tensorflow as tf
with tf.Graph().as_default():
    config = tf.compat.v1.ConfigProto(operation_timeout_in_ms=1000 * int(sys.argv[3]))
    with tf.compat.v1.Session(f"grpc://{sys.argv[1]}", config=config) as session:
        with tf.device(session.list_devices()[0].name):  # of whichever worker the port belongs to
            read = tf.io.read_file(sys.argv[2])
        print(session.run(read).decode())
"""


@dataclass(frozen=True)
class Listener:
    """Listening socket: its owner, its address, and the command line of its process."""

    pid: int
    address: str
    port: int
    of: str


@pytest.fixture(scope="module")
def listeners(make_experiment, tmp_path_factory):
    """Yields the sockets of all processes of a running training, whose TensorFlow ports start at `first`."""
    folder = tmp_path_factory.mktemp("sockets")
    first = free_port()
    experiment = make_experiment(folder / "runs").with_overrides(
        "training.epochs=100000", f"scaling.workers={WORKERS}", f"scaling.ports=[{first}, {first + 7}]",
        "monitor.pictures_every=0",
    )  # fmt: skip
    (folder / "job.toml").write_text(experiment.to_toml())
    metrics = folder / "runs" / "run" / "metrics.jsonl"
    with (folder / "log").open("w") as log:
        process = command.start("train", folder / "job.toml", log=log)
    try:
        deadline = time.monotonic() + UP_SECONDS
        while not (metrics.exists() and metrics.stat().st_size):
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield _listeners(process.pid), (folder / "log")
        assert process.poll() is None, (folder / "log").read_text()  # no attempt has ended it
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(UP_SECONDS)


def _listeners(pid):
    found = []
    command = psutil.Process(pid)
    for process in [command, *command.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            for one in process.net_connections("inet"):
                if one.status == psutil.CONN_LISTEN or one.type == socket.SOCK_DGRAM:
                    address = one.laddr.ip.removeprefix("::ffff:")
                    found.append(Listener(process.pid, address, one.laddr.port, " ".join(process.cmdline())))
    return found


def split(listeners):
    """Returns Ray's sockets, and TensorFlow's."""
    tensorflow = [one for one in listeners if not ipaddress.ip_address(one.address).is_loopback]
    return [one for one in listeners if one not in tensorflow], tensorflow


@pytest.fixture(scope="module")
def elsewhere():
    """Returns a non-loopback address of this machine; connections to it come from it."""
    for addresses in psutil.net_if_addrs().values():
        for one in addresses:
            if one.family == socket.AF_INET and not ipaddress.ip_address(one.address).is_loopback:
                return one.address
    pytest.skip("this machine has no address but the loopback's")


def test_ray_listens_on_the_loopback_and_only_tensorflow_does_not(listeners):
    ray, tensorflow = split(listeners[0])
    told = [f"{one.of[:60]} {one.address}:{one.port}" for one in tensorflow]
    assert len(tensorflow) == WORKERS, told
    assert all(WORKER in one.of for one in tensorflow), told
    assert len({one.pid for one in tensorflow}) == WORKERS
    for kind in ("vaedist", "gcs_server", "raylet", "DashboardAgent", "RuntimeEnvAgent", "TrainController", WORKER):
        assert any(kind in one.of for one in ray), kind
    ports = sorted(one.port for one in tensorflow)
    assert ports[-1] - ports[0] < 8  # of `scaling.ports`


def test_nothing_of_ray_answers_without_a_token_but_its_metrics(listeners):
    ray, _ = split(listeners[0])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    calls = subprocess.run(
        [sys.executable, "-c", STRANGER, ",".join(METHODS), *(str(one.port) for one in ray)],
        env=environment, capture_output=True, text=True, check=True, timeout=UP_SECONDS,
    ).stdout  # fmt: skip
    codes = {one.port: set() for one in ray}
    for line in calls.splitlines():
        port, code = line.split()
        codes[int(port)].add(code)
    metrics = set()
    for one in ray:
        if codes[one.port] == {"UNAVAILABLE"}:  # not gRPC: a web server
            answer = requests.get(f"http://127.0.0.1:{one.port}/", timeout=REFUSED_SECONDS)
            if answer.status_code != 401:
                assert answer.text.startswith("# HELP"), (one.of, answer.text[:200])  # Prometheus' format
                metrics.add(one.of)
        else:
            assert codes[one.port] == {"UNAUTHENTICATED", "UNIMPLEMENTED"}, (one.of, codes[one.port])
    assert len(metrics) <= 3, metrics
    assert all(any(kind in one for kind in ("monitor.py", "dashboard.py", "DashboardAgent")) for one in metrics)


def test_tensorflows_port_accepts_no_connection_from_another_address(listeners, elsewhere):
    _, tensorflow = split(listeners[0])
    for one in tensorflow:
        socket.create_connection(("127.0.0.1", one.port), REFUSED_SECONDS).close()
        with pytest.raises(TimeoutError):
            socket.create_connection((elsewhere, one.port), DROPPED_SECONDS)


def test_a_tensorflow_session_has_access_from_this_machine_only(listeners, elsewhere, tmp_path):
    """The second half shows the access of other users of the machine, as described in docs/security.md."""
    _, tensorflow = split(listeners[0])
    secret = tmp_path / "secret"
    secret.write_text("what only the owner may read")

    def read(host, seconds):
        return subprocess.run(
            [sys.executable, "-c", SESSION, f"{host}:{tensorflow[0].port}", str(secret), str(int(seconds))],
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}, capture_output=True, text=True, timeout=UP_SECONDS,
        )  # fmt: skip

    stranger = read(elsewhere, 10 * DROPPED_SECONDS)
    assert stranger.returncode != 0
    assert stranger.stdout == ""
    assert "DeadlineExceeded" in stranger.stderr or "Unavailable" in stranger.stderr, stranger.stderr[-1000:]
    owner = read("127.0.0.1", UP_SECONDS / 2)  # of a busy worker: it answers when its cores let it
    assert owner.stdout == "what only the owner may read\n", owner.stderr[-1000:]


def test_a_run_on_one_machine_has_no_warning(listeners):
    assert "authentication" not in listeners[1].read_text()


def test_tensorboard_listens_on_the_loopback(tmp_path):
    process = command.start("tensorboard", tmp_path, "--port", 0)
    try:
        deadline = time.monotonic() + UP_SECONDS
        while not (found := _listeners(process.pid)):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert {one.address for one in found} == {"127.0.0.1"}
    finally:
        process.kill()
        process.communicate()
