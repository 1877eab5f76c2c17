"""From an empty machine to a trained run and an ended cluster, in the order in which a user works."""

import json
import os
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import requests
from command import run, start
from dead_proxies import set_dead_proxies

import vaedist
from vaedist.errors import JobError
from vaedist.launch.jobs.client import Jobs
from vaedist.launch.local.cluster import get_cluster
from vaedist.launch.session import environment
from vaedist.packages import package_digest
from vaedist.storage.transfer import Store
from vaedist.storage.uri import join_uri

pytestmark = pytest.mark.cluster

EXAMPLE = Path(__file__).parents[2] / "examples" / "conv_vae"
SECRET = "secret-of-the-tests"  # the key of the store, in the nodes' environment
SECONDS = 300  # timeout


@pytest.fixture(scope="module", autouse=True)
def dead_proxies():
    """Sets dead proxies for all commands: nothing that they do on this machine needs a proxy."""
    with pytest.MonkeyPatch.context() as patch:
        set_dead_proxies(patch)
        yield


def listed(name):
    """Returns the job of a run, as `vaedist jobs status` prints it."""
    return json.loads(run("jobs", "status", name, "--json")[0])


def read(runs, name):
    """Returns the content of a file in the folder of runs; empty if there is none."""
    try:
        return Store(runs).read(name).decode()
    except FileNotFoundError:
        return ""


def steps(runs, name):
    """Returns the steps of a run's rows of metrics."""
    return [json.loads(line)["step"] for line in read(runs, f"{name}/metrics.jsonl").splitlines()]


