"""The scripts in jobs/."""

import json
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from PIL import Image

from vaedist.config import Experiment
from vaedist.monitor.metrics import read_metrics
from vaedist.runs.checkpoint_store import CheckpointStore
from vaedist.runs.folder import RunFolder

JOBS = Path(__file__).parent.parent / "jobs"
TABLES = sorted((JOBS / "tables").glob("*.toml"))


def write_metrics(run, step_seconds, scores):
    """Writes the metrics of a run with 130 steps per epoch, in rows of 60 steps, the last of which is not complete."""
    run.mkdir()
    rows = []
    for epoch, score in enumerate(scores, 1):
        train = {"kind": "train", "epoch": epoch, "elbo": -1.0, "step_seconds": step_seconds}
        rows += [{**train, "step": 130 * (epoch - 1) + step} for step in (60, 120)]
        rows.append({"kind": "test", "epoch": epoch, "step": 130 * epoch, **score})
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def curves(out, *runs):
    words = [sys.executable, JOBS / "curves.py", *runs, "--out", out, "--minutes", "3", "5"]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()


def test_curves_tabulate_the_last_score_before_each_time(tmp_path):
    write_metrics(tmp_path / "quick", 0.5, [{"elbo": -9.0, "bits_per_dim": bits} for bits in (6.0, 5.0, 4.5)])
    write_metrics(tmp_path / "slow", 2.0, [{"elbo": -8.0, "bits_per_dim": 5.5}])
    lines = curves(tmp_path / "curves.png", tmp_path / "quick", tmp_path / "slow")
    assert lines == [
        "| minutes | quick | slow |",
        "|---|---|---|",
        "| 3 | 5.000 (step 260) |  |",
        "| 5 | 4.500 (step 390) | 5.500 (step 130) |",
        "| end | 4.500 (step 390) | 5.500 (step 130) |",
    ]
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width > 2 * picture.height


def test_runs_of_the_same_name_have_curves_of_their_own(tmp_path):
    for folder, bits in (("a", 6.0), ("b", 5.0)):
        (tmp_path / folder).mkdir()
        write_metrics(tmp_path / folder / "run", 1.0, [{"elbo": -9.0, "bits_per_dim": bits}])
    lines = curves(tmp_path / "curves.png", tmp_path / "a/run", tmp_path / "b/run")
    assert lines[-1] == "| end | 6.000 (step 130) | 5.000 (step 130) |"


def test_curves_show_the_elbo_unless_all_runs_have_bits_per_dim(tmp_path):
    write_metrics(tmp_path / "grey", 1.0, [{"elbo": -9.0, "bits_per_dim": 6.0}])
    write_metrics(tmp_path / "binary", 1.0, [{"elbo": -80.0}])
    lines = curves(tmp_path / "curves.png", tmp_path / "grey", tmp_path / "binary")
    assert lines[-1] == "| end | -9.000 (step 130) | -80.000 (step 130) |"


def test_curves_with_those_of_training_are_elbos_and_share_a_picture(tmp_path):
    for seed in (0, 1):
        write_metrics(tmp_path / f"grey-seed-{seed}", 1.0, [{"elbo": -9.0, "bits_per_dim": 6.0, "train_elbo": -7.0}])
    runs = [tmp_path / "grey-seed-0", tmp_path / "grey-seed-1"]
    lines = curves(tmp_path / "train.png", *runs, "--train")
    curves(tmp_path / "test.png", *runs)
    assert lines[-1] == "| end | -9.000 (step 130) | -9.000 (step 130) |"
    assert (tmp_path / "train.png").read_bytes() != (tmp_path / "test.png").read_bytes()


TABLE = """
job = "mnist-iwae.toml"
seeds = [0, 1]
samples = 4
columns = ["nll", "rise", "bits_per_dim", "active_units", "epochs", "hours"]
published = "a paper"

[[rows]]
name = "one sample"
run = "one"
published = "86.76"

[[rows]]
name = "five samples"
run = "five"
seeds = [0]
set = { "objective.samples" = 5 }
"""


def results(tmp_path, text, *words):
    file = tmp_path / "jobs" / "tables" / "table.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    (tmp_path / "jobs" / "mnist-iwae.toml").write_text((JOBS / "mnist-iwae.toml").read_text())
    words = [sys.executable, JOBS / "results.py", file, "--data", "data", "--runs", tmp_path / "runs", *words]
    return subprocess.run(words, check=False, capture_output=True, text=True)


