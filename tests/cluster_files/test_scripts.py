"""The batch script of Slurm: what bash, shellcheck and `ray symmetric-run` say of it without a cluster."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ray.scripts.scripts import start
from ray.scripts.symmetric_run import curate_and_validate_ray_start_args

from vaedist.cli import main
from vaedist.config import Experiment, keys

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "cluster" / "slurm" / "train.sbatch"
TEXT = SCRIPT.read_text()
SHELLCHECK = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin")


# What the script calls, as far as it needs them: srun runs a command once, symmetric-run runs what follows its "--".
STUBS = {
    "srun": 'while [[ "$1" == --* ]]; do shift; done; exec "$@"',
    "scontrol": "echo node-1",
    "hostname": "echo 192.0.2.1 192.0.2.2",
    "ray": 'while [[ "$1" != -- ]]; do shift; done; shift; "$@" || true',
    "vaedist": 'cat "$RAY_AUTH_TOKEN_PATH" > "$HOME/token"; echo "$@" > "$HOME/called"; exit "$EXIT_CODE"',
    "python": f'exec "{sys.executable}" "$@"',
}


@pytest.fixture
def node(tmp_path):
    """The environment of a batch job on a node whose programs are the stubs, and whose home is empty."""
    programs = tmp_path / "venv" / "bin"
    programs.mkdir(parents=True)
    (tmp_path / "home").mkdir()
    for name, body in STUBS.items():
        (programs / name).write_text(f"#!/bin/bash\n{body}\n")
        (programs / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "12345", "SLURM_JOB_NODELIST": "node-[1-2]", "SLURM_JOB_NUM_NODES": "2"}
    job |= {"SLURM_CPUS_PER_TASK": "8", "SLURM_GPUS_ON_NODE": "1"}
    return os.environ | job | {"HOME": str(tmp_path / "home"), "VAEDIST_VENV": str(programs.parent)}


def launched():
    """The words of the command that srun runs on every node."""
    [line] = re.findall(r"^srun .*?(ray symmetric-run .*) &$", TEXT.replace("\\\n", " "), re.MULTILINE)
    return shlex.split(line)


def test_bash_can_read_it():
    done = subprocess.run(["bash", "-n", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(SHELLCHECK is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing():
    done = subprocess.run([SHELLCHECK, SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_it_says_how_it_is_called():
    done = subprocess.run(["bash", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: sbatch cluster/slurm/train.sbatch JOB")


def test_symmetric_run_takes_its_options_and_hands_the_others_to_ray_start():
    words = launched()
    ours = words[2 : words.index("--")]
    assert ours[:4] == ["--address", "$address", "--min-nodes", "$SLURM_JOB_NUM_NODES"]
    handed = curate_and_validate_ray_start_args([*ours[:3], "2", *ours[4:]])
    assert [word.partition("=")[0] for word in handed] == ["--num-cpus", "--num-gpus"]
    start.make_context("start", [f"{word.partition('=')[0]}=1" for word in handed])


def test_the_training_is_told_the_cluster_and_goes_on_after_a_requeue():
    words = launched()
    inner = words[words.index("--") + 1 :]
    assert inner[:2] == ["bash", "-c"]
    assert 'vaedist train "${@:2}"' in inner[2]
    assert inner[3:5] == ["bash", "$scratch"]
    given = ["1" if word.startswith("$") else re.sub(r"=\$.*", "=1", word) for word in inner[5:] if word != "${@:2}"]
    train = main.commands["train"]
    read = train.make_context("train", [str(ROOT / "jobs" / "cifar10-iaf.toml"), *given[1:]])
    assert read.params["resume"] is True
    assert read.params["address"] == "1"
    assert {one.partition("=")[0] for one in read.params["overrides"]} <= set(keys(Experiment))


def test_the_token_is_of_this_job_and_read_by_nobody_else():
    assert TEXT.index("umask 077") < TEXT.index("secrets.token_hex")
    assert "export RAY_AUTH_MODE=token" in TEXT
    assert re.search(r'^export RAY_AUTH_TOKEN_PATH="\$scratch/token"$', TEXT, re.MULTILINE)
    assert re.search(r"^trap '.*rm -rf -- \"\$scratch\"' EXIT$", TEXT, re.MULTILINE)


@pytest.mark.parametrize("code", [0, 3])
def test_it_trains_ends_with_the_code_of_the_training_and_leaves_no_token(node, code):
    job = ["jobs/cifar10-iaf.toml", "--name", "a b"]
    done = subprocess.run(["bash", SCRIPT, *job], env=node | {"EXIT_CODE": str(code)}, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    home = Path(node["HOME"])
    assert (home / "called").read_text().split() == shlex.split(
        "train jobs/cifar10-iaf.toml --resume --address 192.0.2.1:22345 "
        "--set scaling.workers=2 --set scaling.gpus_per_worker=1 --name a b"
    )
    assert re.fullmatch(r"[0-9a-f]{64}", (home / "token").read_text())
    assert {path.name for path in home.iterdir()} == {"called", "token"}


def test_it_fails_where_ray_did_not_start_though_symmetric_run_ends_well(node):
    (Path(node["VAEDIST_VENV"]) / "bin" / "ray").write_text("#!/bin/bash\n")
    done = subprocess.run(["bash", SCRIPT, "jobs/cifar10-iaf.toml"], env=node, capture_output=True, text=True)
    assert done.returncode == 1
