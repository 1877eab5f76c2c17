"""Construction of a model from the options of an experiment."""

import json

import numpy as np
import pytest
from toys import NAME

import vaedist.models  # noqa: F401 - chooses Keras's backend

import keras  # isort: skip

from vaedist.config import Experiment
from vaedist.errors import ModelError, UserCodeError
from vaedist.models.build import build_model
from vaedist.models.mlp.model import VAE
from vaedist.models.preprocessing import Binned, Dynamic, Fixed, Scaled, Threshold


def test_the_mlp_is_created_from_its_options_and_recreated_from_its_config():
    experiment = Experiment().with_overrides(
        "model.hidden=6", "model.layers=2", "model.latent=3", "model.flow.depth=2", "model.flow.width=5",
        "model.flow.layers=2", "model.flow.transform=affine", "model.flow.context=false", "model.flow.gate_bias=1.5",
        "model.initial_log_sigma=-1.5", "data.binarize=threshold", "seed=7",
    )  # fmt: skip
    assert experiment.model.values().keys() == experiment.model.changed().keys() | {"likelihood", "flow.type"}
    model = build_model(experiment, (2, 3, 1), "float64")
    assert model.options is experiment.model
    again = type(model).from_config(json.loads(json.dumps(model.get_config())))
    assert (again.options, again.image_shape, again.seed) == (experiment.model, (2, 3, 1), 7)
    assert isinstance(again.preprocessing, Threshold)
    assert again.compute_dtype == "float64"
    for before, after in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("kind", [Threshold, Dynamic, Fixed, Scaled])
def test_a_model_made_with_a_preprocessing_keeps_it_in_its_config(kind):
    model = VAE((2, 3, 1), preprocessing=kind())
    assert type(VAE.from_config(model.get_config()).preprocessing) is kind


def test_a_preprocessing_that_the_options_do_not_make_cannot_be_saved():
    model = VAE((2, 3, 1), preprocessing=Binned())
    with pytest.raises(
        ModelError, match="model VAE cannot be saved: its options do not make its preprocessing, Binned"
    ):
        model.get_config()


def test_a_users_model_is_recreated_from_its_config(toy_package):
    tables = {"seed": 5, "data": {"binarize": "fixed"}, "model": {"type": f"{NAME}.models:Whole", "channels": 8}}
    model = build_model(Experiment.from_dict(tables), (2, 3, 1), "mixed_bfloat16")
    again = type(model).from_config(json.loads(json.dumps(model.get_config())))
    assert (again.options, again.image_shape, again.seed) == (model.options, (2, 3, 1), 5)
    assert (type(again.preprocessing), again.dtype_policy.name) == (Fixed, "mixed_bfloat16")
    assert keras.config.dtype_policy().name == "float32"


def test_a_users_model_receives_its_options_and_the_preprocessing(toy_package):
    pytest.importorskip("vaedist.models.model")
    tables = {"seed": 5, "data": {"binarize": "threshold"}, "model": {"type": f"{NAME}.models:Whole", "channels": 8}}
    experiment = Experiment.from_dict(tables)
    model = build_model(experiment, (2, 3, 1))
    assert (type(model).__name__, model.options, model.seed) == ("Whole", experiment.model, 5)
    assert isinstance(model.preprocessing, Threshold)
    with pytest.raises(UserCodeError, match=r"created:\n.*\n.*models\.py.*\n.*\nZeroDivisionError: one channel"):
        build_model(experiment.with_overrides("model.channels=1"), (2, 3, 1))
