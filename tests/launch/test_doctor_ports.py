"""Findings of `vaedist doctor` about open ports."""

import pytest

from vaedist.launch.doctor import examination as doctor
from vaedist.launch.doctor import probe
from vaedist.launch.doctor.examination import examine, examine_cluster


def named(findings, what):
    return [finding for finding in findings if finding.what == what]


def test_a_machine_with_packet_filters_and_one_without(monkeypatch, tmp_path):
    monkeypatch.setenv("VAEDIST_STATE", str(tmp_path))  # no local cluster
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    (finding,) = named(examine(), "TensorFlow's ports")
    assert (finding.state, finding.where) == ("ok", "here")
    assert not named(examine(), "Ray's ports")

    def none():
        raise OSError("here are none")

    monkeypatch.setattr(probe, "prove", none)
    (finding,) = named(examine(), "TensorFlow's ports")
    assert finding.state == "warning"
    assert finding.found.endswith("without authentication, in runs of several workers: here are none")
    assert "scaling.ports" in finding.remedy


@pytest.mark.ray
def test_a_local_ray_listens_on_the_loopback(cluster):
    findings = examine_cluster(None, [])
    (finding,) = named(findings, "Ray's ports")
    assert (finding.state, finding.found) == ("ok", "only on the loopback interface")
    assert finding.where.startswith("node 0")
    assert len(named(findings, "TensorFlow's ports")) == 1


@pytest.mark.parametrize(("token", "state"), [(True, "ok"), (False, "warning")])
def test_open_ports_need_a_token(token, state):
    (finding,) = doctor._of_ports({"open": 7, "token": token}, "node 1")
    assert finding.state == state
    assert finding.found.startswith("7 are open to other machines")
