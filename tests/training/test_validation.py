"""Training on data with a validation split, which is scored and selects the best epoch; the test images are deleted."""

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from board import Board
from click.testing import CliRunner

from vaedist.api import load_run
from vaedist.cli import main
from vaedist.cli.train import _print_result
from vaedist.config import Experiment
from vaedist.data.manifest import Source, load_manifest
from vaedist.data.prepare import prepare
from vaedist.data.rows import SplitRows
from vaedist.data.sources import ImageSource
from vaedist.errors import DataError
from vaedist.monitor.metrics import read_metrics
from vaedist.runs.checkpoint_store import CheckpointStore
from vaedist.runs.folder import RunFolder

ROWS = {"train": 64, "validation": 24, "test": 16}
GREY = {"train": 90, "validation": 120, "test": 200}
TRAIN = """
import sys
from vaedist.config import Experiment
from vaedist.runs.folder import RunFolder
from vaedist.training.worker import Worker, train
experiment = Experiment.from_file(sys.argv[1])
train(experiment, RunFolder.of(experiment), Worker(notify=lambda event: print(repr(event))))
"""


def noise(split):
    """Yields one batch of images [4, 4, 1], around a grey level that identifies the split."""
    rng = np.random.default_rng(GREY[split])
    images = GREY[split] + rng.integers(-30, 30, (ROWS[split], 4, 4, 1))
    yield images.astype(np.uint8), np.zeros(ROWS[split], np.int32)


@dataclass(frozen=True)
class Trained:
    """A run of three epochs, its worker's events, and its data, whose test shards were deleted before training."""

    run: RunFolder
    told: str
    data: Path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    place = tmp_path_factory.mktemp("validation")
    data = place / "noise"
    prepare(
        ImageSource("noise", (4, 4, 1), ("a",), Source(kind="folder", name="noise"), ROWS, noise), str(data), shards=4
    )
    (place / "away").mkdir()
    for shard in data.glob("test-*"):
        shard.rename(place / "away" / shard.name)
    experiment = Experiment.from_dict(
        {
            "run": {"name": "run", "folder": str(place / "runs")},
            "data": {"path": str(data)},
            "model": {"hidden": 8, "latent": 3, "flow": {"depth": 1, "width": 5}, "likelihood": "discretized_logistic"},
            "training": {"epochs": 3, "global_batch": 16, "eval_batch": 8},
            "scaling": {"cpus_per_worker": 1},
            "monitor": {"pictures": 4, "log_every": 2, "pictures_every": 0, "importance_samples": 2},
        }
    )
    run = RunFolder.of(experiment)
    run.path.mkdir(parents=True)
    run.experiment.write_text(experiment.to_toml())
    done = subprocess.run([sys.executable, "-c", TRAIN, run.experiment], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Trained(run, done.stdout, data)


def command(*arguments):
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_each_epoch_scores_and_reports_the_validation_images(trained):
    rows = read_metrics(trained.run.metrics)
    scored = [row for row in rows if row["kind"] != "train"]
    assert [(row["kind"], row["epoch"], row["rows"]) for row in scored] == [("validation", k, 24) for k in (1, 2, 3)]
    board = Board(trained.run.tensorboard / "validation")
    assert [value for _, value in board.curve("elbo")] == pytest.approx([row["elbo"] for row in scored])
    assert {"kl", "bits_per_dim", "importance/bound", "importance/gap"} <= board.tags()
    assert not (trained.run.tensorboard / "test").exists()
    assert trained.told.count("split='validation'") == 4  # three epochs and the end
    assert "split='test'" not in trained.told


def test_bits_per_dim_of_training_are_logged(trained):
    rows = [row for row in read_metrics(trained.run.metrics) if row["kind"] == "train"]
    expected = [-row["elbo"] / (16 * np.log(2)) for row in rows]
    assert [row["bits_per_dim"] for row in rows] == pytest.approx(expected, rel=1e-6)
    curve = Board(trained.run.tensorboard / "train").curve("bits_per_dim")
    assert [value for _, value in curve] == pytest.approx(expected, rel=1e-6)


def test_the_best_checkpoint_is_the_best_by_the_validation_images(trained):
    scores = {row["step"]: row["elbo"] for row in read_metrics(trained.run.metrics) if row["kind"] == "validation"}
    best = CheckpointStore(trained.run).best().position
    assert best.step == max(scores, key=scores.get)
    assert (best.validation_elbo, best.test_elbo) == (scores[best.step], None)


def test_pictures_are_of_validation_images(trained):
    images = load_run(trained.run.path).probe(8).images
    assert 90 <= images.min() <= images.max() < 150


def test_commands_that_look_at_a_run_say_whose_scores_they_print(trained):
    best = max(row["elbo"] for row in read_metrics(trained.run.metrics) if row["kind"] == "validation")
    (row,) = json.loads(command("runs", "list", trained.run.path.parent, "--json"))
    assert (row["split"], row["epoch"], row["best_elbo"]) == ("validation", 3, best)
    assert "validation" in command("runs", "list", trained.run.path.parent)
    assert "validation ELBO" in command("runs", "show", trained.run.path)


def test_a_training_ends_with_the_validation_elbo(trained, capsys):
    _print_result(trained.run, 60.0, resumed=False)
    plot, lines = capsys.readouterr().out.rpartition("\n\n")[::2]
    assert plot.splitlines()[1] == "validation ELBO, nats per image"
    assert plot.count("*") == 3
    lines = lines.splitlines()
    assert re.match(
        r"validation ELBO  -\d+\.\d\d nats per image .* after 3 epochs, 12 steps; 1\.0 minutes in all$", lines[0]
    )
    assert [line[:17].rstrip() for line in lines[1:]] == ["pictures", "look at it", "sample", "evaluate"]
    assert re.search(r"KL \d+\.\d\d\), \d+\.\d{3} bits/dim, after", lines[0])


def test_a_training_without_bits_per_dim_ends_without_them(trained, capsys, monkeypatch):
    rows = [
        {key: value for key, value in row.items() if key != "bits_per_dim"} for row in read_metrics(trained.run.metrics)
    ]
    monkeypatch.setattr("vaedist.monitor.metrics.read_metrics", lambda path: rows)
    _print_result(trained.run, 60.0, resumed=True)
    assert re.search(r"KL \d+\.\d\d\), after 3 epochs.* 1\.0 minutes since it was resumed\n", capsys.readouterr().out)


def test_the_test_images_are_left_to_evaluate(trained):
    evaluated = json.loads(command("evaluate", trained.run.path, "--split", "validation", "--samples", "2", "--json"))
    assert (evaluated["split"], evaluated["images"]) == ("validation", 24)
    refused = CliRunner().invoke(main, ["evaluate", str(trained.run.path), "--samples", "2"])
    assert refused.exit_code == 2
    assert "shard" in refused.stderr
    assert "is missing" in refused.stderr


def test_a_missing_split_is_refused_in_one_line(tmp_path):
    rows = {split: ROWS[split] for split in ("train", "test")}
    source = ImageSource("noise", (4, 4, 1), ("a",), Source(kind="folder", name="noise"), rows, noise)
    prepare(source, str(tmp_path / "noise"), shards=4)
    with pytest.raises(DataError, match=r"noise has no validation split; it has train, test$"):
        SplitRows(str(tmp_path / "noise"), load_manifest(str(tmp_path / "noise")), "validation")
