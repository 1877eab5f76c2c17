"""Logged metrics, curves and pictures of a model with two stochastic layers."""

import re
from contextlib import closing

import numpy as np
import pytest
from board import Board
from mlp_vae import vae
from PIL import Image
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams import metadata
from tiny import TinyHierarchy

from vaedist.config import Experiment
from vaedist.data.worker_data import Probe
from vaedist.evaluation import inspection
from vaedist.evaluation.scoring import score_layout
from vaedist.monitor.curves import RATES, description
from vaedist.monitor.metrics import MetricsLog, read_metrics
from vaedist.monitor.pictures import by_rows, to_uint8
from vaedist.monitor.tensorboard import TensorBoardWriter
from vaedist.runs.folder import RunFolder
from vaedist.training.run_board import LoggedRun
from vaedist.training.run_logger import RunLogger

SHAPE = (4, 6, 3)


@pytest.fixture
def logged(tmp_path):
    """Returns a run's folder with a row of training metrics, latents, pictures and projector, and the model."""
    rng = np.random.default_rng(0)
    run, model = RunFolder.at(tmp_path / "run"), TinyHierarchy(SHAPE)
    run.path.mkdir()
    probe = Probe(rng.integers(0, 256, (16, *SHAPE), np.uint8), np.arange(16) % 2, ("cat", "dog"))
    columns = score_layout(model).columns[1:]
    options = {"split": "test", "resume_step": None, "workers": 1, "layers": ("z_2", "z_1"), "bits_per_dim": True}
    with RunLogger(run, Experiment(), LoggedRun(**options), notify=lambda event: None) as logger:
        logger.train(1, 10, {name: float(i) for i, name in enumerate((*columns, "bits_per_dim", *RATES))})
        logger.epoch(1, 10, {name: 100.0 + i for i, name in enumerate(columns)}, -1.0, best=True)
        logger.latents(10, model, probe)
        logger.pictures(1, 10, model, probe)
        logger.finish(10, model, probe)
    return run, model, probe


def curves(folder):
    board = Board(folder)
    return {tag: board.curve(tag) for tag in board.tags()}


def test_training_and_test_have_the_same_tags_for_the_same_quantities(logged):
    run, model, _ = logged
    train, test = curves(run.tensorboard / "train"), curves(run.tensorboard / "test")
    terms = {"elbo", "reconstruction", "kl", "kl_by_layer/z_2", "kl_by_layer/z_1", "model/away"}
    assert train.keys() & test.keys() == terms
    assert {tag for tag in train.keys() - terms if "/" not in tag} == {"bits_per_dim", "epoch_elbo"}
    groups = {tag.partition("/")[0] for tag in train.keys() - terms if "/" in tag}
    assert groups == {"optimizer", "throughput"}
    assert {tag.partition("/")[0] for tag in test.keys() - terms} == {"latent"}
    assert {tag: train[tag] for tag in sorted(terms - {"model/away"})} == {
        "elbo": [(10, 0.0)], "reconstruction": [(10, 1.0)], "kl": [(10, 2.0)],
        "kl_by_layer/z_2": [(10, 3.0)], "kl_by_layer/z_1": [(10, 4.0)],
    }  # fmt: skip
    assert all(test[tag] == [(10, 100 + train[tag][0][1])] for tag in terms)
    row, _ = read_metrics(run.metrics)
    assert list(row)[3:] == [*score_layout(model).columns[1:], "bits_per_dim", *RATES]


@pytest.mark.parametrize("channels", [2, 4])
def test_images_of_any_number_of_channels_have_pictures(channels, tmp_path):
    rng, shape = np.random.default_rng(0), (4, 6, channels)
    run, model = RunFolder.at(tmp_path / "run"), TinyHierarchy(shape)
    run.path.mkdir()
    probe = Probe(rng.integers(0, 256, (16, *shape), np.uint8), np.arange(16) % 2, ("cat", "dog"))
    options = {"split": "test", "resume_step": None, "workers": 1, "layers": ("z_2", "z_1")}
    with RunLogger(run, Experiment(), LoggedRun(**options), notify=lambda event: None) as logger:
        logger.pictures(1, 10, model, probe)
        logger.finish(10, model, probe)
    for path in (*run.pictures.glob("*.png"), *run.tensorboard.rglob("sprite.png")):
        with Image.open(path) as picture:
            assert picture.mode == {2: "L", 4: "RGB"}[channels]


def test_every_tag_has_a_description(logged):
    run, *_ = logged
    for folder in ("train", "test"):
        board = Board(run.tensorboard / folder)
        for tag in board.tags("scalars") | board.tags("histograms"):
            assert board.description(tag) == description(tag) != "", tag


def test_pictures_and_latents_are_shown(logged):
    run, model, probe = logged
    named = {"pictures/reconstructions", "pictures/samples", "pictures/interpolations"}
    assert named <= Board(run.tensorboard).tags("images")
    board = Board(run.tensorboard / "test")
    counts = {tag: board.points(tag)[0][1][:, 2].sum() for tag in board.tags("histograms")}
    assert counts == {"latent/kl_per_unit/z_2": 2, "latent/kl_per_unit/z_1": 3}
    found = curves(run.tensorboard / "test")
    active = inspection.latent_statistics(model, probe.images, seed=Experiment().seed).active_channels["z_1"]
    assert found["latent/active_channels"] == found["latent/active_channels_by_layer/z_1"] == [(10, active)]


