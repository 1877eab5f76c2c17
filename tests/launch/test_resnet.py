"""A hierarchical model with data-dependent initialisation and free bits by channel, trained by Ray workers."""

import os
import signal

import numpy as np
import pytest

from vaedist.config import Experiment
from vaedist.errors import Interrupted
from vaedist.launch.training.trainer import train
from vaedist.monitor.events import Progress
from vaedist.monitor.metrics import read_metrics
from vaedist.runs.checkpoint_store import checkpoints_of
from vaedist.runs.folder import RunFolder

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("cluster")]


@pytest.fixture(scope="module")
def hierarchy(blob_data, tmp_path_factory):
    """A run of 108 steps."""
    return Experiment.from_dict(
        {
            "run": {"name": "one", "folder": str(tmp_path_factory.mktemp("resnet"))},
            "data": {"path": str(blob_data)},
            "model": {"type": "resnet", "levels": 2, "blocks": 1, "width": 6, "latent": 3},
            "objective": {"free_bits": 0.25},
            "training": {
                "epochs": 2, "global_batch": 30, "steps_per_call": 2, "learning_rate": 0.004, "optimizer": "adamax",
                "ema_decay": 0.9,
            },
            "scaling": {"cpus_per_worker": 1},
            "monitor": {"log_every": 1, "pictures": 8},
        }
    )  # fmt: skip


def losses(run):
    return [row["elbo"] for row in read_metrics(run.metrics) if row["kind"] == "train"]


@pytest.fixture(scope="module")
def one(cluster, hierarchy):
    return train(hierarchy)


def test_the_initial_weights_depend_on_the_data_and_are_the_same_on_all_workers(hierarchy, one):
    two = train(hierarchy.with_overrides("run.name=two", "scaling.workers=2"))
    np.testing.assert_allclose(losses(two), losses(one), rtol=1e-4)
    elbo = [row for row in read_metrics(one.metrics) if row["kind"] == "test"][-1]["elbo"]
    assert elbo > losses(one)[0] + 50, "it learns"
    assert {f"{name}-epoch-0002.png" for name in ("samples", "reconstructions", "interpolations", "layers")} <= {
        path.name for path in one.pictures.iterdir()
    }


def test_a_resumed_run_is_not_initialised_again_and_reaches_the_same_weights(hierarchy, one):
    def stop(event):
        if isinstance(event, Progress) and event.step == 20:
            os.kill(os.getpid(), signal.SIGINT)

    stopped = hierarchy.with_overrides("run.name=stopped")
    with pytest.raises(Interrupted, match="is saved"):
        train(stopped, observe=stop)
    train(stopped, resume=True)
    run = RunFolder.of(stopped)
    weights, expected = (checkpoints_of(each).newest().weights() for each in (run, one))
    assert weights.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(weights[name], value, err_msg=name)
