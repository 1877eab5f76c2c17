"""One Ray for all tests that train, and a small experiment for it."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
import ray

from vaedist.config import Experiment
from vaedist.data.manifest import Source
from vaedist.data.prepare import prepare
from vaedist.data.sources import ImageSource

ROWS = {"train": 1600, "test": 96}


def blobs(split):
    """Images [8, 8, 3] that a small VAE can learn: a bright patch on a dark ground, one batch."""
    rng = np.random.default_rng(0 if split == "train" else 1)
    images = rng.integers(0, 60, (ROWS[split], 8, 8, 3))
    labels = rng.integers(0, 4, ROWS[split])
    for image, label in zip(images, labels, strict=True):
        row, column = divmod(label, 2)
        image[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 150
    yield images.astype(np.uint8), labels.astype(np.int32)


@pytest.fixture(scope="session")
def blob_data(tmp_path_factory):
    out = tmp_path_factory.mktemp("blobs") / "blobs"
    source = ImageSource("blobs", (8, 8, 3), ("a", "b", "c", "d"), Source(kind="folder", name="blobs"), ROWS, blobs)
    prepare(source, str(out), shards=8)
    return out


@pytest.fixture
def experiment(blob_data, tmp_path):
    """A run of 2 epochs of 100 steps, a checkpoint every 30."""
    return Experiment.from_dict(
        {
            "run": {"name": "run", "folder": str(tmp_path / "runs")},
            "data": {"path": str(blob_data)},
            "model": {"hidden": 24, "latent": 6, "flow": {"depth": 2, "width": 12}},
            "training": {"epochs": 2, "global_batch": 16, "learning_rate": 0.001, "eval_batch": 32},
            "scaling": {"cpus_per_worker": 1},
            "checkpoint": {"every_steps": 30},
            "monitor": {"log_every": 5, "pictures": 8},
        }
    )


@pytest.fixture(scope="session")
def cluster():
    """A Ray of two CPUs, shared by all tests that want one; with the dashboard, as clusters have it."""
    ray.init(address="local", num_cpus=2, include_dashboard=True, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def processes():
    """Gives the process ids, on this machine, of all whose command line holds some text."""

    def find(text):
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and text.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
        return sorted(found)

    return find
