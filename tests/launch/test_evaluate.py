"""Evaluation of a trained run: in one process, on Ray workers, by the command, and in TensorBoard."""

import json

import numpy as np
import pytest
from board import Board
from click.testing import CliRunner

import vaedist
from vaedist.api import load_run
from vaedist.cli import main
from vaedist.errors import ClusterError, DataError
from vaedist.evaluation import importance
from vaedist.launch.evaluate import evaluate_on_ray
from vaedist.launch.training.trainer import train
from vaedist.monitor.metrics import read_metrics

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]


@pytest.fixture(scope="module")
def averaged(blob_data, tmp_path_factory):
    """Returns a run of one epoch with moving averages, which tests must not change."""
    from vaedist.config import Experiment

    experiment = Experiment.from_dict(
        {
            "run": {"name": "run", "folder": str(tmp_path_factory.mktemp("runs"))},
            "data": {"path": str(blob_data)},
            "model": {
                "hidden": 24,
                "latent": 6,
                "likelihood": "discretized_logistic",
                "flow": {"depth": 2, "width": 12},
            },
            "training": {"epochs": 1, "global_batch": 16, "learning_rate": 0.001, "eval_batch": 32, "ema_decay": 0.9},
            "scaling": {"cpus_per_worker": 1},
            "monitor": {"pictures": 8},
        }
    )
    return train(experiment)


def close(a, b):
    """Compares two evaluations with a relative tolerance of 1e-5."""
    assert a.images == b.images
    assert a.active_units == b.active_units
    for k, bound in a.bounds.items():
        assert b.bounds[k].mean == pytest.approx(bound.mean, rel=1e-5)
        assert b.bounds[k].standard_error == pytest.approx(bound.standard_error, rel=1e-5)
    assert b.kl_per_unit == pytest.approx(a.kl_per_unit, rel=1e-5)
    assert b.bits_per_dim[1].mean == pytest.approx(a.bits_per_dim[1].mean, rel=1e-5)


def test_one_process_and_two_workers_get_the_same_result(averaged):
    run, progress = load_run(averaged.path), []
    alone = run.evaluate(samples=12, limit=90)
    shared = evaluate_on_ray(
        run, workers=2, samples=12, limit=90, progress=lambda done, total: progress.append((done, total))
    )
    assert alone.images == 90
    close(alone, shared)
    assert progress[-1] == (len(progress), len(progress))


def test_an_evaluation_from_python_is_saved_as_that_of_the_command(averaged):
    run = load_run(averaged.path)
    assert vaedist.evaluate(run, samples=3, limit=20).images == 20
    saved = averaged.evaluations / "test-k3-first20-step-000000100.json"
    ours = json.loads(saved.read_text())
    saved.unlink()
    done = CliRunner().invoke(main, ["evaluate", str(averaged.path), "--samples", "3", "--limit", "20"])
    assert done.exit_code == 0, done.output
    assert json.loads(saved.read_text()) == ours
    close(vaedist.evaluate(run, samples=3, limit=20, workers=2), run.evaluate(samples=3, limit=20))


@pytest.mark.slow
def test_many_blocks_on_two_workers_count_every_image_once(averaged, monkeypatch):
    run = load_run(averaged.path)
    alone = run.evaluate(samples=4, split="train")
    monkeypatch.setattr(importance, "BLOCK_BYTES", 1 << 17)  # in this process, so that workers have other blocks
    assert run.evaluator(samples=4, split="train").blocks > 10
    blocks = run.evaluate(samples=4, split="train")
    assert blocks.images == alone.images == 1600
    assert blocks.elbo.mean == pytest.approx(alone.elbo.mean, abs=5 * alone.gap.mean / 40 + 0.05)


def test_moving_averages_are_evaluated_if_they_were_kept(averaged):
    tested = [row for row in read_metrics(averaged.metrics) if row["kind"] == "test"][-1]
    averaged, raw = (load_run(averaged.path, ema=ema).evaluate(samples=16) for ema in (None, False))
    assert averaged.elbo.mean == pytest.approx(tested["elbo"], abs=0.5)
    assert averaged.bits_per_dim[1].mean == pytest.approx(tested["bits_per_dim"], abs=0.5 / (192 * np.log(2)))
    assert raw.elbo.mean != averaged.elbo.mean


@pytest.mark.slow
def test_a_killed_worker_is_restarted_and_its_block_scored_again(averaged, processes):
    run = load_run(averaged.path)
    expected, killed = run.evaluate(samples=4), []

    def kill(done, total):
        if not killed:
            killed.extend(processes("_Scorer"))
            killed[0].kill()

    found = evaluate_on_ray(run, workers=1, samples=4, progress=kill)
    assert killed
    close(expected, found)


def test_runs_that_cannot_be_evaluated_are_refused(averaged, blob_data, small_dataset):
    run = load_run(averaged.path)
    with pytest.raises(ClusterError, match="no room"):
        evaluate_on_ray(run, workers=3, samples=2)
    with pytest.raises(DataError, match="is not what the run was trained on"):
        load_run(averaged.path, data=str(small_dataset)).evaluate()
    with pytest.raises(DataError, match="no data set at"):
        evaluate_on_ray(load_run(averaged.path, data=str(blob_data) + "-gone"), workers=1, samples=2)


def invoke(*arguments):
    return CliRunner().invoke(main, [str(word) for word in arguments], prog_name="vaedist")


def test_the_command_prints_saves_and_shows_the_result(averaged):
    done = invoke("evaluate", averaged.path, "--samples", 8, "--json")
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert record["images"] == 96
    assert list(record["bounds"]) == ["1", "2", "4", "8"]
    assert record["ema"] is True
    assert set(record["bits_per_dim"]) == {"1", "8"}
    (file,) = averaged.evaluations.glob("test-k8-*.json")
    assert json.loads(file.read_text()) == record

    again = invoke("evaluate", averaged.path, "--samples", 8, "--bits-per-dim")
    assert again.exit_code == 0, again.output
    assert "log p(x) >= L_8" in again.stdout
    assert "bits/dim" in again.stdout
    board = Board(averaged.tensorboard / "evaluation" / "test-k8")
    points = {tag: board.curve(tag) for tag in board.tags()}
    assert all([step for step, _ in curve] == [record["step"]] for curve in points.values())
    assert board.last("evaluation/bound_00008") == pytest.approx(record["bounds"]["8"]["mean"], rel=1e-6)
    assert "sqrt" in record["active_units_withheld"]  # 8 samples of 96 images are too few to count units behind a flow
    assert (record["active_units"], points.get("evaluation/active_units")) == (None, None)
    assert "evaluation/kl_per_unit" in board.tags("histograms")


def test_samples_of_pixels_and_no_averages_from_the_command_line(averaged, tmp_path):
    for words in (("--pixels", "sample"), ("--no-ema",), ()):
        done = invoke("sample", averaged.path, "-n", 4, "-o", tmp_path / f"{len(words)}.png", *words)
        assert done.exit_code == 0, done.output
    pictures = {(tmp_path / f"{n}.png").read_bytes() for n in (2, 1, 0)}
    assert len(pictures) == 3
