"""Ports of TensorFlow's servers: reserved, chosen from a range, and never open to other machines."""

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from ipaddress import ip_network
from pathlib import Path

import pytest

from vaedist.errors import ClusterError
from vaedist.launch.addresses import free_port
from vaedist.launch.training import server_port
from vaedist.launch.training.server_port import ServerPort

sys.path.append(str(Path(__file__).parent.parent / "network"))

from three_hosts import Network, reason_to_skip

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has packet filters for sockets")
SECONDS = 0.3  # timeout of dropped packets; others need microseconds over the loopback
WORKER, STRANGER = "127.0.0.1", "127.0.0.2"

# A worker as started by launch/: admits some networks, reads the addresses of its group, and prints when it has joined.
TENSORFLOW = """
import json, os, sys
from ipaddress import ip_network
from vaedist.launch.training.server_port import ServerPort

rank, admitted = int(sys.argv[1]), [ip_network(each) for each in sys.argv[2:]]
port = ServerPort()
print(port.number, flush=True)
workers = json.loads(sys.stdin.readline())
os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": rank}})
from vaedist.devices.strategy import configure_devices, make_strategy
configure_devices(threads=1, gpus=0, logical_devices=1)
with port.admitting(admitted, print):
    strategy = make_strategy(len(workers))
print("met", flush=True)
sys.stdin.readline()
"""


def answer(port, source):
    """Returns the outcome of a connection from a loopback address."""
    with socket.socket() as client:
        client.settimeout(SECONDS)
        client.bind((source, 0))
        try:
            client.connect((WORKER, port))
        except TimeoutError:
            return "dropped"
        except ConnectionRefusedError:
            return "refused"
        return "open"


@linux
def test_only_workers_reach_tensorflows_server_at_any_time():
    """The first of two workers waits for the second in the call that starts its server."""
    with workers([[WORKER], [WORKER]]) as started:
        ports = [int(process.stdout.readline()) for process in started]
        assert [answer(port, STRANGER) for port in ports] == ["refused"] * 2  # no server yet
        seen = []
        for process in started:
            tell(process, [f"{WORKER}:{port}" for port in ports])
            deadline = time.monotonic() + 120
            while answer(ports[len(seen)], WORKER) != "open":  # polls until the server responds
                assert answer(ports[len(seen)], STRANGER) != "open"
                assert process.poll() is None, process.stderr.read()
                assert time.monotonic() < deadline
            seen.append(answer(ports[len(seen)], STRANGER))
            if process is started[0]:  # its server listens before the other one starts
                assert seen == ["dropped"]
        assert seen == ["dropped"] * 2
        assert [process.stdout.readline() for process in started] == ["met\n"] * 2
        assert [answer(port, STRANGER) for port in ports] == ["dropped"] * 2
        assert [answer(port, WORKER) for port in ports] == ["open"] * 2


@pytest.mark.slow
@linux
def test_another_machine_reaches_a_server_only_if_it_is_admitted():
    """The machines are network namespaces. The third is not part of the run, but in the second's `peer_networks`.

    The second has no IPv6, so that TensorFlow's server uses another kind of socket there.
    """
    if reason := reason_to_skip():
        pytest.skip(reason)
    with Network(("a", "b", "c")) as network:
        a, b, c = network.addresses.values()
        enter = [["ip", "netns", "exec", network.spaces[host]] for host in network.hosts]
        without = "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6"
        subprocess.run([*enter[1], "sh", "-c", without], check=True)
        with workers([[a, b], [a, b, c]], enter[:2]) as started:
            ports = [int(process.stdout.readline()) for process in started]
            for process in started:
                tell(process, [f"{a}:{ports[0]}", f"{b}:{ports[1]}"])
            assert [process.stdout.readline() for process in started] == ["met\n"] * 2

            def reached(space):
                command = [*enter[space], sys.executable, "-c", CLIENT, f"{a}:{ports[0]}", f"{b}:{ports[1]}"]
                return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()

            assert reached(2) == ["dropped", "open"]
            assert reached(0) == reached(1) == ["open", "open"]


# Prints the outcome of a connection to each address.
CLIENT = """
import socket, sys
for address in sys.argv[1:]:
    host, port = address.split(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
        print("open")
    except TimeoutError:
        print("dropped")
"""


