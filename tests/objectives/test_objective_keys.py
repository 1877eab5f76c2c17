"""The keys of an objective's samples and gradient: ranges, messages, and the resulting objective."""

import pytest

from vaedist.config import Experiment
from vaedist.errors import ConfigError


def refused(*overrides):
    with pytest.raises(ConfigError) as error:
        Experiment().with_overrides(*overrides)
    message = str(error.value)
    assert message.isprintable()  # one line
    return message


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["objective.samples=0"], "--set: objective.samples = 0: must be greater than or equal to 1"),
        (["objective.samples=1025"], "--set: objective.samples = 1025: must be less than or equal to 1024"),
        (["objective.samples=2.5"], "--set: objective.samples = 2.5: must be a valid integer"),
        (["objective.gradient=stl"], "--set: objective.gradient = 'stl': must be 'plain' or 'dreg'"),
        (["objective.gradient=dreg"], "gradient = 'dreg' requires samples above 1; it must be 'plain' for samples = 1"),
        (
            ["objective.gradient=dreg", "objective.samples=5", "objective.free_bits=0.5"],
            "gradient = 'dreg' is biased with free bits; free_bits = 0.5 must be 0",
        ),
        (["objective.free_bits_group=-1"], "--set: objective.free_bits_group = -1: must be greater than or equal to 0"),
    ],
)
def test_values_out_of_range_are_refused_with_the_allowed_range(overrides, message):
    assert message in refused(*overrides)


def test_they_survive_a_round_trip():
    overrides = "objective.samples=5", "objective.gradient=dreg", "objective.kl_warmup_epochs=1.5"
    experiment = Experiment().with_overrides(*overrides, "objective.free_bits_group=0")
    found = Experiment.from_toml(experiment.to_toml()).objective
    assert (found.samples, found.gradient, found.kl_warmup_epochs, found.free_bits_group) == (5, "dreg", 1.5, 0)
