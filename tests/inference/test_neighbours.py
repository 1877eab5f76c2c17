"""Nearest training images, against all distances, and of a model that memorises."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from random_runs import save_run
from synthetic import source

import vaedist
from vaedist.cli import main
from vaedist.config import Experiment
from vaedist.data.manifest import Source
from vaedist.data.prepare import prepare
from vaedist.data.sources import ImageSource
from vaedist.inference.neighbours import nearest_training_images
from vaedist.monitor.pictures import to_uint8

SIZES = {"train": 53, "test": 19}


def drawn(split):
    """Yields one batch of random images."""
    images = np.random.default_rng(SIZES[split]).integers(0, 256, (SIZES[split], 4, 6, 3), dtype=np.uint8)
    yield images, np.zeros(SIZES[split], np.int32)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    images = ImageSource("drawn", (4, 6, 3), ("a",), Source(kind="folder", name="drawn"), SIZES, drawn)
    prepare(images, str(folder / "data"), shards=4)
    experiment = Experiment().with_overrides(f"data.path={folder / 'data'}", "model.hidden=8", "model.latent=4")
    return vaedist.load_run(save_run(folder / "run", experiment).path)


def in_order(run, split):
    """Returns the images of a split by their numbers."""
    rows = run.rows(split)
    return rows.read(0, rows.rows)[np.argsort(rows.numbers(0, rows.rows))]


@pytest.mark.parametrize("block", [7, 1024])
def test_they_are_the_nearest_of_all(run, block, monkeypatch):
    monkeypatch.setattr("vaedist.inference.neighbours.BLOCK", block)
    found = nearest_training_images(run, 5, neighbours=3, seed=2)
    train, samples = in_order(run, "train") / 255, to_uint8(run.sample(5, seed=2))
    np.testing.assert_array_equal(found.samples, samples)
    every = np.sqrt(((samples[:, None] / 255 - train) ** 2).mean((2, 3, 4)))
    np.testing.assert_array_equal(found.rows, np.argsort(every, axis=1)[:, :3])
    np.testing.assert_allclose(found.distances, np.sort(every, axis=1)[:, :3])
    np.testing.assert_array_equal(found.images, in_order(run, "train")[found.rows])
    test = in_order(run, "test") / 255
    nearest = np.sqrt(((test[:, None] - train) ** 2).mean((2, 3, 4))).min(axis=1)
    np.testing.assert_allclose(np.sort(found.references), np.sort(nearest))


@pytest.mark.parametrize("distance", ["pixel", "latent"])
def test_a_copy_of_a_training_image_is_found(run, distance, monkeypatch):
    train = in_order(run, "train")
    copies = train[[17, 40]] / 255
    monkeypatch.setattr(vaedist.Run, "sample", lambda self, count, seed: copies)
    found = nearest_training_images(run, 2, neighbours=2, distance=distance)
    assert found.rows[:, 0].tolist() == [17, 40]
    assert found.distances[:, 0].max() < 1e-3 * found.references.min()


def test_the_command_writes_a_row_for_each_sample(run, tmp_path):
    words = ["neighbours", str(run.folder.path), "-n", "3", "--neighbours", "2", "-o", str(tmp_path / "sheet.png")]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    assert "3 samples" in done.stdout
    assert "19 test images" in done.stdout
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width == 3 * (96 + 4) + 4
        assert sheet.height % 3 == 1  # three rows, and the padding below
    told = json.loads(CliRunner().invoke(main, [*words, "--json"]).stdout)
    expected = nearest_training_images(run, 3, neighbours=2)
    assert told["rows"] == expected.rows.tolist()


@pytest.mark.parametrize("channels", [2, 4])
def test_commands_show_images_of_any_number_of_channels(tmp_path, channels):
    prepare(source(train=20, test=19, shape=(4, 6, channels)), str(tmp_path / "data"), shards=4)
    experiment = Experiment().with_overrides(f"data.path={tmp_path / 'data'}", "model.hidden=8", "model.latent=4")
    run = save_run(tmp_path / "run", experiment)
    for command in ("neighbours", "sample", "reconstruct"):
        picture = tmp_path / f"{command}.png"
        done = CliRunner().invoke(main, [command, str(run.path), "-n", "2", "-o", str(picture)])
        assert done.exit_code == 0, done.output
        with Image.open(picture) as sheet:
            assert sheet.mode == {2: "L", 4: "RGB"}[channels]
