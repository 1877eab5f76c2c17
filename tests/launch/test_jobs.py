"""Checks before a job is submitted, and streaming of its log."""

import asyncio
import json
import logging
import socket
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import ray
from command import refused
from ray.exceptions import AuthenticationError
from ray.runtime_env import RuntimeEnv

import vaedist
from vaedist.config import Experiment
from vaedist.errors import ClusterError, ConfigError
from vaedist.launch.jobs import dashboard as requests_to
from vaedist.launch.jobs import log as tail
from vaedist.launch.jobs.address import ADDRESS, jobs_address
from vaedist.launch.jobs.client import Jobs
from vaedist.launch.jobs.dashboard import Dashboard
from vaedist.launch.jobs.submission import Submission, check_variables, sweep_arguments, training_arguments
from vaedist.packages import package_digest


def submission(tmp_path, data="/data", runs="/runs", **options):
    experiment = Experiment.from_dict({"run": {"name": "a", "folder": runs}, "data": {"path": data}})
    return Submission(experiment, training_arguments(resume=False), tmp_path / "a.toml", **options)


def test_relative_paths_are_refused(tmp_path):
    submission(tmp_path)
    submission(tmp_path, "s3://bucket/data", "gs://bucket/runs")
    with pytest.raises(ConfigError, match=r"data\.path = 'data': for a job it must be an absolute path"):
        submission(tmp_path, data="data")
    with pytest.raises(ConfigError, match=r"run\.folder = 'runs': for a job it must be an absolute path"):
        submission(tmp_path, runs="runs")


@pytest.mark.parametrize(
    "name",
    ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN", "my_password", "WANDB_API_KEY", "Credentials"],
)
def test_variables_that_look_like_secrets_are_refused(name):
    with pytest.raises(ConfigError, match=f"--env {name}: looks like a secret.* --env-from-node {name}"):
        check_variables({name: "x"}, ())
    check_variables({}, (name,))


@pytest.mark.parametrize("name", ["", "A B", "1A", "A-B", "PYTHONPATH", "VAEDIST_REQUIRED_ENV"])
def test_names_of_variables(name):
    with pytest.raises(ConfigError, match="--env"):
        check_variables({name: "x"}, ())
    check_variables({"AWS_ENDPOINT_URL": "http://127.0.0.1:5000", "TF_CPP_MIN_LOG_LEVEL": "1"}, ())


def test_ray_accepts_the_environment(tmp_path):
    env = submission(tmp_path, environment="pip", variables={"A": "1"}, from_node=("KEY",)).runtime_env()
    assert env["env_vars"]["A"] == "1"
    assert env["env_vars"]["VAEDIST_REQUIRED_ENV"] == "KEY"
    assert "KEY" not in env["env_vars"]
    assert any(line.startswith("tensorflow==") for line in env["pip"]["packages"])
    RuntimeEnv(**env)
    assert "pip" not in submission(tmp_path).runtime_env()
    with pytest.raises(ConfigError, match="--extra: vaedist has no extra 'gpus'"):
        submission(tmp_path, environment="pip", extras=("gpus",)).runtime_env()


def of_a_package(reference):
    """Returns an experiment that names a user's class."""
    experiment = Experiment.from_dict({"run": {"name": "a", "folder": "/runs"}, "data": {"path": "/data"}})
    return experiment.model_copy(
        update={"model": experiment.model.model_copy(update={"likelihood": reference})}  # as any key can
    )


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_a_job_with_a_missing_package_is_refused(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    package = tmp_path / "my_vae"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (tmp_path / "alone.py").write_text("")

    def submit(reference, *packages):
        return Submission(of_a_package(reference), (), tmp_path / "a.toml", packages=packages)

    with pytest.raises(ConfigError, match=f"package 'my_vae', which is not installed: send it by --package {package}$"):
        submit("my_vae.model:Model")
    with pytest.raises(
        ConfigError, match=r"alone\.py: a single module cannot be sent with a job; put it into a package"
    ):
        submit("alone:Model")
    sent = submit("my_vae.model:Model", package)
    assert sent.metadata()["packages"] == f"my_vae {package_digest(package)[:12]}"
    assert "packages" not in submit("numpy:ndarray").metadata(), "which is installed"


def test_a_package_is_sent_with_the_code_of_vaedist(tmp_path):
    package = tmp_path / "my_vae"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / ".secret").write_text("")
    sent = {}

    class Client:
        def submit_job(self, *, runtime_env, **options):
            modules = [Path(module) for module in runtime_env["py_modules"]]
            sent.update({module.name: sorted(file.name for file in module.iterdir()) for module in modules}, **options)
            return "id"

    told = []
    jobs_of(Client()).run("true", name="a", metadata={}, packages=[package], progress=told.append)
    assert sent["my_vae"] == ["__init__.py"]
    assert "packages.py" in sent["vaedist"]
    assert sent["entrypoint"] == "true"
    assert told[0].startswith(f"sending vaedist {vaedist.__version__} and my_vae, ")