def wait_for(what, seconds=SECONDS):
    """Waits until a function returns a true value, and returns it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.1)
    return pytest.fail("it did not come to pass")


def test_all_nodes_are_there_and_well(cluster):
    printed, _ = run("cluster", "status", "--name", "tests")
    assert "3 of 3 nodes have joined" in printed
    assert printed.count("alive") == 3
    findings = json.loads(run("doctor", "--address", cluster["address"], "--storage", "/tmp", "--json")[0])
    assert [f["found"] for f in findings if f["what"] == "cluster"] == ["3 nodes, 4 CPU, 0 GPU"]
    assert sum(f["what"] == "storage" and f["where"].startswith("node ") for f in findings) == 3
    assert [f["found"] for f in findings if f["what"] == "Ray's ports"] == ["only on the loopback interface"] * 3
    assert not [f for f in findings if f["state"] == "fault"]


def test_a_second_cluster_of_the_same_name_is_refused(cluster):
    _, said = run("cluster", "up", "--name", "tests", code=2)
    assert said == "error: there is a cluster 'tests': `vaedist cluster down --name tests` ends it\n"


def test_it_listens_on_the_loopback_only(cluster):
    mine = get_cluster("tests").processes()
    assert len(mine) > 10
    listening = [
        connection.laddr.ip
        for process in mine
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) > 10
    assert {ip.removeprefix("::ffff:") for ip in listening} == {"127.0.0.1"}


def test_who_has_no_token_is_refused(cluster):
    asking = requests.Session()
    asking.trust_env = False  # no proxies
    for path in ("/api/jobs/", "/api/v0/nodes", "/api/version"):
        assert asking.get(cluster["dashboard"] + path, timeout=10).status_code == 401
    posted = asking.post(cluster["dashboard"] + "/api/jobs/", json={"entrypoint": "touch /tmp/was-here"}, timeout=10)
    assert posted.status_code == 401
    wrong = {"Authorization": "Bearer " + "0" * 64}
    assert asking.get(cluster["dashboard"] + "/api/jobs/", headers=wrong, timeout=10).status_code == 403

    port = cluster["address"].rpartition(":")[2]
    join = f"import ray; ray.init(address='LOCALHOST:{port}'); print('joined')"
    for token, joins in ((None, False), ("0" * 64, False), (Path(cluster["token"]).read_text(), True)):
        environment = {**os.environ, "RAY_AUTH_MODE": "token" if token else "disabled"}
        environment |= {"RAY_AUTH_TOKEN": token} if token else {}
        joined = subprocess.run(
            [sys.executable, "-c", join], env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )
        assert (joined.returncode == 0) is joins, joined.stderr
        assert ("joined" in joined.stdout) is joins


def test_a_training_is_submitted_and_followed_to_its_end(cluster, job, runs):
    options = ("--address", cluster["dashboard"], "--env-from-node", "AWS_SECRET_ACCESS_KEY")
    printed, said = run("submit", job, "--name", "first", *options, seconds=SECONDS)
    assert said.splitlines()[0].startswith("sending vaedist ")
    assert "KiB, to http://127.0.0.1" in said.splitlines()[0]
    assert said.splitlines()[-1].endswith(" succeeded")
    assert "INFO" not in said, "Ray's client keeps quiet"
    assert "run first: 2 workers" in printed
    assert "test ELBO " in printed
    assert steps(runs, "first")[-1] == 200
    kept = Store(runs).files("first")
    assert any(name.startswith("first/tensorboard/events") for name in kept)
    assert "first/pictures/samples.png" in kept
    assert "first/checkpoints/step-000000200/COMMITTED" in kept

    facts = listed("first")
    assert facts["status"] == "SUCCEEDED"
    assert facts["metadata"]["job"] == "small.toml"
    assert facts["metadata"]["run"] == "first"
    assert len(facts["metadata"]["data"]) == 64
    for secret in (Path(cluster["token"]).read_text(), SECRET):
        assert secret not in json.dumps(facts)
        assert secret not in printed
    assert printed in run("jobs", "logs", "first")[0]
    assert "first" in run("jobs", "list")[0]
    run("jobs", "wait", "first")


def test_a_run_that_is_complete_is_not_trained_again_and_fewer_epochs_are_refused(cluster, job, runs):
    arguments = ("submit", job, "--name", "first", "--resume", "--address", cluster["dashboard"])
    arguments += ("--env-from-node", "AWS_SECRET_ACCESS_KEY")
    before = read(runs, "first/experiment.toml")
    printed, _ = run(*arguments, seconds=SECONDS)
    assert "is complete: all 2 epochs are done" in printed
    assert "test ELBO " in printed
    assert "workers" not in printed
    _, said = run(*arguments, "--set", "training.epochs=1", code=1, seconds=SECONDS)
    assert "has completed 2 epochs, and the job says training.epochs = 1" in said.splitlines()[-1]
    assert read(runs, "first/experiment.toml") == before


def test_a_job_is_submitted_from_python(cluster, job, runs):
    experiment = vaedist.Experiment.from_file(job, ["run.name=python", "training.epochs=1"])
    options = {"address": cluster["dashboard"], "from_node": ["AWS_SECRET_ACCESS_KEY"]}
    submitted, log = vaedist.submit(experiment, **options), []
    submitted.wait(log.append)
    assert submitted.status == "SUCCEEDED"
    assert "run python: 2 workers" in "".join(log)
    assert "".join(log) == submitted.log()
    assert steps(runs, "python")[-1] == 100
    fewer = experiment.with_overrides("run.name=first")
    with pytest.raises(JobError, match=r"has completed 2 epochs, and the job says training\.epochs = 1"):
        vaedist.submit(fewer, resume=True, **options).wait()


def test_images_are_encoded_on_the_nodes_from_store_to_store(cluster, job, runs, s3_server, tmp_path):
    trained, out = join_uri(runs, "first"), s3_server.uri("cluster/encoded")
    options = ("--rows-per-part", 300, "--json")
    written, _ = run("encode", trained, "-o", out, "--workers", 3, "--address", cluster["address"], *options)
    assert json.loads(written)["rows"] == 1696
    run("encode", trained, "-o", tmp_path / "here", "--workers", 1, *options)
    here = {path.name: path.read_bytes() for path in (tmp_path / "here").glob("*.parquet")}
    there = [name for name in Store(out).files() if name.endswith(".parquet")]
    assert {Path(name).name: Store(out).read(name) for name in there} == here
    assert len(here) == 7
    assert "already exists" in run("encode", trained, "-o", out, *options, code=2)[1]


def test_a_job_that_fails_prints_the_reason_last(cluster, job):
    _, said = run("submit", job, "--name", "broken", "--set", "data.path=/nowhere", code=1, seconds=SECONDS)
    assert said.splitlines()[-1].startswith("error: job broken-")
    assert said.splitlines()[-1].endswith("no data set at /nowhere: run `vaedist data prepare SOURCE --out /nowhere`")
    run("jobs", "wait", "broken", code=1)
    assert "no data set at /nowhere" in run("jobs", "status", "broken")[0].replace("\n", " ")


def test_a_job_needs_what_the_nodes_have(cluster, job):
    _, said = run("submit", job, "--name", "keyless", "--env-from-node", "NO_SUCH_KEY", code=1, seconds=SECONDS)
    assert "NO_SUCH_KEY is not set in Ray's environment on " in said.splitlines()[-1]


def test_a_job_is_stopped_midway_and_resumed(cluster, job, runs, proxy):
    through = f"http://127.0.0.1:{proxy.port}"
    os.environ["RAY_AUTH_TOKEN_PATH"] = cluster["token"]  # the proxy's address is not that of a known cluster
    try:
        long = ("--set", "training.epochs=200")
        follower = start("submit", job, "--name", "stopped", *long, "--address", through)
        wait_for(lambda: steps(runs, "stopped") or follower.poll() is not None)
        proxy.cut()
        time.sleep(2)
        proxy.mend()
        first = listed("stopped")["id"]
        second = run("submit", job, "--name", "stopped", "--no-wait")[0].strip()
        _, said = run("jobs", "wait", second, code=1)
        assert "exists: use --resume" in said, "it was refused"
        assert listed("stopped")["id"] == first, "it trains on, and is what the name means"
        printed, _ = run("jobs", "stop", "stopped", "--address", through)
        assert printed == f"{first} STOPPED\n"
        out, said = follower.communicate(timeout=SECONDS)
        assert follower.returncode == 130
        assert "the job is not affected: reconnecting" in said
        assert said.splitlines()[-1].startswith("stopped: job stopped-")
        assert out.count("run stopped: 2 workers") == 1, "the log is written once"
        assert out.splitlines()[-1].startswith("stopped at step ")
    finally:
        del os.environ["RAY_AUTH_TOKEN_PATH"]
    at = int(out.splitlines()[-1].split()[3])
    committed = [name for name in Store(runs).files("stopped/checkpoints") if name.endswith("/COMMITTED")]
    assert max(committed) == f"stopped/checkpoints/step-{at:09d}/COMMITTED"
    assert not [p for p in get_cluster("tests").processes() if "RayTrainWorker" in " ".join(p.cmdline())]

    epochs = at // 100 + 2
    run("submit", job, "--name", "stopped", "--resume", "--set", f"training.epochs={epochs}", seconds=SECONDS)
    found = steps(runs, "stopped")
    assert found[-1] == 100 * epochs
    assert sorted(found) == found


@pytest.fixture(scope="module")
def sweep(tmp_path_factory, job):
    """A sweep of two trials of one worker, at once on half a CPU each."""
    text = job.read_text()
    for one, other in (("epochs = 2", "epochs = 6"), ("workers = 2", "workers = 1"), ("worker = 1", "worker = 0.5")):
        assert one in text
        text = text.replace(one, other)
    path = tmp_path_factory.mktemp("sweeps") / "small-sweep.toml"
    path.write_text(f"""{text}
        [tune]
        search = "grid"
        scheduler = "median"
        concurrent = 2
        [tune.space]
        "model.flow.depth" = {{ grid = [0, 1] }}
    """)
    return path


def trials(runs, name):
    """Returns the folders of a sweep's trials."""
    folders = Store(join_uri(runs, name)).folders()
    return [f"{name}/{folder}" for folder in folders if folder[:4].isdigit()]


