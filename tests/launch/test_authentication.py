"""Tokens, and the addresses that are refused without one."""

import os
import stat

import pytest

from vaedist.errors import ClusterError
from vaedist.launch import authentication as access
from vaedist.launch.addresses import host_of, is_loopback
from vaedist.launch.authentication import authorize, make_token, require_variables, secure_local
from vaedist.launch.local.cluster import LocalCluster


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch, tmp_path):
    """Removes tokens and clusters from the environment, and restores it afterwards."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("VAEDIST_STATE", str(tmp_path / "state"))
    for name in (access.MODE, access.TOKEN, access.TOKEN_PATH, access.IN_JOB, access.REQUIRED):
        monkeypatch.setenv(name, "")  # so that it is restored if the code sets it
        monkeypatch.delenv(name)
    yield
    monkeypatch.undo()
    access.reload_authentication()


@pytest.mark.parametrize(
    ("address", "host", "here"),
    [
        ("127.0.0.1:6379", "127.0.0.1", True),
        ("http://127.0.0.1:8265", "127.0.0.1", True),
        ("https://localhost:8265/", "localhost", True),
        ("[::1]:6379", "::1", True),
        ("127.3.2.1:1", "127.3.2.1", True),
        ("10.0.0.1:6379", "10.0.0.1", False),
        ("http://head:8265", "head", False),
        ("http://127.0.0.1.example.com:8265", "127.0.0.1.example.com", False),
        ("0.0.0.0:6379", "0.0.0.0", False),
    ],
)
def test_which_addresses_are_of_this_machine(address, host, here):
    assert host_of(address) == host
    assert is_loopback(address) is here


def test_another_machine_without_a_token_is_refused():
    with pytest.raises(ClusterError, match="--insecure continues without one"):
        authorize("http://10.0.0.1:8265")
    authorize("127.0.0.1:6379")
    assert access.MODE not in os.environ


def test_insecure_allows_a_cluster_without_a_token():
    access.allow_insecure()
    assert authorize("10.0.0.1:6379") == "10.0.0.1:6379"


def test_a_job_needs_no_token_for_its_own_cluster(monkeypatch):
    monkeypatch.setenv(access.IN_JOB, "{}")
    assert authorize("10.0.0.1:6379") == "10.0.0.1:6379"


@pytest.mark.parametrize("variable", [access.TOKEN, access.TOKEN_PATH, None])
def test_a_token_is_sent_to_another_machine(monkeypatch, tmp_path, variable):
    from ray._private.authentication.http_token_authentication import get_auth_headers_if_auth_enabled

    path = tmp_path / "token" if variable else access.default_token_path()
    make_token(path)
    if variable is not None:
        monkeypatch.setenv(variable, path.read_text() if variable == access.TOKEN else str(path))
    authorize("http://10.0.0.1:8265")
    assert os.environ[access.MODE] == "token"
    assert path.read_text() in str(get_auth_headers_if_auth_enabled({}))


def test_a_local_cluster_gets_its_own_token(tmp_path):
    make_token(access.default_token_path())
    own = tmp_path / "own"
    make_token(own)
    cluster = LocalCluster("a", "mark", "127.0.0.1:7001", "http://127.0.0.1:7002", str(own), str(tmp_path))
    cluster.save()
    assert authorize("http://localhost:7002/") == "http://localhost:7002/"
    assert os.environ[access.TOKEN_PATH] == str(own)
    del os.environ[access.TOKEN_PATH]
    assert authorize("127.0.0.1:7001") == "LOCALHOST:7001", "Ray would replace 127.0.0.1"
    assert os.environ[access.TOKEN_PATH] == str(own)
    del os.environ[access.TOKEN_PATH]
    authorize("127.0.0.1:7003")
    assert access.TOKEN_PATH not in os.environ


def test_only_its_owner_may_read_a_token(tmp_path):
    path = tmp_path / "folder" / "token"
    before = os.umask(0)
    try:
        make_token(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    written = path.read_text()
    assert len(written) == 64
    make_token(path)
    assert path.read_text() == written, "one that is there stays"
    assert list(path.parent.iterdir()) == [path]


def test_a_ray_that_is_started_here_requires_a_token():
    secure_local()
    assert os.environ[access.MODE] == "token"
    assert stat.S_IMODE(access.default_token_path().stat().st_mode) == 0o600


def test_a_missing_variable_of_a_job_is_named(monkeypatch):
    require_variables()
    monkeypatch.setenv(access.REQUIRED, "THERE,NOT_THERE")
    monkeypatch.setenv("THERE", "")
    with pytest.raises(ClusterError, match=r"^NOT_THERE is not set in Ray's environment on "):
        require_variables()


def test_the_token_of_a_cluster_is_not_kept_for_a_ray_that_is_started_here(monkeypatch, tmp_path):
    from ray._private.authentication.http_token_authentication import get_auth_headers_if_auth_enabled

    secure_local()
    other = tmp_path / "other"
    make_token(other)
    with monkeypatch.context() as patch:
        patch.setenv(access.TOKEN_PATH, str(other))
        authorize("10.0.0.1:6379")
        assert other.read_text() in str(get_auth_headers_if_auth_enabled({}))
    secure_local()
    assert access.default_token_path().read_text() in str(get_auth_headers_if_auth_enabled({}))