def test_packages_that_cannot_be_sent_are_refused_by_the_command(tmp_path):
    (tmp_path / "job.toml").write_text("")
    (tmp_path / "plain").mkdir()
    for package, reason in (
        ("absent", "there is no such folder"),
        ("plain", "is not a package: it has no __init__.py"),
    ):
        line = refused(tmp_path, "submit", "job.toml", "--package", package)
        assert line == f"error: --package {package}: {reason}"


def test_a_sweep_is_resumed_in_its_folder(tmp_path):
    sweep = submission(tmp_path, runs="s3://bucket/runs/").job
    assert sweep_arguments(sweep, (), resume=False, retry_failed=False) == ["tune", "run", "job.toml"]
    assert sweep_arguments(sweep, ("tune.samples=9",), resume=True, retry_failed=True) == [
        "tune", "run", "--resume", "s3://bucket/runs/a", "--retry-errored", "--set", "tune.samples=9",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1:8265", "must be the URL of the cluster's dashboard"),
        ("ray://127.0.0.1:10001", "must be the URL of the cluster's dashboard"),
        ("http://me:secret@127.0.0.1:8265", "must not contain a user name or a password"),
        ("http://127.0.0.1:1", "no Ray dashboard answers at http://127.0.0.1:1"),
        ("http://127.0.0.1:99999", "no Ray dashboard answers at "),
    ],
)
def test_invalid_addresses_are_refused(address, reason):
    with pytest.raises(ClusterError, match=reason) as refused:
        Jobs(address)
    assert "secret" not in str(refused.value)


def test_the_default_cluster(monkeypatch, tmp_path):
    monkeypatch.setenv("VAEDIST_STATE", str(tmp_path))
    monkeypatch.delenv(ADDRESS, raising=False)
    with pytest.raises(ClusterError, match="which cluster"):
        jobs_address(None)
    monkeypatch.setenv(ADDRESS, "http://a:1")
    assert jobs_address(None) == "http://a:1"
    assert jobs_address("http://b:2") == "http://b:2"


class Details:
    """Details of a job, as Ray's client returns them."""

    message, entrypoint, type = "", "", "SUBMISSION"
    driver_exit_code = end_time = None

    def __init__(self, status, name="job", run="", start_time=None):
        self.status, self.submission_id, self.start_time = status, name, start_time
        self.metadata = {"run": run} if run else {}


class Client:
    """Ray's client for a job whose log arrives in parts, over connections that break or end early."""

    def __init__(self, *connections, log="", listed=()):
        self.connections, self.whole, self.listed = list(connections), log, listed

    async def tail_job_logs(self, name):
        pieces, self.status = self.connections.pop(0) if self.connections else ([RuntimeError("lost")], "RUNNING")
        for piece in pieces:
            await asyncio.sleep(0)
            if piece is None:  # the other side is gone without notice
                await asyncio.sleep(3600)
            if isinstance(piece, Exception):
                raise piece
            yield piece

    def get_job_info(self, name):
        if isinstance(self.status, Exception):
            raise self.status
        return Details(self.status)

    def get_job_logs(self, name):
        return self.whole

    def list_jobs(self):
        return self.listed


def jobs_of(client, address="http://127.0.0.1:8265"):
    jobs = object.__new__(Jobs)
    jobs._dashboard = Dashboard(address, client)
    return jobs


def followed(client, address="http://127.0.0.1:8265"):
    written, notices = [], []
    job = jobs_of(client, address).follow("job", written.append, notices.append)
    return "".join(written), notices, job.status


@pytest.mark.parametrize(
    ("statuses", "chosen"),
    [
        (("RUNNING", "FAILED", "FAILED"), 0),  # the later two of three submissions are refused
        (("FAILED", "RUNNING", "FAILED"), 1),
        (("FAILED", "FAILED", "PENDING"), 2),
        (("SUCCEEDED", "STOPPED", "FAILED"), 2),
        (("RUNNING",), 0),
    ],
)
def test_a_runs_name_selects_its_running_job_or_else_the_newest(statuses, chosen):
    listed = [Details(status, f"a-{number}", "a", 1000 + number) for number, status in enumerate(statuses)]
    listed.append(Details("RUNNING", "b-9", "b", 2000))
    jobs = jobs_of(Client(listed=listed))
    assert jobs.get("a").id == f"a-{chosen}"
    assert jobs.get("a-0").id == "a-0", "an id is that job's, however the others are"


