"""Random pixels are the same in every test pass, evaluation and picture, for any run.

The encoder of the models returns q(z|x) = N(0, I), and the decoder the same output for every z, so that the score of an
image depends only on its pixels.
"""

import numpy as np
import pytest
import tensorflow as tf
from mlp_vae import vae
from synthetic import row_of, source

from vaedist.config import Experiment
from vaedist.data.manifest import load_manifest
from vaedist.data.prepare import prepare
from vaedist.data.rows import SplitRows
from vaedist.data.worker_data import open_inputs, open_probe
from vaedist.evaluation import importance, inspection
from vaedist.evaluation.importance import ImportanceEvaluator
from vaedist.evaluation.test_pass import Evaluator
from vaedist.models.preprocessing import Dynamic
from vaedist.models.rng import INSPECTION, pixel_uniform, row_normal
from vaedist.monitor.pictures import to_uint8
from vaedist.training.build import build_step

SHAPE, ROWS = (4, 6, 1), {"train": 40, "test": 37}
NOISY = [
    pytest.param({"binarize": "dynamic"}, id="dynamic"),
    pytest.param({"binarize": "fixed"}, id="fixed", marks=pytest.mark.slow),
    pytest.param({"likelihood": "gaussian"}, id="dequantised"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Returns the same images in the given number of shards."""

    def make(shards):
        out = tmp_path_factory.mktemp("grey") / "grey"
        prepare(source(**ROWS, shape=SHAPE), str(out), shards=shards)
        return str(out)

    return {shards: make(shards) for shards in (1, 5)}


def model(strategy=None, **arguments):
    with (strategy or tf.distribute.MirroredStrategy(["CPU:0"])).scope():
        made = vae(SHAPE, hidden=5, latent=3, flow_depth=0, **arguments)
    for weight in made.weights:
        weight.assign(tf.zeros_like(weight))
    bias = made.decoder.out.bias
    bias.assign(np.random.default_rng(0).normal(0, 1, bias.shape))
    return made


def readers(path, batch=8, rank=0, workers=1, seed=0):
    training = {"eval_batch": batch, "global_batch": 8}
    experiment = Experiment.from_dict({"seed": seed, "data": {"path": path}, "training": training})
    return open_inputs(experiment, load_manifest(path), rank=rank, workers=workers, replicas=1)


def drawn(reader, epochs):
    """Returns the pixels that a model with dynamic binarisation sees in each epoch, by the row that they are of."""
    found = {}
    for epoch in range(epochs):
        chunk = reader.read(epoch, 0, reader.plan.steps, reader.plan.steps)
        for k, count in enumerate(chunk.counts[0]):
            images, numbers = chunk.images[0, k, :count], chunk.numbers[0, k, :count]
            u = np.reshape(pixel_uniform(numbers, images[0].size), images.shape)
            for row, x in zip(row_of(images), np.asarray(Dynamic()(images, u)), strict=True):
                found.setdefault(int(row), []).append(x)
    return found


def test_each_test_image_is_drawn_once_for_any_seed_epoch_number_of_workers_and_of_shards(data):
    """The protocol of published results on dynamically binarised images: the drawn test images are a constant."""
    expected = {row: xs[0] for row, xs in drawn(readers(data[1]).scored, 1).items()}
    assert sorted(expected) == list(range(37))
    for seed, workers in ((0, 1), (5, 2), (6, 3)):
        for rank in range(workers):
            scored = readers(data[5], rank=rank, workers=workers, seed=seed).scored
            for row, xs in drawn(scored, 2).items():
                for x in xs:
                    np.testing.assert_array_equal(x, expected[row])
    images = SplitRows(data[5], load_manifest(data[5]), "test")
    u = np.reshape(pixel_uniform(images.numbers(0, 37), 24), (37, *SHAPE))
    for row, x in zip(row_of(images.read(0, 37)), np.asarray(Dynamic()(images.read(0, 37), u)), strict=True):
        np.testing.assert_array_equal(x, expected[int(row)])  # of `vaedist evaluate`


@pytest.mark.parametrize("arguments", NOISY)
def test_the_test_pass_scores_the_same_pixels_for_any_seed_batch_and_number_of_shards(data, arguments):
    made, strategy = model(**arguments), tf.distribute.MirroredStrategy(["CPU:0"])
    found = {
        Evaluator(made, strategy, readers(data[shards], batch).scored, seed=seed).run(epoch)["elbo"]
        for shards, batch, seed, epoch in ((1, 8, 0, 0), (5, 8, 0, 1), (1, 8, 7, 2), (1, 16, 0, 0), (5, 64, 3, 0))
    }
    assert max(found) - min(found) < 1e-4


@pytest.mark.parametrize("arguments", NOISY)
def test_evaluation_scores_the_pixels_of_the_test_pass(data, arguments, monkeypatch):
    made, strategy = model(**arguments), tf.distribute.MirroredStrategy(["CPU:0"])
    tested = Evaluator(made, strategy, readers(data[1]).scored, seed=0).run(0)["elbo"]
    for shards, seed, size, samples in ((1, 0, 1 << 20, 2), (5, 0, 1 << 20, 1), (5, 11, 4000, 5)):
        monkeypatch.setattr(importance, "BLOCK_BYTES", size)  # in different blocks
        rows = SplitRows(data[shards], load_manifest(data[shards]), "test")
        evaluator = ImportanceEvaluator(made, rows, samples=samples, seed=seed)
        found = evaluator.summary(list(evaluator.scores()))
        assert found.elbo.mean == pytest.approx(tested, abs=1e-4)


@pytest.mark.parametrize("arguments", NOISY)
def test_pictures_show_and_score_the_pixels_of_the_test_pass(data, arguments):
    made = model(**arguments)
    images = open_probe(data[5], load_manifest(data[5])).images
    assert len(images) == ROWS["test"]
    tested = Evaluator(made, tf.distribute.MirroredStrategy(["CPU:0"]), readers(data[1]).scored, seed=0).run(0)["elbo"]
    for seed in (0, 3):
        assert inspection.score(made, images, seed=seed).elbo.mean() == pytest.approx(tested, abs=1e-4)
    u = inspection.pixel_noise(made, len(images))
    np.testing.assert_array_equal(u.reshape(len(images), -1), pixel_uniform(np.arange(len(images)), made.pixels))
    np.testing.assert_array_equal(inspection.observed(made, images), made.preprocessing(images, u))
    assert made(images, {"z": tf.zeros((len(images), 3))}, u).log_px.numpy().mean() == pytest.approx(tested, abs=1e-4)


@pytest.mark.parametrize("binarize", ["dynamic", "fixed"])
def test_the_image_beside_a_reconstruction_is_the_encoded_one(binarize):
    """An encoder that distinguishes two images by their pixels sees those that `observed` returns."""
    made = vae(SHAPE, hidden=9, latent=3, flow_depth=0, binarize=binarize, seed=1)
    images = np.full((300, *SHAPE), 100, np.uint8)  # more than a block
    shown = to_uint8(inspection.observed(made, images))
    assert set(np.unique(shown)) == {0, 255}
    assert len(np.unique(shown.reshape(300, -1), axis=0)) == 300
    mu, log_sigma, _ = tf.split(made.encoder(shown.reshape(300, -1) / np.float32(255)), [3, 3, 0], axis=-1)
    eps = row_normal(4, INSPECTION, 0, 0, 300, 3)
    z = inspection.encode(made, images, seed=4)
    np.testing.assert_allclose(z, mu + tf.exp(log_sigma) * eps, rtol=1e-5, atol=1e-5)


def test_fixed_pixels_are_the_same_in_every_epoch_and_dynamic_ones_are_not(data):
    """Returns sums over an epoch's training rows, whose order differs by epoch."""
    reader, strategy = readers(data[5]).train, tf.distribute.MirroredStrategy(["CPU:0"])
    sums = {}
    for binarize in ("fixed", "dynamic"):
        experiment = Experiment.from_dict({"training": {"learning_rate": 1e-9, "steps_per_call": 5}})
        with strategy.scope():
            step = build_step(
                experiment, model(strategy, binarize=binarize), strategy, steps_per_epoch=5, global_batch=8
            )
        rows = [step.run(reader.read(epoch, 0, 5, 5), 5 * epoch)[0].sum(axis=0) for epoch in (0, 1)]
        sums[binarize] = [float(row[step.names.index("elbo")]) for row in rows]
    assert sums["fixed"][0] == pytest.approx(sums["fixed"][1], abs=1e-3)
    assert abs(sums["dynamic"][0] - sums["dynamic"][1]) > 1
    made = model(binarize="fixed")
    rows = SplitRows(data[1], load_manifest(data[1]), "train")
    u = tf.reshape(pixel_uniform(rows.numbers(0, 40), made.pixels), (40, *SHAPE))
    expected = float(tf.reduce_sum(made(rows.read(0, 40), {"z": tf.zeros((40, 3))}, u).log_px))
    assert sums["fixed"][0] == pytest.approx(expected, abs=1e-3)


def test_a_rows_number_identifies_its_image_for_any_number_of_shards(data):
    found = []
    for path in data.values():
        rows = SplitRows(path, load_manifest(path), "test")
        images, numbers = rows.read(0, 37), rows.numbers(0, 37)
        chunk = readers(path).scored.read(0, 0, 5, 5)
        for k, count in enumerate(chunk.counts[0]):
            found.append(dict(zip(chunk.numbers[0, k, :count], row_of(chunk.images[0, k, :count]), strict=True)))
        found.append(dict(zip(numbers, row_of(images), strict=True)))
        probe = open_probe(path, load_manifest(path)).images
        found.append(dict(enumerate(row_of(probe))))
    together = {}
    for each in found:
        for number, row in each.items():
            assert together.setdefault(number, row) == row
    assert sorted(together) == list(range(37))
