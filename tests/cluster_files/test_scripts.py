"""The batch script for Slurm, checked by bash, shellcheck and `ray symmetric-run` without a cluster."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from ray.scripts.scripts import start
from ray.scripts.symmetric_run import curate_and_validate_ray_start_args

from vaedist.cli import main
from vaedist.config import Experiment, keys

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "cluster" / "slurm" / "train.sbatch"
TEXT = SCRIPT.read_text()
SHELLCHECK = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin")


# Stubs of the programs that the script calls: srun runs a command once, symmetric-run runs the command after "--".
STUBS = {
    "srun": 'while [[ "$1" == --* ]]; do echo "$1" >> "$VAEDIST_VENV/srun"; shift; done; exec "$@"',
    "scontrol": "echo node-1",
    "hostname": "echo 192.0.2.1 192.0.2.2",
    "ray": 'while [[ "$1" != -- ]]; do shift; done; shift; "$@" || true',
    "vaedist": 'cat "$RAY_AUTH_TOKEN_PATH" > "$HOME/token"; echo "$@" > "$HOME/called"; exit "$EXIT_CODE"',
    "python": f'exec "{sys.executable}" "$@"',
}


@pytest.fixture
def node(tmp_path):
    """Environment of a batch job on a node whose programs are the stubs, and whose home is empty."""
    programs = tmp_path / "venv" / "bin"
    programs.mkdir(parents=True)
    (tmp_path / "home").mkdir()
    for name, body in STUBS.items():
        (programs / name).write_text(f"#!/bin/bash\n{body}\n")
        (programs / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "12345", "SLURM_JOB_NODELIST": "node-[1-2]", "SLURM_JOB_NUM_NODES": "2"}
    job |= {"SLURM_CPUS_PER_TASK": "8", "SLURM_GPUS_ON_NODE": "1", "CUDA_VISIBLE_DEVICES": "0"}
    (tmp_path / "disk").mkdir()
    own = {"HOME": tmp_path / "home", "VAEDIST_TMP": tmp_path / "disk", "VAEDIST_VENV": programs.parent}
    return os.environ | job | {name: str(path) for name, path in own.items()}


def submit(environment, *arguments):
    """Runs the script as Slurm does on the first node."""
    command = ["bash", SCRIPT, "jobs/cifar10-iaf.toml", *arguments]
    return subprocess.run(command, env={"EXIT_CODE": "0"} | environment, capture_output=True, text=True, timeout=60)


def launched():
    """Returns the words of the command that srun runs on every node."""
    [line] = re.findall(r'^srun .*? node "\$gpus" (.*) &$', TEXT.replace("\\\n", " "), re.MULTILINE)
    return ["ray", "symmetric-run", *shlex.split(line)]


def test_bash_can_read_it():
    done = subprocess.run(["bash", "-n", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(SHELLCHECK is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing():
    done = subprocess.run([SHELLCHECK, SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_it_prints_its_usage():
    done = subprocess.run(["bash", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: sbatch cluster/slurm/train.sbatch JOB")


def test_symmetric_run_accepts_its_options_and_passes_the_others_to_ray_start():
    words = launched()
    ours = words[2 : words.index("--")]
    assert ours[:4] == ["--address", "$address", "--min-nodes", "$SLURM_JOB_NUM_NODES"]
    handed = curate_and_validate_ray_start_args([*ours[:3], "2", *ours[4:]])
    assert [word.partition("=")[0] for word in handed] == ["--num-cpus", "--num-gpus"]
    start.make_context("start", [f"{word.partition('=')[0]}=1" for word in handed])


def test_the_training_receives_the_cluster_and_resumes_after_a_requeue():
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


def test_the_token_is_for_this_job_only_and_readable_only_by_its_owner():
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


def test_it_fails_if_ray_did_not_start_although_symmetric_run_succeeds(node):
    (Path(node["VAEDIST_VENV"]) / "bin" / "ray").write_text("#!/bin/bash\n")
    done = subprocess.run(["bash", SCRIPT, "jobs/cifar10-iaf.toml"], env=node, capture_output=True, text=True)
    assert done.returncode == 1


@pytest.mark.parametrize(("has", "sees"), [(2, "0"), (1, "0,1"), (1, "")])
def test_it_ends_in_one_line_if_a_step_does_not_see_the_gpus_of_the_job(node, has, sees):
    done = submit(node | {"SLURM_GPUS_ON_NODE": str(has), "CUDA_VISIBLE_DEVICES": sees})
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    seen = len(sees.split(",")) if sees else 0
    assert f"the job has {has} GPUs on its first node, and this step sees {seen} (CUDA_VISIBLE_DEVICES={sees})" in line
    assert not (Path(node["HOME"]) / "called").exists()


@pytest.mark.parametrize("count", [1, 4])
def test_a_step_requests_all_gpus_of_its_nodes(node, count):
    """Slurm 22.05 gives a step none or as many as the job requested, although an exclusive job has all."""
    sees = ",".join(map(str, range(count)))
    assert submit(node | {"SLURM_GPUS_ON_NODE": str(count), "CUDA_VISIBLE_DEVICES": sees}).returncode == 0
    assert f"--gpus-per-node={count}" in (Path(node["VAEDIST_VENV"]) / "srun").read_text().splitlines()
    assert f"scaling.gpus_per_worker={count}" in (Path(node["HOME"]) / "called").read_text()


def test_it_trains_on_the_cpu_if_the_job_has_no_gpus(node):
    assert (
        submit({name: value for name, value in node.items() if "GPUS" not in name and "CUDA" not in name}).returncode
        == 0
    )
    assert "scaling.gpus_per_worker=0" in (Path(node["HOME"]) / "called").read_text()
    assert "gpus" not in (Path(node["VAEDIST_VENV"]) / "srun").read_text()


def test_it_removes_only_files_of_this_job_and_of_earlier_ones(node):
    disk = Path(node["VAEDIST_TMP"])
    for name in ("vaedist-12345", "vaedist-99", "vaedist-mine", "other"):
        (disk / name / "session").mkdir(parents=True)
    programs = Path(node["VAEDIST_VENV"]) / "bin"
    leaves = 'mkdir -p "$RAY_TMPDIR/session_1"; ls "$VAEDIST_TMP" > "$HOME/there"'
    (programs / "ray").write_text(f"#!/bin/bash\n{leaves}\n{STUBS['ray']}\n")
    assert submit(node).returncode == 0
    assert (Path(node["HOME"]) / "there").read_text().split() == ["other", "vaedist-12345", "vaedist-mine"]
    assert sorted(path.name for path in disk.iterdir()) == ["other", "vaedist-mine"]


def test_at_sigterm_it_waits_for_ray_and_then_removes_what_it_left(node):
    """On a requeue, Slurm sends SIGTERM to every process of the step."""
    disk, home = Path(node["VAEDIST_TMP"]), Path(node["HOME"])
    ray = Path(node["VAEDIST_VENV"]) / "bin" / "ray"
    ends = 'mkdir "$RAY_TMPDIR"; trap "sleep 1; touch $RAY_TMPDIR/late; exit 1" TERM; echo $$ $PPID > "$HOME/pids"'
    ray.write_text(f"#!/bin/bash\n{ends}\nwhile :; do sleep 0.1; done\n")
    with subprocess.Popen(["bash", SCRIPT, "jobs/cifar10-iaf.toml"], env=node, stderr=subprocess.DEVNULL) as batch:
        deadline = time.monotonic() + 30
        while not (home / "pids").exists() or not (home / "pids").read_text().endswith("\n"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        for pid in map(int, (home / "pids").read_text().split()):
            os.kill(pid, signal.SIGTERM)
        assert batch.wait(30) == 1
    assert list(disk.iterdir()) == []


def test_machines_are_watched_for_preemption_if_the_cloud_is_named(node):
    home, programs = Path(node["HOME"]), Path(node["VAEDIST_VENV"]) / "bin"
    watches = 'if [[ $1 == cluster ]]; then echo "$@" > "$HOME/watched"; echo $$ > "$HOME/pid"; exec sleep 60; fi'
    (programs / "vaedist").write_text(f"#!/bin/bash\n{watches}\nsleep 1\n{STUBS['vaedist']}\n")
    assert submit(node | {"VAEDIST_CLOUD": "aws"}).returncode == 0
    words = (home / "watched").read_text().split()
    command = main.commands["cluster"].commands[words[1]]
    given = command.make_context(words[1], words[2:]).params
    assert (given["cloud"], given["address"]) == ("aws", "192.0.2.1:22345")
    _, left = psutil.wait_procs(
        [one for one in psutil.process_iter() if one.pid == int((home / "pid").read_text())], 10
    )
    assert not [one for one in left if one.status() != psutil.STATUS_ZOMBIE]


def test_it_requests_all_memory_of_its_exclusive_nodes():
    assert {"#SBATCH --exclusive", "#SBATCH --mem=0"} <= set(TEXT.splitlines())