@pytest.mark.faults
def test_two_sweeps_share_the_cluster_and_one_survives_its_driver(cluster, sweep, runs):
    names = ("left", "right")
    followers = {name: start("submit", "--tune", sweep, "--name", name) for name in names}
    killed = wait_for(lambda: any(steps(runs, trial) for trial in trials(runs, "left")) and driver_of("left"))
    os.kill(killed, signal.SIGKILL)
    _, said = followers["left"].communicate(timeout=SECONDS)
    assert followers["left"].returncode == 1, said
    before = read(runs, "left/trials.jsonl")

    printed, said = run("submit", "--tune", sweep, "--name", "left", "--resume", seconds=2 * SECONDS)
    assert "trials       2 finished" in printed or "stopped" in printed
    _, said = followers["right"].communicate(timeout=2 * SECONDS)
    assert followers["right"].returncode == 0, said
    assert read(runs, "left/trials.jsonl").startswith(before), "what was known stays"
    for name in names:
        assert len(json.loads(read(runs, f"{name}/results.json"))["trials"]) == 2
        assert len(trials(runs, name)) == 2
        for trial in trials(runs, name):
            rows = steps(runs, trial)
            assert rows, trial
            assert rows == sorted(rows), "each row once"


def driver_of(name):
    """Returns the process of a run's newest job, on the head."""
    for process in get_cluster("tests").processes():
        with suppress(psutil.Error):
            job = process.environ().get("RAY_JOB_CONFIG_JSON_ENV_VAR", "")
            if "-m vaedist tune" in " ".join(process.cmdline()) and f'"run": "{name}"' in job:
                return process.pid
    return None


