"""Logged metrics, curves and pictures of a model with two stochastic layers."""

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import TinyHierarchy

from vaedist.config import Experiment
from vaedist.data.worker_data import Probe
from vaedist.evaluation import inspection
from vaedist.evaluation.scoring import score_layout
from vaedist.monitor.metrics import read_metrics
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
    with RunLogger(run, Experiment(), split="test", resume_step=None, workers=1, notify=lambda event: None) as logger:
        logger.train(1, 10, {name: float(i) for i, name in enumerate((*columns, *RATES))})
        logger.latents(10, model, probe)
        logger.pictures(1, 10, model, probe)
        logger.finish(10, model, probe)
    return run, model, probe


def test_metrics_and_the_kl_of_each_layer_have_separate_names(logged):
    run, model, _ = logged
    board = EventAccumulator(str(run.tensorboard), size_guidance={"histograms": 0})
    board.Reload()
    tags = board.Tags()
    assert {"parts/kl_train", "parts/kl_z_2", "parts/kl_z_1", "parts/away", "latent/active_units"} <= set(
        tags["scalars"]
    )
    assert not {f"parts/{name}" for name in ("elbo", "rows", *RATES)} & set(tags["scalars"])
    assert set(tags["histograms"]) == {"latent/kl_per_unit/z_2", "latent/kl_per_unit/z_1"}
    counts = {tag: board.Histograms(tag)[0].histogram_value.num for tag in tags["histograms"]}
    assert counts == {"latent/kl_per_unit/z_2": 2, "latent/kl_per_unit/z_1": 3}
    assert {"pictures/reconstructions", "pictures/samples", "pictures/interpolations"} <= set(tags["images"])
    (row,) = read_metrics(run.metrics)
    assert list(row)[3:] == [*score_layout(model).columns[1:], *RATES]


def test_the_projector_has_the_concatenated_latents_of_both_layers(logged):
    run, model, probe = logged
    (table,) = (path for path in run.tensorboard.rglob("*.tsv") if "meta" not in path.name)
    z = np.loadtxt(table, delimiter="\t")
    np.testing.assert_allclose(z, inspection.encode(model, probe.images, seed=Experiment().seed), rtol=1e-3, atol=1e-4)
