"""The commands and values that cluster/README.md names exist."""

import re
import shlex
from pathlib import Path

import click
import pytest
import yaml
from ray.dashboard.modules.job.cli import job_cli_group
from ray.scripts.scripts import cli as ray_cli

from vaedist.cli import main
from vaedist.config import Experiment, keys, read_job

ROOT = Path(__file__).parents[2]
README = ROOT / "cluster" / "README.md"
TEXT = README.read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
FILES = sorted(path for path in (ROOT / "cluster").rglob("*") if path.is_file() and path != README)


def lines():
    """Returns every command in the blocks, and in the comments and entrypoints of the files."""
    yield from (line for block in BLOCKS for line in block.splitlines())
    for path in FILES:
        yield from re.findall(r"^#   +(\S.*?)(?:  +and, when done,  +(?:.*))?$", path.read_text(), re.MULTILINE)
    job, *_ = yaml.safe_load_all((ROOT / "cluster" / "kubernetes" / "rayjob.yaml").read_text())
    yield job["spec"]["entrypoint"]


def calls(program):
    """Returns the arguments of every call of a program, also those through another program."""
    found = set()
    for line in lines():
        words = shlex.split(line.strip("() "), comments=True)
        words = words[words.index("--") + 1 :] if program == "vaedist" and "--" in words else words
        words = words[words.index("head") + 1 :] if "exec" in words else words
        words = words[2:] if words[:1] == ["umask"] else words
        if words[:1] == ["sbatch"]:  # passes its arguments to the training
            words = ["vaedist", "train", *words[words.index("cluster/slurm/train.sbatch") + 1 :]]
        if words[:1] == [program]:
            found.add(shlex.join(words[1 : words.index(">") if ">" in words else None]))
    return sorted(found)


def read(command, words):
    """Returns a call as click parses it, without running it; raises an error for what does not exist."""
    while isinstance(command, click.Group):
        command = command.commands[words.pop(0)]
    return command.make_context(command.name, words)


def local(word):
    """Returns the project's file for a file of the image."""
    return str(ROOT / word.removeprefix("/opt/vaedist/")) if word.endswith(".toml") else word


@pytest.mark.parametrize("call", calls("vaedist"))
def test_calls_of_vaedist_are_complete_and_valid(call):
    given = read(main, [local(word) for word in shlex.split(call)]).params
    if given.get("job"):
        read_job(given["job"], given["overrides"])


@pytest.mark.parametrize("call", calls("ray"))
def test_calls_of_ray_are_complete_and_valid(call):
    words = shlex.split(call)
    read(*((job_cli_group, words[1:]) if words[0] == "job" else (ray_cli, words)))


def test_files_that_are_named_exist():
    named = re.findall(r"\b((?:cluster|jobs)/[\w./-]+\w)", TEXT)
    assert len(named) > 20
    for name in set(named) - {"cluster/docker/auth_token"}:
        if "docs.ray.io" not in name and not name.startswith("cluster/kubernetes/index"):
            assert (ROOT / name).exists(), name


def test_every_file_of_a_cluster_is_in_the_readme():
    ways = [path for path in FILES if path.suffix in (".yaml", ".sbatch") and path.name != "auth_token"]
    for path in ways:
        assert str(path.relative_to(ROOT)) in TEXT


def test_every_value_that_is_to_be_replaced_is_explained():
    table = TEXT.partition("## Values of your own")[2].partition("\n## ")[0]
    explained = set(re.findall(r"REPLACE-[A-Z-]+[A-Z]", table))
    used = {value for path in FILES for value in re.findall(r"REPLACE-[A-Z-]+[A-Z]", path.read_text())}
    assert used
    assert used == explained


def test_keys_that_are_named_exist():
    named = re.findall(r"`((?:scaling|data|run)\.[a-z_]+)`", TEXT)
    assert named
    assert set(named) <= set(keys(Experiment))


def test_the_numbers_of_what_is_billed_are_those_of_the_files():
    for name in ("aws", "gcp"):
        config = yaml.safe_load((ROOT / "cluster" / f"{name}.yaml").read_text())
        [row] = re.findall(rf"^\| `cluster/{name}\.yaml` \| 1 .*$", TEXT, re.MULTILINE)
        machines = [
            node["node_config"].get("InstanceType") or node["node_config"]["machineType"]
            for node in config["available_node_types"].values()
        ]
        assert all(machine in row for machine in machines)
        assert f"up to {config['max_workers']} spot" in row
        assert f"{config['idle_timeout_minutes']} minutes" in row or "likewise" in row
