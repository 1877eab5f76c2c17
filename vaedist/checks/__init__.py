"""Numerical checks of a model, in float64: of its mathematics, and of the compiled training step.

Each check compares a result with one computed in a slow and simple way: Jacobians by automatic differentiation, finite
differences, sums over all values of a pixel, an eager update.
"""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from vaedist.checks.check import Check
from vaedist.checks.mathematics import dependencies, flows, gradient, inverse, log_determinant, probabilities
from vaedist.checks.updates import eager, two_devices
from vaedist.config import Experiment
from vaedist.models.build import layers_of
from vaedist.models.model import Model

__all__ = ["IMAGES", "Check", "run_checks"]

IMAGES = 8  # enough for three batches, the last one short, each split unevenly over two devices


def run_checks(
    experiment: Experiment,
    make_model: Callable[[], Model],
    images: np.ndarray,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Check]:
    """Runs all checks that apply to a model; TensorFlow must have two CPU devices.

    Args:
        experiment: settings of the optimizer and the objective.
        make_model: builds the model in float64, with the same weights each time.
        images: uint8, [n, H, W, C], n >= 1; `IMAGES` are enough.
        progress: called with the number of finished checks and of all checks.
    """
    with layers_of("float64"):
        model = make_model()
        cases = flows(model, images)
    checks: list[Callable[[], Iterator[Check]]] = [lambda: probabilities(model, images)]
    for case in cases:
        checks += [partial(check, case) for check in (dependencies, log_determinant, inverse)]
    checks += [
        lambda: gradient(model, images),
        lambda: eager(experiment, make_model, images),
        lambda: two_devices(experiment, make_model, images),
    ]
    found: list[Check] = []
    with layers_of("float64"):
        for number, check in enumerate(checks):
            progress(number, len(checks))
            found.extend(check())
    progress(len(checks), len(checks))
    return found
