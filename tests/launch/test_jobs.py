"""What is refused before a job is sent, and how its log is followed."""

import asyncio

import pytest
from ray.runtime_env import RuntimeEnv

from vaedist.config import Experiment
from vaedist.errors import ClusterError, ConfigError
from vaedist.launch import jobs as launch
from vaedist.launch.jobs import Jobs
from vaedist.launch.submission import Submission, check_variables, sweep_arguments, training_arguments


def submission(tmp_path, data="/data", runs="/runs", **options):
    experiment = Experiment.from_dict({"run": {"name": "a", "folder": runs}, "data": {"path": data}})
    return Submission(experiment, training_arguments(resume=False), tmp_path / "a.toml", **options)


def test_paths_have_to_mean_the_same_on_the_cluster(tmp_path):
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
def test_what_looks_like_a_secret_is_not_sent(name):
    with pytest.raises(ConfigError, match=f"--env {name}: looks like a secret.* --env-from-node {name}"):
        check_variables({name: "x"}, ())
    check_variables({}, (name,))


@pytest.mark.parametrize("name", ["", "A B", "1A", "A-B", "PYTHONPATH", "VAEDIST_REQUIRED_ENV"])
def test_names_of_variables(name):
    with pytest.raises(ConfigError, match="--env"):
        check_variables({name: "x"}, ())
    check_variables({"AWS_ENDPOINT_URL": "http://127.0.0.1:5000", "TF_CPP_MIN_LOG_LEVEL": "1"}, ())


def test_ray_takes_the_environment(tmp_path):
    env = submission(tmp_path, environment="pip", variables={"A": "1"}, from_node=("KEY",)).runtime_env()
    assert env["env_vars"]["A"] == "1"
    assert env["env_vars"]["VAEDIST_REQUIRED_ENV"] == "KEY"
    assert "KEY" not in env["env_vars"]
    assert any(line.startswith("tensorflow==") for line in env["pip"]["packages"])
    RuntimeEnv(**env)
    assert "pip" not in submission(tmp_path).runtime_env()
    with pytest.raises(ConfigError, match="--extra: vaedist has no extra 'gpus'"):
        submission(tmp_path, environment="pip", extras=("gpus",)).runtime_env()


def test_a_sweep_is_gone_on_with_where_its_folder_is(tmp_path):
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
        ("http://me:secret@127.0.0.1:8265", "must not hold a name or a password"),
        ("http://127.0.0.1:1", "no Ray dashboard answers at http://127.0.0.1:1"),
        ("http://127.0.0.1:99999", "no Ray dashboard answers at "),
    ],
)
def test_addresses_that_are_none(address, reason):
    with pytest.raises(ClusterError, match=reason) as refused:
        Jobs(address)
    assert "secret" not in str(refused.value)


def test_which_cluster_is_meant(monkeypatch, tmp_path):
    monkeypatch.setenv("VAEDIST_STATE", str(tmp_path))
    monkeypatch.delenv(launch.ADDRESS, raising=False)
    with pytest.raises(ClusterError, match="which cluster"):
        launch.jobs_address(None)
    monkeypatch.setenv(launch.ADDRESS, "http://a:1")
    assert launch.jobs_address(None) == "http://a:1"
    assert launch.jobs_address("http://b:2") == "http://b:2"


class Details:
    """What Ray's client says of a job."""

    submission_id, message, entrypoint, metadata = "job", "", "", {}
    driver_exit_code = start_time = end_time = None

    def __init__(self, status):
        self.status = status


class Client:
    """Ray's client of a job whose log comes in pieces, over connections that break and end early."""

    def __init__(self, *connections, log):
        self.connections, self.whole = list(connections), log

    async def tail_job_logs(self, name):
        pieces, self.status = self.connections.pop(0)
        for piece in pieces:
            await asyncio.sleep(0)
            if isinstance(piece, Exception):
                raise piece
            yield piece

    def get_job_info(self, name):
        return Details(self.status)

    def get_job_logs(self, name):
        return self.whole


def followed(client):
    jobs = object.__new__(Jobs)
    jobs.address, jobs._client = "http://127.0.0.1:8265", client
    written, notices = [], []
    job = jobs.follow("job", written.append, notices.append)
    return "".join(written), notices, job.status


def test_a_log_is_written_once_whatever_happens_to_the_connection(monkeypatch):
    monkeypatch.setattr(launch, "RETRY_SECONDS", 0.0)
    client = Client(
        (["one\n", "two\n", RuntimeError("WebSocket connection closed unexpectedly")], "RUNNING"),
        ([ConnectionResetError("reset")], "RUNNING"),
        (["one\ntw", "o\nthree\n"], "RUNNING"),  # ends well, and the job has not
        (["one\n", "two\n", "three\n", "four\n"], "SUCCEEDED"),
        log="one\ntwo\nthree\nfour\nfive\n",
    )
    written, notices, status = followed(client)
    assert written == "one\ntwo\nthree\nfour\nfive\n"
    assert [notice.split()[0] for notice in notices] == ["the", "connected"]
    assert status == "SUCCEEDED"


def test_a_cluster_that_is_not_heard_of_any_more_is_given_up(monkeypatch):
    monkeypatch.setattr(launch, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(launch, "LOST_SECONDS", 0.0)
    with pytest.raises(ClusterError, match="lost job job"):
        followed(Client(([RuntimeError("gone")], "RUNNING"), log=""))
