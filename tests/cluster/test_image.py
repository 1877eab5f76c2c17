"""`submit --env pip` to a cluster whose nodes run in the image's environment, built as by the Dockerfile.

The packages of the image, several gigabytes, are shared from the tests' environment, except for one small package, of
which the cluster has an older version. Everything else is real: the Dockerfile's commands, the nodes, Ray's copy of the
environment, and the packages that pip installs into it from the package index.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import psutil
import pytest
from command import run, start

from vaedist.launch.local.cluster import get_cluster

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
BASE = Path(sys.base_prefix, "bin", "python3")  # the image's Python, from which its environment is created
OLDER = "platformdirs", "4.3.6"  # older than in the tests' environment
OWN = re.compile(r"(pip|setuptools|wheel|vaedist|__editable__|_distutils_hack|distutils)\b.*|.*\.pth")
SECONDS = 600  # timeout


def instructions(stage):
    """Returns the instructions of a stage of the Dockerfile, one per line."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "cluster/docker/Dockerfile").read_text(), flags=re.MULTILINE)
    [body] = re.findall(rf"^FROM \S+ AS {stage}\n(.*?)(?=^FROM|\Z)", text, re.MULTILINE | re.DOTALL)
    return [line for line in body.replace("\\\n", " ").splitlines() if line]


def build(folder):
    """Runs the Dockerfile's commands for /opt/vaedist in a folder; returns the environment's folder."""
    environment, tools = folder / "opt", folder / "tools"
    tools.mkdir()
    for tool, call in (("python", BASE), ("pip", f"{BASE} -m pip")):
        (tools / tool).write_text(f'#!/bin/sh\nexec {call} "$@"\n')
        (tools / tool).chmod(0o755)
    variables = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}", "EXTRAS": "optuna"}
    for stage in ("packages", "wheel", "vaedist"):
        source = folder / stage
        source.mkdir()
        for line in instructions(stage):
            word, _, rest = line.partition(" ")
            if word == "COPY" and stage != "vaedist":
                *names, there = rest.split()
                for name in names:
                    _copy(ROOT / name, source / there)
            if word == "RUN" and "pip " in rest:
                for command in re.sub(r"--mount=\S+", "", rest).split("&&"):
                    command = command.replace("/opt/vaedist", str(environment)).replace(
                        "/wheels", str(folder / "wheels")
                    )
                    subprocess.run(["bash", "-euc", command], cwd=source, env=variables, check=True, timeout=SECONDS)
                    if " -m venv " in command:
                        _lend(environment, folder / "lent")
    return environment


def _copy(path, there):
    if path.is_dir():
        shutil.copytree(path, there, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        there.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, there)


def _lend(environment, lent):
    """Makes the packages of the tests' environment visible in another, except for those that it has itself."""
    lent.mkdir()
    for place in (Path(place) for place in reversed(sys.path) if place.endswith("site-packages")):
        for package in place.iterdir():
            if not OWN.fullmatch(package.name):
                (lent / package.name).unlink(missing_ok=True)
                (lent / package.name).symlink_to(package)
    (packages_of(environment) / "lent.pth").write_text(f"{lent}\n")


def packages_of(environment):
    """Returns the folder of packages of an environment."""
    return environment / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """The environment of the image, in which one package is older than here."""
    environment = build(tmp_path_factory.mktemp("image"))
    name, version = OLDER
    assert metadata.version(name) != version
    older = [
        BASE,
        "-m",
        "pip",
        "--python",
        environment / "bin" / "python",
        "install",
        "--no-deps",
        f"{name}=={version}",
    ]
    subprocess.run(older, check=True, timeout=SECONDS)
    return environment


@pytest.fixture(scope="module")
def nodes(image, tmp_path_factory):
    """A cluster of two nodes that runs from the image's environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VAEDIST_STATE", str(tmp_path_factory.mktemp("state")))
        for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
            patch.delenv(name, raising=False)
        vaedist = image / "bin" / "vaedist"
        up = [vaedist, "cluster", "up", "--name", "image", "--nodes", "2", "--cpus", "1", "--json"]
        subprocess.run(up, check=True, timeout=SECONDS, cwd=image)
        yield get_cluster("image")
        subprocess.run([vaedist, "cluster", "down", "--name", "image"], check=True, timeout=SECONDS, cwd=image)


@pytest.fixture
def job(tmp_path, small_dataset):
    path = tmp_path / "job.toml"
    path.write_text(f"""
        [run]
        folder = "{tmp_path / "runs"}"
        [data]
        path = "{small_dataset}"
        [model]
        hidden = 16
        latent = 8
        [model.flow]
        width = 16
        [training]
        epochs = 1
        global_batch = 8
        [monitor]
        pictures = 4
    """)
    return path


def drivers(cluster):
    """Returns the environments in which training commands run."""
    found = []
    for process in cluster.processes():
        with suppress(psutil.Error):
            if process.cmdline()[1:4] == ["-m", "vaedist", "train"]:
                found.append(process.environ().get("VIRTUAL_ENV", ""))
    return found


def test_a_job_runs_with_the_versions_of_here(nodes, job, tmp_path):
    follower = start("submit", job, "--env", "pip", "--name", "pinned")
    copies = set()
    while follower.poll() is None:
        copies |= set(drivers(nodes))
        time.sleep(0.1)
    printed, said = follower.communicate(timeout=SECONDS)
    assert follower.returncode == 0, said + printed
    assert "test ELBO " in printed
    assert (tmp_path / "runs" / "pinned" / "checkpoints").is_dir()

    [copy] = copies
    assert copy.startswith(nodes.scratch)
    name, older = OLDER
    installed = {path.name for path in packages_of(Path(copy)).glob(f"{name}-*.dist-info")}
    assert installed == {f"{name}-{metadata.version(name)}.dist-info"}, f"{older} is the image's"


def test_nodes_without_pip_are_named(nodes, job, image):
    for package in packages_of(image).glob("pip*"):
        shutil.rmtree(package)
    for command in (image / "bin").glob("pip*"):
        command.unlink()
    _, said = run("submit", job, "--env", "pip", "--extra", "optuna", "--name", "bare", code=1)
    assert said.splitlines()[-1].startswith("error: job bare-")
    assert "Ray's Python on the cluster has no pip" in said.splitlines()[-1]
    findings = json.loads(run("doctor", "--address", nodes.address, "--json")[0])
    found = [each for each in findings if each["what"] == "pip"]
    assert [each["where"].partition(" (")[0] for each in found] == ["node 0", "node 1"]
    assert all(each["state"] == "warning" and "submit --env pip" in each["remedy"] for each in found)
