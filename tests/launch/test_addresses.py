"""Addresses and ports."""

import multiprocessing
import os
import socket
import time

import pytest

from vaedist.launch.addresses import FIRST_PORT, PORTS, PROCESSES, free_port, host_of, is_loopback

OWN = range(FIRST_PORT, FIRST_PORT + PORTS * PROCESSES)


def test_a_process_chooses_another_port_each_time():
    ports = [free_port() for _ in range(4)]
    assert len(set(ports)) == 4
    assert set(ports) <= set(OWN)


def test_processes_that_start_together_take_different_ports():
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        pools = [pool.apply_async(_some_ports) for _ in range(3)]
        found = dict(one.get(60) for one in pools)
    ports = [port for some in found.values() for port in some]
    assert len(set(ports)) == len(ports)


def _some_ports():
    time.sleep(0.5)  # so that each process gets one of the calls
    return os.getpid(), [free_port() for _ in range(3)]


def test_the_wanted_port_is_taken_if_it_is_free():
    with socket.socket() as place:
        place.bind(("", 0))
        taken = place.getsockname()[1]
        assert free_port(taken) in OWN
    assert free_port(taken) == taken


@pytest.mark.parametrize(
    ("address", "host", "loopback"),
    [
        ("127.0.0.1:6379", "127.0.0.1", True),
        ("http://localhost:8265/x", "localhost", True),
        ("[::1]:6379", "::1", True),
        ("10.0.0.1:6379", "10.0.0.1", False),
        ("head:6379", "head", False),
    ],
)
def test_hosts(address, host, loopback):
    assert (host_of(address), is_loopback(address)) == (host, loopback)


@pytest.mark.usefixtures("without_ray")
def test_ray_is_not_started_if_its_processes_could_not_start(tmp_path, monkeypatch):
    """Ray encodes the path of the current folder as UTF-8, but only after it has started processes."""
    from vaedist.errors import StorageError
    from vaedist.launch.session import ray_session

    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    monkeypatch.chdir(folder)
    with (
        pytest.raises(StorageError, match="paths of data sets and runs, and of the current folder, must be UTF-8"),
        ray_session("local"),
    ):
        pass
