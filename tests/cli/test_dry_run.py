"""`vaedist train --dry-run` and `vaedist submit --dry-run`."""

import json
import math
import shutil
import socket

import pytest
from click.testing import CliRunner
from command import refused, run
from mlp_vae import vae

from vaedist.cli import main
from vaedist.config import Experiment
from vaedist.data.manifest import load_manifest
from vaedist.training.dry_run import describe_job, memory

JOB = """
[data]
path = "{data}"
[model]
hidden = 5
latent = 3
likelihood = "discretized_logistic"
[model.flow]
depth = 1
width = 4
[training]
epochs = 4
global_batch = 16
ema_decay = 0.9
steps_per_call = 2
"""


@pytest.fixture
def job(tmp_path, small_dataset):
    path = tmp_path / "job.toml"
    path.write_text(JOB.format(data=small_dataset))
    return path


def parameters():
    model = vae((4, 6, 3), hidden=5, latent=3, flow_depth=1, flow_width=4, likelihood="discretized_logistic")
    return sum(math.prod(variable.shape) for variable in model.trainable_variables)


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_dry_run_tells_and_writes_nothing(tmp_path, job, small_dataset):
    before = files(tmp_path)
    out, err = run("train", job, "--runs", tmp_path / "runs", "--dry-run", "--set", "scaling.workers=2", cwd=tmp_path)
    assert err == ""
    assert files(tmp_path) == before
    assert out.splitlines() == [line.rstrip() for line in out.splitlines()]
    told = " ".join(out.split())
    assert "nothing was started or written" in told
    assert f"run {tmp_path / 'runs' / 'job'}: new" in told
    assert "2 workers of 1 CPU device" in told
    assert "53 train" in told
    assert load_manifest(str(small_dataset)).fingerprint in told
    assert "16: 4 epochs of 4 steps of 16 images" in told
    assert f"{parameters():,} (mlp)" in told
    assert "no run of this job on this machine" in told


def test_memory_is_that_of_the_devices_arrays(job, small_dataset):
    experiment = Experiment.from_file(job)
    found = memory(experiment, load_manifest(str(small_dataset)), 1000)
    assert found == {
        "weights": 4000, "gradients": 4000, "moments": 8000, "moving averages": 4000,
        "images read ahead": 3 * 2 * 16 * 4 * 6 * 3,
    }  # fmt: skip


def test_the_time_is_estimated_from_a_run_of_the_same_job_on_this_machine(tmp_path, job, small_dataset):
    experiment = Experiment.from_file(job, values={"run.folder": str(tmp_path / "runs")})
    manifest = load_manifest(str(small_dataset))

    def write(name, host, **changes):
        run = tmp_path / "runs" / name
        (run / "tensorboard").mkdir(parents=True)
        (run / "tensorboard" / f"events.out.tfevents.1700000000.{host}.1").touch()
        (run / "experiment.toml").write_text(experiment.with_values({"run.name": name, **changes}).to_toml())
        rows = [
            {"kind": "train", "epoch": 1, "step": step, "images_per_second": rate}
            for step, rate in ((1, 1.0), (2, 2.12))
        ]
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    write("elsewhere", "another-host")
    write("different", socket.gethostname(), **{"model.hidden": 6})
    assert describe_job(experiment, manifest)["time"].startswith("unknown")
    write("same", socket.gethostname(), **{"training.epochs": 7})
    assert describe_job(experiment, manifest)["time"] == (
        "about 2 minutes of training steps, at the 2 images/s of run same on this machine"
    )
    assert describe_job(experiment, manifest, from_step=8)["time"].startswith("about 50 seconds")


def test_bad_input_is_refused_as_without_dry_run(tmp_path, job, small_dataset):
    assert "no job file" in refused(tmp_path, "train", "none.toml", "--dry-run")
    assert "no room" in refused(tmp_path, "train", job, "--dry-run", "--set", "scaling.cpus_per_worker=1000")
    (tmp_path / "runs" / "job").mkdir(parents=True)
    assert "exists: use --resume" in refused(tmp_path, "train", job, "--dry-run", "--runs", tmp_path / "runs")
    shutil.copytree(small_dataset, tmp_path / "data")
    next((tmp_path / "data").glob("train-*")).write_bytes(b"damaged")
    line = refused(tmp_path, "train", job, "--dry-run", "--name", "x", "--set", f"data.path={tmp_path / 'data'}")
    assert "train-" in line


def test_a_submission_is_described_without_a_cluster(tmp_path, job):
    arguments = ("--runs", "/shared/runs", "--address", "http://127.0.0.1:1", "--resume", "--env", "MODE=x")
    before = files(tmp_path)
    done = CliRunner().invoke(main, ["submit", str(job), *arguments, "--dry-run"], prog_name="vaedist")
    assert done.exit_code == 0, done.output
    told = " ".join(done.stdout.split())
    assert "a job on http://127.0.0.1:1, not contacted" in told
    assert "vaedist train job.toml --resume" in told
    assert "image, MODE" in told
    assert f"{parameters():,} (mlp)" in told
    assert files(tmp_path) == before


def test_a_submission_of_data_that_only_the_cluster_has_is_described(tmp_path, job):
    arguments = ("--runs", "/shared/runs", "--set", "data.path=/shared/no-such-data", "--dry-run")
    done = CliRunner().invoke(main, ["submit", str(job), *arguments], prog_name="vaedist")
    assert done.exit_code == 0, done.output
    assert "not readable from here" in " ".join(done.stdout.split())


def test_a_submission_with_a_relative_path_is_refused(tmp_path, job):
    assert "run.folder" in refused(tmp_path, "submit", job, "--dry-run")
