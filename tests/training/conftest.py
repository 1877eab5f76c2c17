"""A small model under a strategy, and images for it."""

import numpy as np
import pytest
import tensorflow as tf

from vaedist.data.lanes import LanePlan
from vaedist.data.stream import LaneReader
from vaedist.model import VAE

ROWS, LANES = 53, 8
SHAPE = (4, 6, 3)


@pytest.fixture(scope="session")
def lanes():
    """53 images dealt to 8 lanes."""
    images = np.random.default_rng(0).integers(0, 256, (ROWS, *SHAPE), dtype=np.uint8)
    return [images[lane::LANES] for lane in range(LANES)]


@pytest.fixture
def strategy():
    return tf.distribute.MirroredStrategy(["CPU:0"])


@pytest.fixture
def make_model(strategy):
    def make(**sizes):
        with strategy.scope():
            return VAE(SHAPE, **({"hidden": 16, "latent": 5, "flow_depth": 2, "flow_width": 7, "seed": 3} | sizes))

    return make


@pytest.fixture
def reader(lanes):
    def make(batch, seed=0):
        return LaneReader(LanePlan(ROWS, LANES, batch), lanes, seed=seed)

    return make
