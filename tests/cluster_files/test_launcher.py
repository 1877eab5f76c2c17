"""The files for `ray up`: validation by Ray without a cloud, and the claims of their comments."""

import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import start

from vaedist.cli import main

ROOT = Path(__file__).parents[2]
NAMES = ("onprem", "aws", "gcp")
CLOUDS = ("aws", "gcp")


def read(name):
    return yaml.safe_load((ROOT / "cluster" / f"{name}.yaml").read_text())


def ray_start(commands):
    """Returns the options of the only `ray start` among the commands, as Ray parses them."""
    [line] = [command for command in commands if command.startswith("ray start")]
    return start.make_context("start", shlex.split(line)[2:]).params


@pytest.mark.parametrize("name", NAMES)
def test_ray_accepts_the_file(name):
    validate_config(prepare_config(read(name)))


@pytest.mark.parametrize("name", NAMES)
def test_ray_refuses_an_unknown_key(name):
    with pytest.raises(Exception, match="Additional properties are not allowed"):
        validate_config(prepare_config(read(name) | {"max_wrokers": 2}))


@pytest.mark.parametrize("name", NAMES)
def test_the_head_has_no_cpus_for_ray_and_keeps_the_dashboard_on_the_loopback(name):
    options = ray_start(read(name)["head_start_ray_commands"])
    assert (options["head"], options["num_cpus"], options["port"]) == (True, 0, 6379)
    assert options["dashboard_host"] == "127.0.0.1"
    assert options["autoscaling_config"] == "~/ray_bootstrap_config.yaml"


@pytest.mark.parametrize("name", NAMES)
def test_workers_join_the_port_that_the_head_listens_on(name):
    config = read(name)
    port = ray_start(config["head_start_ray_commands"])["port"]
    assert ray_start(config["worker_start_ray_commands"])["address"] == f"$RAY_HEAD_IP:{port}"


@pytest.mark.parametrize("name", NAMES)
def test_every_process_asks_for_the_token_and_every_node_has_it(name):
    config = read(name)
    assert "--env=RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert config["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}


@pytest.mark.parametrize("name", NAMES)
def test_containers_see_the_shared_folder_and_have_no_capabilities(name):
    options = read(name)["docker"]["run_options"]
    assert {"--volume=/mnt/vaedist:/mnt/vaedist", "--cap-drop=ALL", "--security-opt=no-new-privileges"} <= set(options)
    assert any("mountpoint -q /mnt/vaedist" in command for command in read(name)["initialization_commands"])


@pytest.mark.parametrize("name", CLOUDS)
def test_the_head_is_on_demand_and_workers_with_a_gpu_are_spot_and_come_on_demand(name):
    config = read(name)
    head, worker = config["available_node_types"]["head"], config["available_node_types"]["gpu_worker"]
    assert config["head_node_type"] == "head"
    assert head["resources"] == {"CPU": 0}
    assert (worker["resources"]["GPU"], worker["min_workers"]) == (1, 0)
    assert 0 < worker["max_workers"] <= config["max_workers"]
    spot = re.compile("spot|preempt", re.IGNORECASE)
    assert spot.search(str(worker["node_config"]))
    assert not spot.search(str(head["node_config"]))


def watching(name):
    """Returns the command that watches for a worker's preemption."""
    [line] = [command for command in read(name)["worker_start_ray_commands"] if "watch-preemption" in command]
    return line


@pytest.mark.parametrize("name", CLOUDS)
def test_spot_workers_are_watched_for_their_clouds_notice(name):
    config, line = read(name), watching(name)
    words = shlex.split(line.partition(" < ")[0])
    words = words[words.index("vaedist") + 1 :]
    command = main.commands[words[0]].commands[words[1]]
    given = command.make_context("watch-preemption", words[2:]).params
    port = ray_start(config["head_start_ray_commands"])["port"]
    assert (given["cloud"], given["address"]) == (name, f"$RAY_HEAD_IP:{port}")
    commands = config["worker_start_ray_commands"]
    assert commands.index(line) > commands.index(f"ray start --address=$RAY_HEAD_IP:{port}")
    assert not any("watch-preemption" in command for command in config["head_start_ray_commands"])  # it is on demand


@pytest.mark.parametrize("name", CLOUDS)
def test_a_worker_has_one_watcher_that_outlives_the_login_however_often_it_is_started(name, tmp_path):
    program = tmp_path / "vaedist"
    program.write_text('#!/bin/bash\necho "$$ $(ps -o sid= -p $$)" >> "$CALLED"; echo watching; exec sleep 60\n')
    program.chmod(0o755)
    called = tmp_path / "called"
    line = watching(name).replace("/tmp/watch-preemption", str(tmp_path / "watch"))
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CALLED": str(called), "RAY_HEAD_IP": "::1"}
    for _ in range(3):
        done = subprocess.run(["bash", "--login", "-c", f'PATH={tmp_path}:$PATH; {line}'], env=environment, timeout=30,
                              capture_output=True, text=True)  # fmt: skip
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        deadline = time.monotonic() + 30
        while not called.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
    time.sleep(0.5)
    [one] = called.read_text().splitlines()
    pid, session = map(int, one.split())
    os.kill(pid, signal.SIGTERM)
    assert session != os.getsid(0)
    assert (tmp_path / "watch.log").read_text() == "watching\n"


def test_on_aws_all_nodes_have_a_security_group_because_rays_opens_ssh_to_all():
    types = read("aws")["available_node_types"].values()
    assert all(node["node_config"]["SecurityGroupIds"] for node in types)
    assert all(node["node_config"]["MetadataOptions"]["HttpTokens"] == "required" for node in types)
    assert all(disk["Ebs"]["Encrypted"] for node in types for disk in node["node_config"]["BlockDeviceMappings"])


def test_on_google_cloud_all_nodes_name_their_network():
    types = read("gcp")["available_node_types"].values()
    assert all(node["node_config"]["networkInterfaces"][0]["subnetwork"] for node in types)
