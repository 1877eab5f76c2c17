"""Checks of addresses that are not a cluster's, and of temporary folders whose paths are too long for sockets."""

import os
import socket
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from ray._private.utils import validate_socket_filepath

from vaedist.errors import ClusterError
from vaedist.launch.doctor import preflight
from vaedist.launch.doctor.preflight import SOCKET, SOCKET_BYTES, check_dashboard, check_head, check_socket_paths
from vaedist.launch.jobs.client import Jobs
from vaedist.launch.local.cluster import LocalNode
from vaedist.launch.local.nodes import _last_words, up
from vaedist.launch.session import ray_session

REDIS = b"-ERR unknown command 'PRI', with args beginning with: \r\n"
HTTP = b"HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\nContent-Length: 9\r\n\r\n<p>no</p>"
PAGE = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 9\r\n\r\n<p>hi</p>"
JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
SAYS = {"redis": REDIS, "http": HTTP, "page": PAGE, "json": JSON, "closes": b"", "silent": None}


@contextmanager
def server(says):
    """Returns HOST:PORT of a server that gives the same answer to every request, or none."""
    kept = []

    def accept():
        with suppress(OSError):
            while True:
                client, _ = listening.accept()
                kept.append(client)
                with suppress(OSError):
                    if says is not None:
                        client.recv(1)
                        client.sendall(says)
                        client.shutdown(socket.SHUT_WR)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
    for client in kept:
        client.close()


@pytest.fixture(autouse=True)
def unset(monkeypatch, tmp_path):
    """Removes the addresses and tokens of the user who runs the tests."""
    monkeypatch.setenv("VAEDIST_STATE", str(tmp_path / "state"))
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.mark.parametrize("says", SAYS)
def test_a_server_that_is_not_a_head_is_refused_in_one_line(monkeypatch, says):
    if says == "silent":
        monkeypatch.setattr(preflight, "ANSWER_SECONDS", 2.0)
    began = time.monotonic()
    with server(SAYS[says]) as address, pytest.raises(ClusterError) as refused:
        check_head(address)
    line = str(refused.value)
    assert line.startswith(f"no Ray head at {address}: ")
    assert ("has not answered for 2 s" if says == "silent" else "does not speak Ray's protocol") in line
    assert "(8265 is that of its dashboard)" in line
    assert "\n" not in line
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("says", SAYS)
def test_a_server_that_is_not_a_dashboard_is_refused_in_one_line(monkeypatch, says):
    monkeypatch.setattr(preflight, "ANSWER_SECONDS", 2.0)
    with server(SAYS[says]) as address, pytest.raises(ClusterError) as refused:
        check_dashboard(f"http://{address}")
    line = str(refused.value)
    assert line.startswith(f"no Ray dashboard at http://{address}: ")
    assert ("has not answered for 2 s" if says == "silent" else "another service answers there; ") in line
    assert "(6379 is that of its head)" in line
    assert "\n" not in line


def test_tls_and_proxy_errors_are_named(monkeypatch):
    with server(PAGE) as address:
        with pytest.raises(ClusterError, match=rf"^no Ray dashboard at https://{address}: TLS fails, .*version"):
            check_dashboard(f"https://{address}")
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        monkeypatch.setenv("no_proxy", "")
        with pytest.raises(ClusterError, match=r"the proxy of the environment does not reach it, add the host"):
            check_dashboard(f"http://{address}")


def test_addresses_are_checked_before_ray_connects(monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # other tests of this process share a Ray cluster
    with server(REDIS) as address:
        with pytest.raises(ClusterError, match=rf"^no Ray head at {address}: "), ray_session(address):
            pass
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(ClusterError, match=rf"^RAY_ADDRESS: no Ray head at {address}: "), ray_session():
            pass
        with pytest.raises(ClusterError, match=rf"^no Ray dashboard at http://{address}: "):
            Jobs(f"http://{address}")


def test_a_wrong_address_is_refused_within_a_minute():
    assert preflight.CONNECT_SECONDS + preflight.ANSWER_SECONDS + preflight.ATTEMPTS * preflight.PAUSE_SECONDS < 55


def test_ray_accepts_the_longest_allowed_folder_and_no_longer_one():
    longest = SOCKET_BYTES - len(f"/ray/{SOCKET}")
    check_socket_paths("/" + "t" * (longest - 1), "ray")
    validate_socket_filepath(f"/{'t' * (longest - 1)}/ray/{SOCKET}")
    with pytest.raises(
        ClusterError, match=f"^TMPDIR = /t+: {longest + 1} bytes .* at most {longest} are allowed; set "
    ):
        check_socket_paths("/" + "t" * longest, "ray")
    with pytest.raises(OSError, match="AF_UNIX"):
        validate_socket_filepath(f"/{'t' * longest}/ray/{SOCKET}")
    with pytest.raises(ClusterError, match="bytes are too long"):  # characters of more than one byte
        check_socket_paths("/" + "ü" * (longest // 2 + 1), "ray")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems allow other lengths")
def test_the_page_on_clusters_documents_the_limit_on_the_folders_path():
    page = " ".join((Path(__file__).parents[2] / "docs" / "clusters.md").read_text().split())
    check_socket_paths("t" * 39, "ray")
    check_socket_paths("t" * 24, "vaedist-00000000/2")  # of three nodes
    with pytest.raises(ClusterError):
        check_socket_paths("t" * 40, "ray")
    with pytest.raises(ClusterError):
        check_socket_paths("t" * 25, "vaedist-00000000/2")
    assert "can therefore have at most 39 bytes, or 24 for `vaedist cluster up`" in page


def test_a_socket_can_be_bound_at_the_longest_path(tmp_path):
    folder = tmp_path / "s"
    folder.mkdir()
    path = str(folder / ("s" * (SOCKET_BYTES - len(os.fsencode(folder)) - 1)))
    if len(os.fsencode(folder)) >= SOCKET_BYTES - 1:
        pytest.skip("the tests' own folder is too deep")
    for name, fits in ((path, True), (path + "s", False)):
        with socket.socket(socket.AF_UNIX) as bound:
            if fits:
                bound.bind(name)
            else:
                with pytest.raises(OSError, match="too long"):
                    bound.bind(name)


def test_a_cluster_in_a_folder_that_is_too_deep_is_refused(monkeypatch, tmp_path):
    deep = tmp_path / ("d" * 90)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with pytest.raises(
        ClusterError, match=r"^TMPDIR = .*d{90}: \d+ bytes are too long .* at most 2\d are allowed; set "
    ):
        up("deep", nodes=2)
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("log", "said"),
    [
        (
            "Traceback:\n  raise OSError(\nOSError: it is full\nRemaining processes will be killed.\n",
            "OSError: it is full",
        ),
        ("ray.exceptions.RpcError: no\n\n", "ray.exceptions.RpcError: no"),
        ("starting\nwaiting\n", "waiting"),
        ("", "it said nothing"),
        (None, "it said nothing"),
    ],
)
def test_a_node_that_does_not_start_reports_the_reason(tmp_path, log, said):
    if log is not None:
        (tmp_path / "log").write_text(log)
    assert _last_words(LocalNode("head", 1, 1, 0.0, str(tmp_path / "log"))) == said
