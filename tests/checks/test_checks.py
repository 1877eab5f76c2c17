"""Each check passes for a correct model, and fails for a model with the fault that it checks for."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

MODELS = Path(__file__).parents[1] / "models"  # for `tiny`

RUN = """
import json, sys
import numpy as np
from vaedist.devices.strategy import configure_devices
configure_devices(2, 0, 2)
import tensorflow as tf
from keras import ops
from tiny import TinyHierarchy
from vaedist.config import Experiment
from vaedist.models import likelihoods
from vaedist.models.preprocessing import Dynamic
from vaedist.models.flows import transforms
from vaedist.models.flows.autoregressive import MaskedDense
from vaedist import checks
from vaedist.checks.mathematics import flows
from vaedist.devices.batches import Batch
from vaedist.models.build import build_model
from vaedist.training.optimizer import Adam
from vaedist.training.step import TrainStep
from vaedist.training.update import Update

SHAPE = (3, 4, 1)
IMAGES = np.random.default_rng(0).integers(0, 256, (8, *SHAPE), dtype=np.uint8)
SIZES = ("model.hidden=7", "model.latent=4", "model.flow.width=6", "model.flow.depth=2", "training.steps_per_call=2")

def randomised(model):
    rng = np.random.default_rng(1)
    model.set_weights([rng.normal(0, 0.4, w.shape) for w in model.get_weights()])
    return model

def maker(experiment):
    return lambda: randomised(build_model(experiment, SHAPE, "float64"))

class Stopped(TinyHierarchy):
    def score(self, encoding, eps, *, training=False):
        right = super().score(encoding, eps, training=training)
        return right._replace(kl=right.kl | {"z_1": tf.stop_gradient(right.kl["z_1"])})

def hierarchy(cls=TinyHierarchy):
    return randomised(cls(SHAPE, preprocessing=Dynamic(), dtype="float64"))

def names(found):
    return sorted(check.name for check in found if not check.passed)

results = {}
for case, overrides in json.loads(sys.argv[1]).items():
    experiment = Experiment().with_overrides(*SIZES, *overrides)
    images = IMAGES[: 7 if case == "plain" else 8]
    found = checks.run_checks(experiment, maker(experiment), images)
    results[case] = [len(found), names(found)]

layers = Experiment().with_overrides(*SIZES, "objective.free_bits=0.5", "objective.free_bits_group=0")
found = checks.run_checks(layers.with_overrides("objective.samples=2"), hierarchy, IMAGES)
results["two layers"] = [len(found), names(found)]
results["stopped"] = names(checks.gradient(hierarchy(Stopped), IMAGES))

class Broken:
    def __init__(self, owner, name, function):
        self.owner, self.name, self.function, self.right = owner, name, function, getattr(owner, name)
    def __enter__(self):
        setattr(self.owner, self.name, self.function(self.right))
    def __exit__(self, *_):
        setattr(self.owner, self.name, self.right)

def without_masks(right):
    def call(self, x):
        for product in self.products:
            product.mask = None
        return right(self, x)
    return call

def halved_scale(right):
    def forward(self, z, *parameters):
        z, log_scale = right(self, z, *parameters)
        return z, 0.5 * log_scale
    return forward

