"""Addresses of a worker group, and the networks that its workers admit."""

import json
from contextlib import contextmanager
from ipaddress import ip_network

import pytest

from vaedist.config import Experiment
from vaedist.launch.training import backend
from vaedist.launch.training.backend import Reserved, common_addresses
from vaedist.launch.training.ray_worker import SHOWN, _guard
from vaedist.launch.training.server_port import ServerPort


@pytest.mark.parametrize(
    ("places", "addresses"),
    [
        ([("n", "10.0.0.1", 5000), ("n", "10.0.0.1", 5001)], ["127.0.0.1:5000", "127.0.0.1:5001"]),
        ([("n", "10.0.0.1", 5000), ("m", "10.0.0.2", 5000)], ["10.0.0.1:5000", "10.0.0.2:5000"]),
        ([("n", "fd00::1", 5000), ("m", "fd00::2", 5000)], ["[fd00::1]:5000", "[fd00::2]:5000"]),
    ],
)
def test_workers_of_one_node_meet_on_the_loopback(places, addresses):
    assert common_addresses([Reserved(*place) for place in places]) == addresses


class Port(ServerPort):
    """Records the networks to admit."""

    @contextmanager
    def admitting(self, networks, tell):
        self.admitted = networks
        yield


class Line:
    """Records a worker's events."""

    def __init__(self):
        self.told = []

    def notify(self, event):
        self.told.append(event.text)


@pytest.fixture
def guarded(monkeypatch):
    """Returns the networks that a worker admits, and its notices, for the hosts of its group."""

    def guard(hosts, peers=(), rank=0):
        port, line = Port(), Line()
        monkeypatch.setattr(backend, "reserved", port)
        workers = [f"[{host}]:5000" if ":" in host else f"{host}:5000" for host in hosts]
        monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": {"worker": workers}}))
        experiment = Experiment.from_dict({"scaling": {"workers": 2, "peer_networks": list(peers)}})
        with _guard(experiment, rank, line):
            port.close()
        return port.admitted, line.told

    return guard


def admits(networks, address):
    return any(ip_network(address).subnet_of(each) for each in networks if each.version == ip_network(address).version)


def test_a_group_on_one_machine_admits_only_the_loopback_without_a_warning(guarded):
    admitted, told = guarded(["127.0.0.1", "127.0.0.1"])
    assert admits(admitted, "127.0.0.1")
    assert admits(admitted, "::1")
    assert not admits(admitted, "10.0.0.1")
    assert told == []


def test_a_group_on_several_machines_admits_them_with_a_warning(guarded):
    admitted, told = guarded(["10.0.0.1", "fd00::2"], peers=["192.168.7.0/24"])
    for address in ("127.0.0.1", "10.0.0.1", "fd00::2", "192.168.7.9"):
        assert admits(admitted, address)
    for address in ("10.0.0.2", "fd00::1", "192.168.8.9"):
        assert not admits(admitted, address)
    assert len(told) == 1
    assert "without authentication from 10.0.0.1, fd00::2, 192.168.7.0/24;" in told[0]
    assert guarded(["10.0.0.1", "10.0.0.2"], rank=1)[1] == []  # once for all workers


def test_the_warning_about_many_machines_is_one_line(guarded):
    _, told = guarded([f"10.0.0.{number}" for number in range(1, SHOWN + 4)])
    assert "and 3 more;" in told[0]


def test_a_single_worker_has_no_port(monkeypatch):
    monkeypatch.setattr(backend, "reserved", None)
    with _guard(Experiment.from_dict({}), 0, Line()):
        pass
