"""`vaedist tune` in separate processes: killed and resumed sweeps, and input that is refused."""

import json
import signal
import time
from collections import Counter

import pytest
from command import refused, run, start

from vaedist.config import Experiment
from vaedist.monitor.metrics import read_metrics
from vaedist.sweeps import SweepFolder

SECONDS = 300  # timeout
EPOCHS = 20  # enough to be killed midway
JOB = """
[data]
path = "{data}"

[model]
hidden = 8
latent = 4

[training]
epochs = {epochs}
global_batch = 8

[checkpoint]
every_steps = 10

[monitor]
log_every = 5
pictures_every = 0

[tune]
{tune}

[tune.space]
{space}
"""


@pytest.fixture
def place(tmp_path, small_dataset):
    """Writes a sweep's job, and returns its folder."""

    def make(tune="", space='"model.flow.depth" = { grid = [0, 1, 2] }', epochs=1):
        (tmp_path / "sweep.toml").write_text(JOB.format(data=small_dataset, tune=tune, space=space, epochs=epochs))
        return tmp_path

    return make


def wait_for_trial(process, folder, number):
    """Waits until all earlier trials are finished, and this one has completed some but not all of its epochs."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        trials = folder.read_trials() if folder.sweep.exists() else []
        if len(trials) == number + 1 and trials[number].epochs:
            assert [trial.state for trial in trials] == ["finished"] * number + ["running"]
            assert trials[number].epochs[-1].epoch < EPOCHS
            return
        time.sleep(0.05)
    pytest.fail(f"trial {number} did not begin: {process.communicate()[1] if process.poll() is not None else ''}")


@pytest.mark.faults
@pytest.mark.ray
def test_a_stopped_or_killed_sweep_resumes_and_runs_no_trial_twice(place):
    grid = '"model.flow.depth" = { grid = [0, 1] }'
    here = place('search = "grid"\nscheduler = "none"\nconcurrent = 1', grid, epochs=EPOCHS)
    folder = SweepFolder.at(here / "runs" / "sweep")
    first = start("tune", "sweep.toml", cwd=here)
    wait_for_trial(first, folder, 0)
    first.send_signal(signal.SIGINT)
    _, said = first.communicate(timeout=SECONDS)
    assert first.returncode == 130, said
    assert "Traceback" not in said
    assert "tune --resume" in said.splitlines()[-1]
    second = start("tune", "--resume", "runs/sweep", cwd=here)
    wait_for_trial(second, folder, 1)
    second.kill()
    second.communicate(timeout=SECONDS)
    assert [trial.state for trial in folder.read_trials()] == ["finished", "running"]

    out, err = run("tune", "--resume", "runs/sweep", cwd=here)
    assert "1 of them ended before" in err
    assert "2 finished" in out
    records = [json.loads(line) for line in folder.trials.read_text().splitlines()]
    assert Counter(r["trial"] for r in records if r["state"] == "running") == {0: 2, 1: 2}
    for trial in folder.read_trials():
        rows = [row["step"] for row in read_metrics(trial.run.metrics) if row["kind"] == "train"]
        assert rows == sorted(set(rows)), "a step was made twice"
        assert [epoch.epoch for epoch in trial.epochs] == list(range(1, EPOCHS + 1))

    assert (folder.path / "report.md").exists()
    out, _ = run("tune", "report", "runs/sweep", cwd=here)
    assert out == "wrote runs/sweep/report.md\n"
    run("tune", "best", "runs/sweep", "-o", "best.toml", cwd=here)
    best = Experiment.from_file(here / "best.toml")
    assert best.model.flow.depth in (0, 1)
    _, err = run("tune", "best", "runs/sweep", "-o", "best.toml", cwd=here, code=2)
    assert err == "error: best.toml already exists, and is not overwritten\n"


@pytest.mark.parametrize(
    ("tune", "space", "says"),
    [
        ("", '"model.flow.dept" = { grid = [1] }', "did you mean 'model.flow.depth'?"),
        ("", '"run.name" = { grid = ["a"] }', "'run.name', which cannot be varied"),
        ("", '"model.latent" = { grid = [] }', "grid is empty: it needs at least one value"),
        ("", '"model.latent" = { grid = [4, 0] }', "model.latent = 0: must be greater than or equal to 1"),
        ("", '"model.latent" = { randint = [4, 4] }', "randint = [4, 4]: must be [lowest, highest]"),
        ("", '"training.learning_rate" = { loguniform = [0, 1] }', "must be greater than 0"),
        ("", '"model.latent" = { normal = [0, 1] }', "unknown key 'tune.space.model.latent.normal'"),
        ('scheduler = "hyperband"', None, "tune.scheduler = 'hyperband': must be 'none', 'asha' or 'median'"),
        ('search = "grid"', '"model.latent" = { randint = [4, 8] }', "a grid search needs a list of values"),
        ('metric = "importance_bound"', None, "no run reports it if monitor.importance_samples is 0"),
        ('metric = "bits_per_dim"', None, "no run reports it"),
        ("grace_epochs = 9", None, "tune.grace_epochs must be at most training.epochs, 1"),
        ("sample = 3", None, "unknown key 'tune.sample'; did you mean 'tune.samples'?"),
    ],
)
def test_a_sweep_that_cannot_be(place, tune, space, says):
    here = place(tune, **({"space": space} if space else {}))
    assert says in refused(here, "tune", "sweep.toml")


def test_invalid_calls_are_refused(place):
    here = place()
    (here / "job.toml").write_text("[model]\nlatent = 4\n")
    (here / "empty").mkdir()
    assert "has no [tune] section" in refused(here, "tune", "job.toml")
    assert "it is a sweep; use `vaedist tune`" in refused(here, "train", "sweep.toml")
    assert "no sweep at" in refused(here, "tune", "--resume", "empty")
    assert "no sweep at" in refused(here, "tune", "report", "empty")
    assert "no sweep at" in refused(here, "tune", "best", "empty", "-o", "best.toml")
    assert "specify either a job file or --resume DIR" in refused(here, "tune", "run")
    assert "--retry-errored requires --resume" in refused(here, "tune", "sweep.toml", "--retry-errored")
    assert "did you mean sweep.toml?" in refused(here, "tune", "swep.toml")


@pytest.mark.slow
@pytest.mark.ray
def test_a_trial_larger_than_the_cluster_is_refused_and_a_dry_run_starts_none(place):
    here = place(tune='search = "grid"')
    line = refused(here, "tune", "sweep.toml", "--set", "scaling.cpus_per_worker=900")
    assert "each of 900 CPU" in line
    out, _ = run("tune", "sweep.toml", "--dry-run", cwd=here)
    assert "grid, 3 trials of 1 epoch" in out
    assert "1 worker of" in out
    assert [row.split()[1:4:2] for row in out.splitlines() if row.startswith("│ 000")] == [
        ["0000", "0"], ["0001", "1"], ["0002", "2"],
    ]  # fmt: skip
    assert not (here / "runs").exists()
