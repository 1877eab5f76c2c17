"""From the options in an experiment to the arguments of a model's constructor."""

import pytest
from toys import NAME

from vaedist.config import Experiment
from vaedist.errors import UserCodeError
from vaedist.models.build import build_model
from vaedist.models.preprocessing import Threshold


def test_every_option_of_the_mlp_reaches_its_constructor():
    experiment = Experiment().with_overrides(
        "model.hidden=6", "model.layers=2", "model.latent=3", "model.flow.depth=2", "model.flow.width=5",
        "model.flow.layers=2", "model.flow.transform=affine", "model.flow.context=false", "model.flow.gate_bias=1.5",
        "data.binarize=threshold", "seed=7",
    )  # fmt: skip
    options = experiment.model.values()
    assert options.keys() == experiment.model.changed().keys() | {"likelihood"}
    config = build_model(experiment, (2, 3, 1), "float64").get_config()
    expected = {key.replace("flow.", "flow_").replace("flow_gate", "gate"): value for key, value in options.items()}
    assert expected.items() <= config.items()
    assert (config["image_shape"], config["binarize"], config["seed"], config["dtype"]) == (
        (2, 3, 1), "threshold", 7, "float64",
    )  # fmt: skip


def test_a_users_model_gets_its_options_and_how_pixels_are_scored(toy_package):
    pytest.importorskip("vaedist.models.model")
    tables = {"seed": 5, "data": {"binarize": "threshold"}, "model": {"type": f"{NAME}.models:Whole", "channels": 8}}
    experiment = Experiment.from_dict(tables)
    model = build_model(experiment, (2, 3, 1))
    assert (type(model).__name__, model.options, model.seed) == ("Whole", experiment.model, 5)
    assert isinstance(model.preprocessing, Threshold)
    with pytest.raises(UserCodeError, match=r"cannot be made:\n.*\n.*models\.py.*\n.*\nZeroDivisionError: one channel"):
        build_model(experiment.with_overrides("model.channels=1"), (2, 3, 1))
