"""A Ray cluster that tests share, a small experiment, and runs that several tests use."""

import contextlib
from dataclasses import dataclass
from functools import partialmethod

import numpy as np
import psutil
import pytest
import ray
from ray._private.parameter import RayParams

from vaedist.config import Experiment
from vaedist.data.manifest import Source
from vaedist.data.prepare import prepare
from vaedist.data.sources import ImageSource
from vaedist.errors import RunError
from vaedist.launch.session import start_ray
from vaedist.launch.training.trainer import train
from vaedist.monitor.events import Event, Started
from vaedist.runs.folder import RunFolder

ROWS = {"train": 1600, "test": 96}
PREEMPTION = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"  # starts another process per run


def blobs(split):
    """Yields one batch of images [8, 8, 3] that a small VAE can learn: a bright patch on a dark background."""
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


@pytest.fixture(scope="session")
def make_experiment(blob_data):
    """Returns a function that makes a run of 2 epochs of 100 steps in a folder, with a checkpoint every 30 steps."""
    return lambda folder: Experiment.from_dict(
        {
            "run": {"name": "run", "folder": str(folder)},
            "data": {"path": str(blob_data)},
            "model": {"hidden": 24, "latent": 6, "flow": {"depth": 2, "width": 12}},
            "training": {"epochs": 2, "global_batch": 16, "learning_rate": 0.001, "eval_batch": 32},
            "scaling": {"cpus_per_worker": 1},
            "checkpoint": {"every_steps": 30},
            "monitor": {"log_every": 5, "pictures": 8},
        }
    )


@pytest.fixture
def experiment(make_experiment, tmp_path):
    return make_experiment(tmp_path / "runs")


@dataclass(frozen=True)
class Trained:
    """A completed run of `experiment`, its events, and the error of a second command that tried to train it."""

    experiment: Experiment
    run: RunFolder
    events: list[Event]
    refused: str


@pytest.fixture(scope="session")
def trained(cluster, make_experiment, tmp_path_factory):
    """Returns the completed run, which tests must not change."""
    experiment = make_experiment(tmp_path_factory.mktemp("runs"))
    events, refused = [], []

    def observe(event):
        events.append(event)
        if isinstance(event, Started):
            with pytest.raises(RunError) as error:
                train(experiment, resume=True)
            refused.append(str(error.value))

    # As on a cluster, where Ray Train watches for preemptions of nodes.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PREEMPTION, "1")
        run = train(experiment, observe=observe)
    return Trained(experiment, run, events, *refused)


@pytest.fixture(scope="session")
def two(make_experiment, tmp_path_factory):
    """Returns a run of two workers and 600 steps, to be disturbed midway; each test uses another name."""
    return make_experiment(tmp_path_factory.mktemp("two")).with_overrides("scaling.workers=2", "training.epochs=6")


@pytest.fixture(scope="session")
def undisturbed(cluster, two):
    """Returns the undisturbed run of `two`."""
    return train(two.with_overrides("run.name=undisturbed"))


@pytest.fixture(scope="session")
def cluster():
    """Starts the Ray cluster that tests share, with two CPUs, one fake GPU, and the dashboard."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PREEMPTION, "0")
        # A free port for the agent, which reports the health of its node: `ray.init` has no option for it, and tests
        # in other processes also run Ray.
        patch.setattr(RayParams, "__init__", partialmethod(RayParams.__init__, dashboard_agent_listen_port=0))
        start_ray(num_cpus=2, num_gpus=1, include_dashboard=True, log_to_driver=False)
        yield
        ray.shutdown()


@pytest.fixture(scope="session")
def processes():
    """Returns the processes of the tests' Ray whose command line contains some text, the oldest first.

    Ray's daemons are children of the tests, and its workers children of the daemons. Other Ray clusters may run on
    this machine.
    """

    def find(text):
        found = []
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):  # it ended meanwhile
                if text in " ".join(process.cmdline()):
                    found.append(process)
        return sorted(found, key=psutil.Process.create_time)

    return find