@contextmanager
def workers(admitted, enter=((), ())):
    """Starts a TENSORFLOW process for each list of networks, with `enter` before its command."""
    started = [
        subprocess.Popen(
            [*before, sys.executable, "-c", TENSORFLOW, str(rank), *networks],
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank, (networks, before) in enumerate(zip(admitted, enter, strict=True))
    ]  # fmt: skip
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def tell(process, addresses):
    """Sends a worker the addresses of its group."""
    process.stdin.write(json.dumps(addresses) + "\n")
    process.stdin.flush()


@linux
def test_the_server_replaces_the_reservation():
    port = ServerPort()
    with port.admitting([ip_network(WORKER)], pytest.fail):
        assert answer(port.number, WORKER) == "dropped"  # reserved, and no server yet
        server = serve(port.number)
    with server:
        assert answer(port.number, WORKER) == "open"
        assert answer(port.number, STRANGER) == "dropped"
    assert answer(port.number, WORKER) == "refused"  # nothing else listens there


def serve(port):
    """Listens with SO_REUSEPORT, as gRPC does."""
    family = server_port._family()
    server = socket.socket(family)
    if family == socket.AF_INET6:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    server.bind(("", port))
    server.listen()
    return server


@linux
def test_a_server_that_does_not_listen_as_expected_is_refused(monkeypatch):
    port = ServerPort()
    with pytest.raises(ClusterError, match="does not listen on port"), port.admitting([], pytest.fail):
        pass
    monkeypatch.setattr(server_port, "_family", lambda: socket.AF_INET6)
    port = ServerPort()
    monkeypatch.setattr(server_port, "_family", lambda: socket.AF_INET)
    with pytest.raises(ClusterError, match="open to everybody"), port.admitting([], pytest.fail):
        server = serve(port.number)
    server.close()


@linux
def test_dropped_packets_are_reported_if_workers_do_not_connect(monkeypatch):
    monkeypatch.setattr(server_port, "MEETING_SECONDS", 1.0)
    port, told = ServerPort(), []
    with port.admitting([ip_network(WORKER)], told.append):
        server = serve(port.number)
        assert answer(port.number, STRANGER) == "dropped"
        deadline = time.monotonic() + 60
        while not told:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    server.close()
    assert f"packets for TensorFlow's port {port.number}" in told[0]
    assert told[0].endswith("name its network in scaling.peer_networks")


def test_without_filters_there_is_a_warning_about_the_open_port(monkeypatch):
    def none():
        raise OSError("here are none")

    monkeypatch.setattr(server_port, "prove", none)
    port, told = ServerPort(), []
    with port.admitting([], told.append), socket.create_server(("", port.number)):
        assert answer(port.number, WORKER) == "open"
    assert len(told) == 1
    for part in (f"port {port.number} of", "open on all interfaces, without authentication", "here are none"):
        assert part in told[0]


def test_a_reserved_port_is_not_available_to_others():
    port = ServerPort()
    for options in ([], [socket.SO_REUSEADDR], [socket.SO_REUSEPORT]):
        with socket.socket() as other:
            for option in options:
                other.setsockopt(socket.SOL_SOCKET, option, 1)
            with pytest.raises(OSError, match="in use"):
                other.bind(("", port.number))
    port.close()
    with socket.socket() as other:
        other.bind(("", port.number))


def test_each_port_of_a_range_is_reserved_once():
    first = free_port()
    reserved = [ServerPort((first, first + 3), seconds=0) for _ in range(3)]
    try:
        numbers = [port.number for port in reserved]
        assert len(set(numbers)) == 3
        assert set(numbers) <= set(range(first, first + 4))
        one = ServerPort((first, first + 3), seconds=0)
        with pytest.raises(ClusterError, match=rf"no port of scaling\.ports = \[{first}, {first + 3}\] is free on"):
            ServerPort((first, first + 3), seconds=0)
        one.close()
        again = ServerPort((first, first + 3), seconds=0)
        assert again.number == one.number
        again.close()
    finally:
        for port in reserved:
            port.close()


def test_a_port_that_becomes_free_is_waited_for(monkeypatch):
    first = free_port()
    taken = [ServerPort((first, first + 1), seconds=0) for _ in range(2)]
    monkeypatch.setattr(server_port.time, "sleep", lambda seconds: taken[0].close())
    port = ServerPort((first, first + 1))
    assert port.number == taken[0].number
    port.close()
    taken[1].close()


ALONE = """
import psutil
from vaedist.devices.strategy import configure_devices, make_strategy
configure_devices(threads=1, gpus=0, logical_devices=2)
replicas = make_strategy(1).num_replicas_in_sync
print(replicas, [one for one in psutil.Process().net_connections("inet") if one.status == psutil.CONN_LISTEN])
"""


@pytest.mark.slow
def test_a_single_worker_does_not_listen():
    out = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, check=True).stdout
    assert out == "2 []\n"
