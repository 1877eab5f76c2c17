"""Errors of a cluster that refuses the token, has other versions, or cannot import a user's package."""

import json
import time
from pathlib import Path

import pytest
import ray
from command import run
from ray._common.usage.usage_constants import CLUSTER_METADATA_KEY
from ray._private.ray_constants import KV_NAMESPACE_CLUSTER
from ray.experimental import internal_kv
from toys import NAME

import vaedist
from vaedist.errors import ClusterError
from vaedist.launch.doctor.preflight import SOCKET, check_head
from vaedist.launch.training.trainer import train
from vaedist.launch.user_code import check_importable

pytestmark = pytest.mark.ray

SWEEP = """
[tune]
search = "grid"
[tune.space]
"model.latent" = { grid = [4, 8] }
"""


@pytest.fixture
def address(cluster):
    """Returns HOST:PORT of the tests' Ray."""
    return ray.get_runtime_context().gcs_address


@pytest.fixture
def commands(tmp_path, experiment, trained):
    """Returns the commands that join a cluster, by name."""
    job, sweep = tmp_path / "job.toml", tmp_path / "sweep.toml"
    job.write_text(experiment.to_toml())
    sweep.write_text(experiment.with_overrides("run.name=sweep").to_toml() + SWEEP)
    return {
        "train": ("train", job),
        "tune": ("tune", sweep),
        "evaluate": ("evaluate", trained.run.path, "--workers", 2),
        "bench": ("bench", job),
        "doctor": ("doctor",),
    }


def test_the_head_accepts_the_token(address):
    check_head(address)


@pytest.mark.parametrize(
    "command",
    ["train", *(pytest.param(name, marks=pytest.mark.slow) for name in ("tune", "evaluate", "bench", "doctor"))],
)
def test_a_wrong_token_is_named(address, commands, command, tmp_path):
    began = time.monotonic()
    _, said = run(*commands[command], "--address", address, code=2, RAY_AUTH_TOKEN="0" * 64)
    assert said.splitlines()[-1] == (
        f"error: {address} refuses the token: put the cluster's token into ~/.ray/auth_token, or name its file in "
        f"RAY_AUTH_TOKEN_PATH"
    )
    assert time.monotonic() - began < 60
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_no_token_is_named(address, commands):
    _, said = run(*commands["train"], "--address", address, "--insecure", code=2)
    assert said.splitlines()[-1].startswith(f"error: {address} requires a token: put the cluster's ")


@pytest.mark.slow
def test_other_versions_are_named_on_both_sides(address, commands):
    internal_kv._initialize_internal_kv(ray._private.worker.global_worker.gcs_client)
    kept = internal_kv._internal_kv_get(CLUSTER_METADATA_KEY, namespace=KV_NAMESPACE_CLUSTER)
    other = json.loads(kept) | {"ray_version": "2.59.1", "python_version": "3.12.12"}
    internal_kv._internal_kv_put(CLUSTER_METADATA_KEY, json.dumps(other).encode(), namespace=KV_NAMESPACE_CLUSTER)
    try:
        _, said = run(*commands["train"], "--address", address, code=2)
    finally:
        internal_kv._internal_kv_put(CLUSTER_METADATA_KEY, kept, namespace=KV_NAMESPACE_CLUSTER)
    here = json.loads(kept)
    assert said.splitlines()[-1].startswith(
        f"error: the cluster at {address} runs Ray 2.59.1 on Python 3.12.12, and this machine Ray "
        f"{here['ray_version']} on Python {here['python_version']} ("
    )
    check_head(address)


def test_sockets_are_where_the_check_of_their_paths_expects_them(cluster):
    path = ray._private.worker._global_node.plasma_store_socket_name
    made = path.partition("/ray/")[2]
    assert len(SOCKET) - 6 <= len(made) <= len(SOCKET), made


def test_a_package_that_workers_of_an_existing_connection_cannot_import_is_named(cluster, toy_package, experiment):
    check_importable([Path(vaedist.__file__).parent])
    with pytest.raises(ClusterError) as error:
        train(experiment.with_overrides(f"model.likelihood={NAME}.likelihoods:Uniform"))
    folder = toy_package.resolve()
    assert str(error.value) == (
        f"workers on 127.0.0.1 cannot import {NAME}: connect with "
        f"""ray.init(runtime_env={{"py_modules": ['{folder / NAME}']}}), or add {folder} to PYTHONPATH on every node"""
    )
    assert not Path(experiment.run.folder).exists()
