"""Logged metrics, curves and pictures of a model with two stochastic layers."""

import re

import numpy as np
import pytest
from mlp_vae import vae
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tiny import TinyHierarchy

from vaedist.config import Experiment
from vaedist.data.worker_data import Probe
from vaedist.evaluation import inspection
from vaedist.evaluation.scoring import score_layout
from vaedist.monitor.metrics import read_metrics
from vaedist.monitor.pictures import by_rows, to_uint8
from vaedist.runs.folder import RunFolder
from vaedist.training.run_logger import RATES, RunLogger

SHAPE = (4, 6, 3)


@pytest.fixture
def logged(tmp_path):
    """Returns a run's folder with a row of training metrics, latents, pictures and projector, and the model."""
    rng = np.random.default_rng(0)
    run, model = RunFolder.at(tmp_path / "run"), TinyHierarchy(SHAPE)
    run.path.mkdir()
    probe = Probe(rng.integers(0, 256, (16, *SHAPE), np.uint8), np.arange(16) % 2, ("cat", "dog"))
    columns = score_layout(model).columns[1:]
    options = {"split": "test", "resume_step": None, "workers": 1, "layers": ("z_2", "z_1")}
    with RunLogger(run, Experiment(), **options, notify=lambda event: None) as logger:
        logger.train(1, 10, {name: float(i) for i, name in enumerate((*columns, "bits_per_dim", *RATES))})
        logger.epoch(1, 10, {name: 100.0 + i for i, name in enumerate(columns)}, -1.0, best=True)
        logger.latents(10, model, probe)
        logger.pictures(1, 10, model, probe)
        logger.finish(10, model, probe)
    return run, model, probe


def test_metrics_and_the_kl_of_each_layer_have_separate_names(logged):
    run, model, _ = logged
    board = EventAccumulator(str(run.tensorboard), size_guidance={"histograms": 0})
    board.Reload()
    tags = board.Tags()
    assert {"parts/kl_train", "parts/away", "latent/active_units", "elbo/bits_per_dim_train"} <= set(tags["scalars"])
    mixed = ("elbo", "rows", "kl_z_2", "kl_z_1", "bits_per_dim", *RATES)
    assert not {f"parts/{name}" for name in mixed} & set(tags["scalars"])
    assert set(tags["histograms"]) == {"latent/kl_per_unit/z_2", "latent/kl_per_unit/z_1"}
    counts = {tag: board.Histograms(tag)[0].histogram_value.num for tag in tags["histograms"]}
    assert counts == {"latent/kl_per_unit/z_2": 2, "latent/kl_per_unit/z_1": 3}
    assert {"pictures/reconstructions", "pictures/samples", "pictures/interpolations"} <= set(tags["images"])
    row, _ = read_metrics(run.metrics)
    assert list(row)[3:] == [*score_layout(model).columns[1:], "bits_per_dim", *RATES]


def test_curves_of_the_layers_are_in_one_chart_each(logged):
    run, model, probe = logged
    board = EventAccumulator(str(run.tensorboard), size_guidance={"scalars": 0, "tensors": 0})
    board.Reload()
    found = {tag: board.Scalars(tag)[0].value for tag in board.Tags()["scalars"]}
    kl = {"z_2": 3.0, "z_1": 4.0}  # by the order of the columns
    assert {tag: value for tag, value in found.items() if tag.startswith("kl/")} == {
        **{f"kl/{name}_train": value for name, value in kl.items()},
        **{f"kl/{name}_test": value + 100 for name, value in kl.items()},
    }
    active = inspection.latent_statistics(model, probe.images, seed=Experiment().seed).active_channels["z_1"]
    assert (found["latent/active_channels"], found["active_channels/z_1"]) == (active, active)
    (config,) = board.Tensors("custom_scalars__config__")
    (category,) = Layout.FromString(config.tensor_proto.string_val[0]).category
    charts = {chart.title: {tag for tag in found if re.match(chart.multiline.tag[0], tag)} for chart in category.chart}
    assert charts == {
        "KL by layer, training": {"kl/z_2_train", "kl/z_1_train"},
        "KL by layer, validation or test": {"kl/z_2_test", "kl/z_1_test"},
        "active channels by layer": {"active_channels/z_1"},
    }


def test_the_picture_by_layer_has_a_row_for_each_image(logged):
    run, model, probe = logged
    board = EventAccumulator(str(run.tensorboard), size_guidance={"images": 0})
    board.Reload()
    caption = board.SummaryMetadata("pictures/layers").summary_description
    assert "of the top 2, 1, 0 of 2 layers come from q(z|x)" in caption
    with Image.open(run.pictures / "layers.png") as picture:
        sheet = np.asarray(picture)[::2, ::2]
    found = inspection.progressive(model, probe.images[:8], seed=Experiment().seed)
    np.testing.assert_array_equal(sheet, by_rows(probe.images[:8], to_uint8(found.images)))
    assert (run.pictures / "layers-epoch-0001.png").read_bytes() == (run.pictures / "layers.png").read_bytes()


def test_one_layer_has_no_picture_and_no_curves_by_layer(tmp_path):
    run, model = RunFolder.at(tmp_path / "run"), vae(SHAPE, hidden=5, latent=3, flow_depth=0, seed=1)
    run.path.mkdir()
    probe = Probe(np.zeros((4, *SHAPE), np.uint8), np.zeros(4, np.int64), ("cat",))
    columns, options = score_layout(model).columns[1:], {"split": "test", "resume_step": None, "workers": 1}
    with RunLogger(run, Experiment(), **options, layers=("z",), notify=lambda event: None) as logger:
        logger.train(1, 10, dict.fromkeys((*columns, *RATES), 0.0))
        logger.latents(10, model, probe)
        logger.pictures(1, 10, model, probe)
    board = EventAccumulator(str(run.tensorboard)).Reload()
    found = {tag for kind in ("scalars", "images", "tensors") for tag in board.Tags()[kind]}
    assert not [tag for tag in found if tag.startswith(("kl/", "custom")) or "layers" in tag or "channels" in tag]
    assert not list(run.pictures.glob("layers*"))


def test_the_projector_has_the_concatenated_latents_of_both_layers(logged):
    run, model, probe = logged
    (table,) = (path for path in run.tensorboard.rglob("*.tsv") if "meta" not in path.name)
    z = np.loadtxt(table, delimiter="\t")
    np.testing.assert_allclose(z, inspection.encode(model, probe.images, seed=Experiment().seed), rtol=1e-3, atol=1e-4)
