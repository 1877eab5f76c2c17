"""A user's likelihood: its name, input that is refused, and the example's mathematics."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from own_parts import SHAPE, pixels, random_model
from scipy import stats
from test_config import message_of
from toys import NAME

from vaedist.checks.mathematics import probabilities
from vaedist.config import Experiment, Sweep
from vaedist.errors import UserCodeError
from vaedist.evaluation.scoring import score, score_layout
from vaedist.launch.user_code import code_of
from vaedist.models.build import build_model
from vaedist.models.options import make_likelihood
from vaedist.models.preprocessing import Binned, Dequantised, Fixed, Threshold
from vaedist.packages import digests_of, user_packages

EXAMPLE = Path(__file__).parents[2] / "examples" / "laplace_likelihood"
LAPLACE = "laplace_likelihood:Laplace"
SMALL = ("model.hidden=7", "model.latent=4", "model.flow.depth=0")


pytestmark = pytest.mark.usefixtures("toy_package", "example_packages")


def experiment(name=LAPLACE, *overrides):
    return Experiment().with_overrides(f"model.likelihood={name}", *SMALL, *overrides)


def toy(name):
    return f"{NAME}.likelihoods:{name}"


def test_it_is_a_value_like_all_others():
    made = experiment()
    assert Experiment.from_toml(made.to_toml()) == made
    assert made.model.changed()["likelihood"] == LAPLACE
    space = {"model.likelihood": {"grid": ["gaussian", LAPLACE]}}
    sweep = Sweep.from_dict({"tune": {"search": "grid", "metric": "bits_per_dim", "space": space}})
    assert sweep.experiment(sweep.drawn(1)).model.likelihood == LAPLACE
    assert code_of(sweep) == code_of(made) == [EXAMPLE / "laplace_likelihood"]
    assert digests_of(user_packages(made.model.model_dump())).keys() == {"laplace_likelihood"}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("gausian", "must be 'bernoulli', 'continuous_bernoulli', 'gaussian', 'discretized_logistic' or a class of "
         "your own, 'package.module:Class'; did you mean 'gaussian'?"),
        ("laplace_likelihood:Lapalce", "module laplace_likelihood has no class Lapalce; did you mean 'Laplace'?"),
        ("nowhere_at_all:Laplace", "there is no module nowhere_at_all in PYTHONPATH"),
        (toy("NoLikelihood"), "class NoLikelihood must be a subclass of vaedist.Likelihood"),
        (toy("Partial"), "class Partial lacks mean, sample, which vaedist.Likelihood requires"),
        (toy("NoPixels"), "NoPixels.preprocessing must be one of vaedist.models.preprocessing, such as Binned()"),
        (toy("NoOutputs"), "NoOutputs.outputs = 1.5: must be the number of decoder outputs per pixel value"),
    ],
)  # fmt: skip
def test_a_name_of_no_likelihood_is_refused_in_one_line(name, reason):
    message = message_of(Experiment.from_dict, {"model": {"likelihood": name}}, "job.toml")
    assert message.startswith(f"job.toml: model.likelihood = {name!r}: {reason}")
    space = {"model.likelihood": {"grid": ["gaussian", name]}}
    assert reason in message_of(Sweep.from_dict, {"tune": {"space": space}})


def test_its_exceptions_are_shown_with_the_users_lines():
    with pytest.raises(UserCodeError) as error:
        experiment(toy("Raising"))
    first, *lines = str(error.value).splitlines()
    assert first == f"model.likelihood = '{toy('Raising')}': the likelihood cannot be created:"
    assert f"{NAME}/likelihoods.py" in lines[1]
    assert lines[-1] == "ZeroDivisionError: no pixels"
    with pytest.raises(UserCodeError, match=r"likelihoods\.py(.*\n)+.*no_such_thing"):
        score_layout(build_model(experiment(toy("Faulty")), SHAPE))


def test_it_determines_the_preprocessing_of_pixels():
    assert isinstance(experiment().model.preprocessing("none"), Dequantised)
    assert isinstance(experiment(toy("Uniform")).model.preprocessing("none"), Binned)
    coin = experiment(toy("Coin"), "data.binarize=fixed").model
    assert isinstance(coin.preprocessing("fixed"), Fixed)
    assert isinstance(coin.preprocessing("none"), Threshold)
    assert "requires model.likelihood = 'bernoulli', not" in message_of(experiment, LAPLACE, "data.binarize=fixed")


def test_a_model_with_it_can_be_recreated_from_its_config():
    model = build_model(experiment(), SHAPE)
    again = type(model).from_config(model.get_config())
    assert (again.clips, again.levels, type(again.likelihood)) == (True, 256, type(model.likelihood))
    np.testing.assert_array_equal(again.get_weights()[-1], model.get_weights()[-1])


def test_a_model_with_it_has_the_sum_over_pixels_as_log_px():
    model, images = random_model(experiment(), 0.7), pixels()
    u, eps = tf.fill((5, *SHAPE), 0.25), {"z": tf.constant(np.random.default_rng(2).normal(size=(5, 4)))}
    found = score(model, images, eps, u)
    mu, log_s = np.split(model.decoder(found.latents["z"]).numpy(), 2, axis=-1)
    x = (images.reshape(5, -1) + 0.25) / 256
    expected = stats.laplace.logpdf(x, mu + 0.5, np.exp(log_s - 2)).sum(-1)
    np.testing.assert_allclose(found.log_px, expected, rtol=1e-6)
    drawn = model.decode(found.latents, tf.cast(u, tf.float64)).numpy()
    np.testing.assert_allclose(drawn.reshape(5, -1), stats.laplace.ppf(0.25, mu + 0.5, np.exp(log_s - 2)).clip(0, 1))


@pytest.mark.parametrize("name", [LAPLACE, toy("Uniform"), toy("Coin")])
def test_its_probabilities_add_up_to_1(name):
    """By its own quadrature, or over the values to which its preprocessing maps the levels."""
    (check,) = probabilities(random_model(experiment(name), 0.7), pixels())
    assert check.passed
    raw = np.random.default_rng(0).normal(0, 2, (50, make_likelihood(name).outputs))
    values, weights = make_likelihood(name).quadrature(raw)
    assert {len(values), len(weights)} <= {1, 50}


def test_probabilities_that_do_not_add_up_to_1_are_found():
    (check,) = probabilities(random_model(experiment(toy("Wrong")), 0.7), pixels())
    assert check.error == pytest.approx(1)
    assert not check.passed