def test_several_running_jobs_of_a_run_are_listed_and_none_is_selected():
    listed = [Details(status, f"a-{status}", "a", 1000) for status in ("RUNNING", "FAILED", "PENDING")]
    with pytest.raises(ClusterError) as refused:
        jobs_of(Client(listed=listed)).get("a")
    assert str(refused.value).startswith("2 jobs of run 'a' have not ended, use the ID of one: ")
    assert "a-RUNNING (RUNNING)" in str(refused.value)
    assert "a-PENDING (PENDING)" in str(refused.value)
    assert "a-FAILED" not in str(refused.value)


@pytest.fixture
def hurried(monkeypatch):
    """Shortens the timeouts from minutes to seconds."""
    monkeypatch.setattr(tail, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(tail, "QUIET_SECONDS", 0.1)
    monkeypatch.setattr(tail, "GONE_SECONDS", 1.0)
    monkeypatch.setattr(tail, "SILENT_SECONDS", 2.0)


@contextmanager
def listening():
    """Returns the URL of a server that accepts connections but never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.usefixtures("hurried")
def test_a_log_is_written_once_whatever_happens_to_the_connection():
    client = Client(
        (["one\n", "two\n", RuntimeError("WebSocket connection closed unexpectedly")], "RUNNING"),
        ([ConnectionResetError("reset")], "RUNNING"),
        (["one\ntw", "o\nthree\n"], "RUNNING"),  # the stream ends normally, but the job has not ended
        (["one\n", "two\n", "three\n", "four\n"], "SUCCEEDED"),
        log="one\ntwo\nthree\nfour\nfive\n",
    )
    written, notices, status = followed(client)
    assert written == "one\ntwo\nthree\nfour\nfive\n"
    assert [notice.split()[0] for notice in notices] == ["lost", "reconnected"]
    assert status == "SUCCEEDED"


@pytest.mark.usefixtures("hurried")
def test_an_unwritable_log_does_not_count_as_a_lost_connection():
    def full(text):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        jobs_of(Client((["one\n"], "RUNNING"))).follow("job", full)


@pytest.mark.usefixtures("hurried")
def test_the_end_of_a_job_is_noticed_on_a_dead_connection():
    assert followed(Client((["one\n", None], "SUCCEEDED"), log="one\ntwo\n"))[0] == "one\ntwo\n"


@pytest.mark.usefixtures("hurried")
def test_a_job_is_lost_if_nothing_listens_any_more():
    with listening() as address:
        pass
    began = time.monotonic()
    with pytest.raises(ClusterError, match=f"^lost job job: for 1 s nothing has listened at {address}; its cluster"):
        followed(Client(), address)
    assert 1 <= time.monotonic() - began < 2


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (RuntimeError("Request failed with status code 404: Job job does not exist."), "has had no such job"),
        (AuthenticationError("Authentication failed"), "has refused the token"),
    ],
)
def test_a_job_is_lost_if_another_cluster_answers(answer, reason):
    with listening() as address, pytest.raises(ClusterError, match=f"^lost job job: for 1 s {address} {reason}; its"):
        followed(Client(*[([RuntimeError("lost")], answer)] * 1000), address)


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("pieces", [[None], [RuntimeError("gone")]])
def test_a_job_is_lost_later_if_its_cluster_does_not_answer(pieces):
    began = time.monotonic()
    with (
        listening() as address,
        pytest.raises(ClusterError, match=f"^lost job job: {address} has not answered for 0 m"),
    ):
        followed(Client(*[(pieces, RuntimeError("timed out"))] * 1000), address)
    assert time.monotonic() - began >= 2


def test_timeouts_are_those_in_the_help():
    assert (tail.GONE_SECONDS, tail.SILENT_SECONDS) == (60, 600)
    from vaedist.cli.jobs import wait

    assert "one minute in which nothing listens" in " ".join(wait.help.split())
    assert "ten minutes without any response" in " ".join(wait.help.split())


class Stuck(BaseHTTPRequestHandler):
    """Server that responds only to requests for its version."""

    def do_GET(self):
        if self.path != "/api/version":
            self.server.over.wait(60)
            return
        body = json.dumps({"ray_version": ray.__version__}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def test_a_stuck_dashboard_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(requests_to, "REQUEST_SECONDS", (0.5, 0.5))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Stuck)
    server.over = threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        jobs = Jobs(f"http://127.0.0.1:{server.server_address[1]}")
        chatty = ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk")
        assert {logging.getLogger(module).level for module in chatty} == {logging.WARNING}
        with pytest.raises(ClusterError, match=r"^http://127.0.0.1:\d+ has not answered for 1 s$"):
            jobs.list()
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()