def write_evaluation(run, bound):
    (run / "evaluations").mkdir()
    record = {
        "samples": 4,
        "bounds": {"1": {"mean": bound - 1.0}, "4": {"mean": bound}},
        "rise": {"mean": 0.25},
        "gap": {"mean": 1.0},
        "bits_per_dim": None,
        "active_units": 19,
    }
    (run / "evaluations" / "test-k4-step-000000260.json").write_text(json.dumps(record))


def test_a_table_has_means_and_deviations_over_the_seeds_that_are_evaluated(tmp_path):
    (tmp_path / "runs").mkdir()
    for seed, bound in enumerate((-86.0, -87.0)):
        run = tmp_path / "runs" / f"one-seed-{seed}"
        write_metrics(run, 36.0, [{"elbo": -90.0}, {"elbo": -88.0}])
        write_evaluation(run, bound)
    done = results(tmp_path, TABLE, "--print")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "| model | seeds | NLL by L_4 | L_4 - L_2 | bits/dim ≤ | active units | epochs | hours of training | a paper |",
        "|---|---|---|---|---|---|---|---|---|",
        "| one sample | 2 | 86.50 ± 0.71 | 0.25 |  | 19 | 2 | 2.6 | 86.76 |",
        "| five samples | 0 |  |  |  |  |  |  |  |",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('samples = 4', "samples = 'a'"), "samples"),
        (('"nll"', '"nil"'), "no column nil; there are vlb, log_p, "),
        (('"objective.samples" = 5', '"objective.samples" = 0'), "objective.samples = 0: "),
        (("mnist-iwae", "mnist"), "no job file at "),
        (("run = \"one\"", "runs = \"one\""), "runs"),
    ],
)  # fmt: skip
def test_a_faulty_table_is_refused_in_one_line_before_training(tmp_path, change, message):
    done = results(tmp_path, TABLE.replace(*change))
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]
    assert not (tmp_path / "runs").exists()


def test_an_unknown_row_is_refused(tmp_path):
    done = results(tmp_path, TABLE, "--only", "six")
    assert done.returncode == 2
    assert done.stderr.endswith("has the rows one, five\n")


@pytest.mark.parametrize("file", TABLES, ids=lambda file: file.name)
def test_the_experiments_of_all_tables_are_valid(file, monkeypatch):
    monkeypatch.syspath_prepend(JOBS.parent / "examples" / "planar_flow")
    table = tomllib.loads(file.read_text())
    for row in table["rows"]:
        Experiment.from_file(JOBS / table["job"], (), {**table.get("set", {}), **row.get("set", {})})
    assert results_print(file).startswith("| model | seeds |")


def results_print(file):
    words = [sys.executable, JOBS / "results.py", file, "--data", "data", "--runs", "no-runs", "--print"]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


@pytest.mark.slow
@pytest.mark.ray
def test_a_table_that_is_stopped_saves_the_run_that_it_trains(small_dataset, tmp_path):
    (tmp_path / "tables").mkdir()
    (tmp_path / "job.toml").write_text(
        "training = { epochs = 100000, global_batch = 16 }\nmonitor = { log_every = 1 }\n"
    )
    file = tmp_path / "tables" / "table.toml"
    file.write_text(TABLE.replace("mnist-iwae.toml", "job.toml"))
    words = ["--data", small_dataset, "--runs", tmp_path / "runs", "--only", "one"]
    with subprocess.Popen(
        [sys.executable, JOBS / "results.py", file, *words], stderr=subprocess.PIPE, text=True
    ) as script:
        metrics = tmp_path / "runs" / "one-seed-0" / "metrics.jsonl"
        while not metrics.exists() or not read_metrics(metrics):
            assert script.poll() is None, script.communicate()
            time.sleep(0.1)
        script.terminate()
        _, said = script.communicate(timeout=120)
    assert script.returncode == 130, said
    assert "stopping after the current steps, and saving a checkpoint" in said  # by the command, which has ended too
    job = tmp_path / "runs" / "one-seed-0.toml"
    assert f"to resume: vaedist train {job} " in said
    assert Experiment.from_file(job).seed == 0
    reached = CheckpointStore(RunFolder.at(tmp_path / "runs" / "one-seed-0")).newest().position.step
    assert reached == read_metrics(metrics)[-1]["step"]
    assert not (tmp_path / "runs" / "one-seed-1").exists()