def test_the_charts_of_custom_scalars_have_curves(logged):
    run, *_ = logged
    tags = curves(run.tensorboard / "train").keys() | curves(run.tensorboard / "test").keys()
    ((_, config),) = Board(run.tensorboard).points("custom_scalars__config__")
    layout = Layout.FromString(config.item())
    charts = {chart.title: {tag for tag in tags if re.match(chart.multiline.tag[0], tag)}
              for category in layout.category for chart in category.chart}  # fmt: skip
    assert charts == {
        "ELBO, nats per image": {"elbo"},
        "bits per dimension": {"bits_per_dim"},
        "reconstruction, nats per image": {"reconstruction"},
        "KL, nats per image": {"kl"},
        "KL by layer, nats per image": {"kl_by_layer/z_2", "kl_by_layer/z_1"},
        "active channels by layer": {"latent/active_channels_by_layer/z_1"},
        "images per second": {"throughput/images_per_second"},
        "step, ms": {"throughput/step_ms"},
    }


def test_the_hparams_row_has_the_models_options_and_the_scores_of_its_curves(logged):
    run, *_ = logged
    plugin = Board(run.tensorboard).reader.PluginTagToContent("hparams")
    start = metadata.parse_session_start_info_plugin_data(plugin[metadata.SESSION_START_INFO_TAG])
    assert start.hparams["model.flow.depth"].number_value == Experiment().model.flow.depth
    assert start.hparams["training.optimizer"].string_value == "adam"
    experiment = metadata.parse_experiment_plugin_data(plugin[metadata.EXPERIMENT_TAG])
    curves = {(info.name.group, info.name.tag) for info in experiment.metric_infos}
    assert {("test", "elbo"), ("test", "bits_per_dim")} <= curves
    assert metadata.SESSION_END_INFO_TAG in plugin


def test_a_resumed_run_of_an_earlier_version_has_complete_curves(tmp_path):
    run, options = RunFolder.at(tmp_path / "run"), {"split": "test", "workers": 1, "layers": ("z",)}
    rates = dict.fromkeys(RATES, 0.0)
    with closing(MetricsLog(run.metrics, resume_step=None)) as log:
        for step in (10, 20, 30):
            log.append(
                "train", 1, step, {"elbo": -step, "reconstruction": float("nan"), "kl": 1.0, "gate_1": 0.5, **rates}
            )
        log.append("test", 1, 20, {"rows": 4.0, "elbo": -5.0, "reconstruction": -4.0, "kl": 1.0, "train_elbo": -6.0})
    old = TensorBoardWriter(run.tensorboard, purge_step=None)
    old.scalars(10, {"elbo/train": -10.0})
    old.close()
    for step in (20, 30):  # the second time, there is nothing to write again
        with RunLogger(run, Experiment(), LoggedRun(resume_step=step, **options), notify=lambda event: None) as logger:
            logger.train(1, step + 10, {"elbo": -step - 10.0, "reconstruction": 0.0, "kl": 1.0, "gate_1": 0.5, **rates})
    train, test = curves(run.tensorboard / "train"), curves(run.tensorboard / "test")
    assert train["elbo"] == [(step, -float(step)) for step in (10, 20, 30, 40)]
    assert train["model/gate_1"] == [(step, 0.5) for step in (10, 20, 30, 40)]
    assert (test["elbo"], train["epoch_elbo"]) == ([(20, -5.0)], [(20, -6.0)])
    assert curves(run.tensorboard) == {"elbo/train": [(10, -10.0)]}


def test_the_picture_by_layer_has_a_row_for_each_image(logged):
    run, model, probe = logged
    board = Board(run.tensorboard)
    assert "of the top 2, 1, 0 of 2 layers come from q(z|x)" in board.description("pictures/layers")
    with Image.open(run.pictures / "layers.png") as picture:
        sheet = np.asarray(picture)
    _, shown, _ = board.picture("pictures/layers")
    np.testing.assert_array_equal(shown[-len(sheet) :], sheet)
    assert (shown[: -len(sheet)] < 128).any()  # the title
    sheet = sheet[::2, ::2]
    found = inspection.progressive(model, probe.images[:8], seed=Experiment().seed)
    np.testing.assert_array_equal(sheet, by_rows(probe.images[:8], to_uint8(found.images)))
    assert (run.pictures / "layers-epoch-0001.png").read_bytes() == (run.pictures / "layers.png").read_bytes()


def test_one_layer_has_no_picture_and_no_curves_by_layer(tmp_path):
    run, model = RunFolder.at(tmp_path / "run"), vae(SHAPE, hidden=5, latent=3, flow_depth=0, seed=1)
    run.path.mkdir()
    probe = Probe(np.zeros((4, *SHAPE), np.uint8), np.zeros(4, np.int64), ("cat",))
    columns, options = score_layout(model).columns[1:], {"split": "test", "resume_step": None, "workers": 1}
    with RunLogger(run, Experiment(), LoggedRun(**options, layers=("z",)), notify=lambda event: None) as logger:
        logger.train(1, 10, dict.fromkeys((*columns, *RATES), 0.0))
        logger.latents(10, model, probe)
        logger.pictures(1, 10, model, probe)
    folders = (run.tensorboard, run.tensorboard / "train", run.tensorboard / "test")
    found = {tag for folder in folders for tag in Board(folder).reader.Tags()["tensors"]}
    assert not [tag for tag in found if "layer" in tag or "channels" in tag]
    assert not list(run.pictures.glob("layers*"))


def test_the_projector_has_the_concatenated_latents_of_both_layers(logged):
    run, model, probe = logged
    (table,) = (path for path in run.tensorboard.rglob("*.tsv") if "meta" not in path.name)
    z = np.loadtxt(table, delimiter="\t")
    np.testing.assert_allclose(z, inspection.encode(model, probe.images, seed=Experiment().seed), rtol=1e-3, atol=1e-4)