def test_only_the_owner_can_read_the_token(cluster, job):
    path = Path(cluster["token"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    secrets = (path.read_text(), SECRET)
    for process in get_cluster("tests").processes():
        assert not [secret for secret in secrets if secret in " ".join(process.cmdline())]
    scratch = Path(get_cluster("tests").scratch)
    logs = [file for file in scratch.glob("*/session_*/logs/**/*") if file.is_file()]
    assert len(logs) > 10
    for file in logs:
        assert not [secret for secret in secrets if secret in file.read_text(errors="replace")], file


# Drivers, trials of Ray Tune and workers of Ray Train record the folder from which they import a package.
PACKAGED = """
import os, sys
from pathlib import Path
import ray
from ray import train, tune
from vaedist.launch.ray_internals import data_parallel_trainer
from vaedist.launch.session import COMPUTING, ray_session

def note(who):
    import my_vae.model
    Path(sys.argv[1], f"{who}-{os.getpid()}").write_text(f"{my_vae.model.NAME} {my_vae.model.__file__}")

def work(config):
    sys.argv[1:] = [config["folder"]]
    note("worker")

def trial(config):
    sys.argv[1:] = [config["folder"]]
    note("trial")
    run = train.RunConfig(storage_path=config["folder"], worker_runtime_env=COMPUTING)
    scaling = train.ScalingConfig(num_workers=2)
    data_parallel_trainer()(work, train_loop_config=config, scaling_config=scaling, run_config=run).fit()

note("driver")
with ray_session():
    tune.Tuner(
        tune.with_resources(trial, {"memory": 1}),
        param_space={"folder": sys.argv[1]},
        run_config=tune.RunConfig(storage_path=sys.argv[1]),
    ).fit()
"""


@pytest.fixture
def package(tmp_path):
    """A user's package, in a folder from which no process imports."""
    folder = tmp_path / "mine" / "my_vae"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "model.py").write_text("NAME = 'the model'\n")
    return folder


def test_a_package_is_imported_by_driver_trials_and_workers(cluster, package, tmp_path):
    found = tmp_path / "found"
    found.mkdir()
    command = shlex.join(["exec", "python", "-c", PACKAGED, str(found)])
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": cluster["token"]}
    with environment(**token, no_proxy="127.0.0.1", NO_PROXY="127.0.0.1"):
        jobs = Jobs(cluster["dashboard"])
        job = jobs.wait(jobs.run(command, name="packaged", metadata={}, packages=[package]))
        assert job.status == "SUCCEEDED", jobs.log(job.id)
    notes = {path.name.partition("-")[0]: path.read_text() for path in found.iterdir() if path.is_file()}
    assert notes.keys() == {"driver", "trial", "worker"}
    for text in notes.values():
        assert text.startswith("the model ")
        assert "py_modules_files" in text
        assert str(package) not in text


@pytest.fixture
def example(tmp_path, data, runs):
    """A copy of the example of a user's model, and a job for its package that takes seconds."""
    folder = tmp_path / "example"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__", "runs", "data"))
    keys = {
        "data.path": data, "run.folder": runs, "model.width": 4, "model.latent": 8, "training.epochs": 1,
        "training.warmup_steps": 10, "scaling.workers": 2, "scaling.cpus_per_worker": 1,
    }  # fmt: skip
    return folder, [part for key, value in keys.items() for part in ("--set", f"{key}={value}")]


def test_the_example_is_submitted_with_its_package_and_evaluated_from_its_run(cluster, example, runs):
    folder, options = example
    package = folder / "conv_vae"
    submit = ("submit", "job.toml", "--name", "example", "--package", "conv_vae", *options)
    _, said = run(*submit, cwd=folder, seconds=SECONDS)
    assert " and conv_vae and job.toml, " in said.splitlines()[0]
    assert listed("example")["metadata"]["packages"] == f"conv_vae {package_digest(package)[:12]}"
    assert steps(runs, "example")[-1] == 25  # of 64 rows each
    assert "example/checkpoints/step-000000025/COMMITTED" in Store(runs).files("example/checkpoints")
    scored = ("evaluate", join_uri(runs, "example"), "--samples", 4, "--limit", 32, "--json")
    out, _ = run(*scored, cwd=folder, PYTHONPATH=".", seconds=SECONDS)
    assert 0 < json.loads(out)["bits_per_dim"]["4"]["mean"] < 9


def test_a_command_that_joins_the_cluster_sends_copies_of_the_users_package(cluster, example, runs):
    """Starts in a folder without the package, because Ray puts the command's folder first on the workers' path."""
    folder, options = example
    module = folder / "conv_vae" / "__init__.py"
    noted = folder / "noted"
    note = f"pathlib.Path({str(noted)!r}, str(os.getpid())).write_text(__file__)"
    module.write_text(f"{module.read_text()}\n\nimport os, pathlib\n\n{note}\n")
    noted.mkdir()
    run("train", folder / "job.toml", "--name", "joined", "--address", cluster["address"], *options,
        cwd=noted.parent.parent, PYTHONPATH=str(folder), seconds=SECONDS)  # fmt: skip
    assert steps(runs, "joined")[-1] == 25
    places = {path.read_text() for path in noted.iterdir()}
    assert str(module) in places  # of the command
    copies = places - {str(module)}
    assert copies
    assert all("py_modules_files" in place for place in copies)


def runs(process):
    """Returns True if a process is running; a zombie is not."""
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def test_the_cluster_is_ended_and_nothing_else(cluster, job):
    long = ("--set", "training.epochs=2000")
    doomed = run("submit", job, "--name", "doomed", "--no-wait", *long)[0].strip()
    waiting = start("jobs", "wait", doomed)
    following = start("jobs", "logs", "-f", doomed)
    wait_for(lambda: listed("doomed")["status"] == "RUNNING")
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    mine = get_cluster("tests")
    processes = mine.processes()
    printed, _ = run("cluster", "down", "--name", "tests")
    assert printed.startswith("stopped tests: ")
    assert printed.endswith(" processes ended\n")
    assert not [process for process in processes if runs(process)]
    assert not mine.processes()
    assert not Path(mine.scratch).exists()
    assert not mine.folder.exists()
    assert stranger.poll() is None
    stranger.kill()
    run("cluster", "down", "--name", "tests", code=2)

    began = time.monotonic()
    for command in (waiting, following):
        _, said = command.communicate(timeout=SECONDS)
        assert command.returncode == 2, said
        assert said.splitlines()[-1].startswith(f"error: lost job {doomed}: for 60 s nothing has listened at ")
    assert time.monotonic() - began < 120