BROKEN = {
    "masks": (MaskedDense, "call", without_masks),
    "log_det": (transforms.Gated, "forward", halved_scale),
    "inverse": (transforms.Gated, "inverse", lambda right: lambda self, z, *p: right(self, z, *p) + 1e-3),
    "probabilities": (
        likelihoods.Bernoulli, "log_prob", lambda right: lambda self, raw, x: right(self, raw, x) + 1e-6
    ),
    "gradient": (
        likelihoods.Bernoulli, "log_prob",
        lambda right: lambda self, raw, x: right(self, raw + 1e-6 * (raw - tf.stop_gradient(raw)), x),
    ),
    "update": (
        Update, "_apply",
        lambda right: lambda self, i, gradient, *more: right(self, i, 1.01 * gradient + 1e-3, *more),
    ),
    "doubled": (
        Update, "_apply",
        lambda right: lambda self, i, gradient, *more: right(self, i, 2.0 * gradient, *more),
    ),
    "padding": (Batch, "real", lambda right: property(lambda self: tf.ones(self.images.shape[0], tf.bool))),
    "not_a_number": (
        Update, "_apply",
        lambda right: lambda self, i, gradient, *more: right(self, i, gradient * np.nan if i == 3 else gradient, *more),
    ),
    "second_copy": (
        Update, "_apply",
        lambda right: lambda self, i, g, rates, finite, own: right(self, i, g * (1.0 - own), rates, finite, own),
    ),
    "devices": (
        TrainStep, "_packed_gradients",
        lambda right: lambda self, *parts: tuple(x * (1.0 + 0.01 * parts[3]) for x in right(self, *parts)),
    ),
}
whole = Experiment().with_overrides(*SIZES)
small = whole.with_overrides("model.flow.depth=0")  # an update is the same to what has no flow, and compiled sooner
for name, broken in BROKEN.items():
    with Broken(*broken):
        function = getattr(checks, sys.argv[2 + list(BROKEN).index(name)])
        if function in (checks.eager, checks.two_devices):
            results[name] = names(function(small, maker(small), IMAGES))
        elif function in (checks.dependencies, checks.log_determinant, checks.inverse):
            (case,) = flows(maker(whole)(), IMAGES)
            results[name] = names(function(case))
        else:
            results[name] = names(function(maker(whole)(), IMAGES))
print(json.dumps(results))
"""

RIGHT = {
    "plain": ["model.flow.depth=0", "model.likelihood=continuous_bernoulli", "training.warmup_steps=7"],
    "affine": [
        "model.flow.depth=1", "model.flow.transform=affine", "model.likelihood=discretized_logistic",
        "training.clip_norm=1.0", "training.optimizer=adamax",
    ],
    "binary": ["data.binarize=dynamic", "objective.free_bits=0.5", "objective.kl_warmup_epochs=1.0",
               "training.ema_decay=0.9", "training.optimizer=adamw", "training.weight_decay=0.1"],
}  # fmt: skip
# The fault, the check that detects it, and its message.
WRONG = {
    "masks": ("dependencies", "mask of step 1, parameter 1"),
    "log_det": ("log_determinant", "log-determinant"),
    "inverse": ("inverse", "inverse of the flow"),
    "probabilities": ("probabilities", "probabilities of a pixel"),
    "gradient": ("gradient", "gradient of the ELBO"),
    "update": ("eager", "3 compiled updates"),
    "doubled": ("eager", "3 compiled updates"),
    "padding": ("two_devices", "3 updates on one device"),
    "not_a_number": ("eager", "3 compiled updates"),
    "second_copy": ("two_devices", "3 updates on one device"),
    "devices": ("two_devices", "3 updates on one device"),
}


@pytest.fixture(scope="module")
def results():
    """Returns the number of checks and the names of failed ones by case, from a process with two CPU devices."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(RIGHT), *(function for function, _ in WRONG.values())],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (str(MODELS), os.environ.get("PYTHONPATH"))))},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("case", [*RIGHT, "two layers"])
def test_a_right_model_passes(results, case):
    count, failed = results[case]
    assert failed == []
    assert count == {"plain": 4, "affine": 9, "binary": 11, "two layers": 4}[case]


@pytest.mark.slow
@pytest.mark.parametrize("case", WRONG)
def test_a_fault_is_found(results, case):
    assert WRONG[case][1] in results[case]


@pytest.mark.slow
def test_a_wrong_gradient_in_one_layer_of_two_is_found(results):
    assert results["stopped"] == ["gradient of the ELBO"]


def test_an_error_that_is_not_a_number_fails():
    from vaedist.checks import Check

    assert not Check("x", "y", np.nan, 1.0).passed
