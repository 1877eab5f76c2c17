"""The batch script of Slurm: what bash, shellcheck and `ray symmetric-run` say of it without a cluster."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from ray.scripts.scripts import start
from ray.scripts.symmetric_run import curate_and_validate_ray_start_args

from vaedist.cli import main
from vaedist.config import Experiment, keys

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "cluster" / "slurm" / "train.sbatch"
TEXT = SCRIPT.read_text()
SHELLCHECK = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin")


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
    assert isinstance(train, click.Command)


def test_the_token_is_of_this_job_and_read_by_nobody_else():
    assert TEXT.index("umask 077") < TEXT.index("secrets.token_hex")
    assert "export RAY_AUTH_MODE=token" in TEXT
    assert re.search(r'^export RAY_AUTH_TOKEN_PATH="\$scratch/token"$', TEXT, re.MULTILINE)
    assert re.search(r"^trap '.*rm -rf -- \"\$scratch\"' EXIT$", TEXT, re.MULTILINE)
