"""Models and images for tests of users' flows and likelihoods."""

import numpy as np

from vaedist.models.build import build_model

SHAPE = (2, 3, 1)


def random_model(experiment, spread):
    """Returns the model of an experiment in float64, with random weights of this standard deviation."""
    model = build_model(experiment, SHAPE, "float64")
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(0, spread, weight.shape) for weight in model.get_weights()])
    return model


def pixels(count=5):
    """Returns random images."""
    return np.random.default_rng(1).integers(0, 256, (count, *SHAPE), np.uint8)
