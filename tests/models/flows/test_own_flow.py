"""A user's flow: its options, its place in the MLP, input that is refused, and the example's mathematics."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from own_parts import SHAPE, pixels, random_model
from test_config import message_of
from toys import NAME

from vaedist.checks.mathematics import flows, log_determinant
from vaedist.config import Experiment, Sweep, check_classes, differences, keys, with_options
from vaedist.errors import ConfigError, ModelError, UserCodeError
from vaedist.evaluation.scoring import score, score_layout
from vaedist.launch.user_code import code_of
from vaedist.models.build import build_model
from vaedist.models.flows.flow import Identity
from vaedist.packages import digests_of, user_packages
from vaedist.training.build import build_step

EXAMPLE = Path(__file__).parents[3] / "examples" / "planar_flow"
PLANAR = "planar_flow:PlanarFlow"
SMALL = ("model.hidden=7", "model.latent=4", "model.flow.depth=3")


pytestmark = pytest.mark.usefixtures("toy_package", "example_packages")


def experiment(kind=PLANAR, *overrides):
    return Experiment().with_overrides(f"model.flow.type={kind}", *SMALL, *overrides)


def toy(name):
    return f"{NAME}.flows:{name}"


def normal(*shape, seed=0):
    return tf.constant(np.random.default_rng(seed).normal(size=shape))


def test_its_options_are_keys_like_all_others():
    made = experiment()
    assert (made.model.flow.type, made.model.flow.depth, made.model.flow.scale) == (PLANAR, 3, 1.0)
    assert Experiment.from_toml(made.to_toml()) == made
    assert made.model.values()["flow.type"] == PLANAR
    assert made.model.changed() == {"flow.type": PLANAR, "flow.depth": 3, "hidden": 7, "latent": 4}
    found = [key for key in keys(with_options(Experiment, made.model_dump())) if key.startswith("model.flow")]
    assert found == ["model.flow.type", "model.flow.depth", "model.flow.scale"]
    schema = with_options(Sweep, made.model_dump()).model_json_schema()["$defs"]["Options"]["properties"]
    assert (schema["type"]["default"], schema["scale"]["maximum"]) == (PLANAR, 10)


def test_a_flow_without_a_type_is_the_inverse_autoregressive_one():
    old = Experiment.from_toml("[model.flow]\ndepth = 2\nwidth = 8")
    assert (old.model.flow.type, old.model.flow.width) == ("iaf", 8)
    assert old.model.changed() == {"flow.depth": 2, "flow.width": 8}


def test_a_type_that_is_not_text_is_refused():
    message = message_of(Experiment.from_toml, "model.flow.type = 3")
    assert message.startswith("experiment: model.flow.type = 3: must be 'iaf' or")


def test_another_flow_has_its_own_defaults():
    assert experiment().with_overrides("model.flow.type=iaf").model.flow == Experiment().model.flow
    assert experiment().with_values({"model.flow.type": PLANAR, "seed": 1}).model == experiment().model
    wide = Experiment().with_overrides("model.flow.width=9")
    assert list(differences(wide, wide.with_overrides(f"model.flow.type={PLANAR}"))) == [
        ("model.flow.type", "iaf", PLANAR)
    ]


def test_a_users_model_may_have_any_flow():
    changes = [
        f"model.type={NAME}.light:Flowing",
        f"model.flow.type={PLANAR}",
        "model.flow.scale=2",
        "model.channels=3",
    ]
    for overrides in (changes, changes[::-1]):
        made = Experiment().with_overrides(*overrides)
        assert (made.model.channels, made.model.flow.type, made.model.flow.scale) == (3, PLANAR, 2)
    assert made.model.changed() == {"channels": 3, "flow.type": PLANAR, "flow.scale": 2}
    assert message_of(made.with_overrides, "model.flow.with=1").endswith("did you mean 'model.flow.depth'?")
    assert "unknown key 'model.chanels' of model.type = " in message_of(made.with_overrides, "model.chanels=1")
    hint = f"`vaedist config schema --model {NAME}.light:Flowing --flow {PLANAR}` lists"
    assert hint in message_of(made.with_overrides, "qqqq=1")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.flow.scael=2", f"unknown key 'model.flow.scael' of model.flow.type = '{PLANAR}'; did you mean "
         "'model.flow.scale'?"),
        ("model.flow.width=2", f"unknown key 'model.flow.width' of model.flow.type = '{PLANAR}'"),
        ("model.flow.scale=11", "--set: model.flow.scale = 11: must be less than or equal to 10"),
        ("qqqq=2", f"unknown key 'qqqq'; `vaedist config schema --flow {PLANAR}` lists the valid ones"),
    ],
)  # fmt: skip
def test_faults_of_its_options_are_reported_like_all_others(override, message):
    assert message in message_of(experiment().with_overrides, override)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("iav", "must be 'iaf' or a class of your own, 'package.module:Class'; did you mean 'iaf'?"),
        ("planar_flow:Planar", "module planar_flow has no class Planar; did you mean 'PlanarFlow'?"),
        ("nowhere_at_all:Flow", "there is no module nowhere_at_all in PYTHONPATH"),
        (toy("NoOptions"), "class NoOptions lacks Options, a subclass of vaedist.FlowOptions"),
        (toy("WrongOptions"), "WrongOptions.Options must be a subclass of vaedist.FlowOptions"),
    ],
)
def test_a_type_that_names_no_flow_is_refused_in_one_line(kind, reason):
    message = message_of(Experiment.from_dict, {"model": {"flow": {"type": kind}}}, "job.toml")
    assert message.startswith(f"job.toml: model.flow.type = {kind!r}: {reason}")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (toy("NoFlow"), "class NoFlow must be a subclass of vaedist.Flow"),
        (toy("Partial"), "class Partial lacks call, which vaedist.Flow requires"),
    ],
)
def test_a_class_that_does_not_fit_the_interface_is_refused(kind, reason):
    assert message_of(check_classes, experiment(kind)) == f"model.flow.type = {kind!r}: {reason}"
    space = {"model.flow.type": {"grid": ["iaf", kind]}}
    assert message_of(check_classes, Sweep.from_dict({"tune": {"space": space}})).endswith(reason)


def test_a_sweep_varies_the_flow_and_its_options():
    space = {"model.flow.type": {"grid": ["iaf", PLANAR]}, "model.flow.depth": {"grid": [1, 2]}}
    sweep = Sweep.from_dict({"model": {"latent": 9}, "tune": {"search": "grid", "space": space}})
    check_classes(sweep)
    trial = sweep.experiment(sweep.drawn(3))
    assert (trial.model.latent, trial.model.flow.type, trial.model.flow.depth) == (9, PLANAR, 2)
    own = Sweep.from_dict(
        {"model": {"flow": {"type": PLANAR}}, "tune": {"space": {"model.flow.scale": {"uniform": [0.5, 2]}}}}
    )
    assert own.experiment({"model.flow.scale": 2.0}).model.flow.scale == 2
    with pytest.raises(ConfigError, match=rf"cannot be varied in a trial of model\.flow\.type = '{PLANAR}'"):
        Sweep.from_dict({"tune": {"space": {**space, "model.flow.width": {"grid": [1, 2]}}}})


def test_its_package_is_code_of_the_run():
    package = EXAMPLE / "planar_flow"
    assert code_of(experiment()) == [package]
    assert digests_of(user_packages(experiment().model.model_dump())).keys() == {"planar_flow"}
    space = {"model.flow.type": {"grid": ["iaf", PLANAR]}}
    assert code_of(Sweep.from_dict({"tune": {"space": space}})) == [package]


def test_a_flow_of_depth_0_is_the_identity():
    model = build_model(experiment(PLANAR, "model.flow.depth=0"), SHAPE)
    assert isinstance(model.flow, Identity)
    assert model.encoder.out.units == 2 * 4
    assert model.posterior_mean(model.encode(pixels())) is not None


@pytest.mark.parametrize("name", ["Scaling", "ByImage"])
def test_a_log_determinant_by_latent_or_by_image_gives_the_same_score(name):
    model = build_model(experiment(toy(name)), SHAPE, "float64")
    plain = build_model(experiment("iaf", "model.flow.depth=0"), SHAPE, "float64")
    for before, after in zip(model.encoder.weights, plain.encoder.weights, strict=True):
        after.assign(before[..., : after.shape[-1]])
    for before, after in zip(model.decoder.weights, plain.decoder.weights, strict=True):
        after.assign(before)
    images, eps = pixels(), {"z": normal(5, 4)}
    found, expected = score(model, images, eps, None), score(plain, images, eps, None)
    z = expected.latents["z"].numpy()
    np.testing.assert_allclose(found.latents["z"], 2 * z)
    # KL of N(2 mu, 4 sigma^2) at 2 z: log q falls by log 2, and log p by 3 z^2 / 2
    kl = expected.kl["z"].numpy() - np.log(2) + 1.5 * z**2
    assert found.kl["z"].shape == ((5, 4) if name == "Scaling" else (5, 1))
    np.testing.assert_allclose(tf.reduce_sum(found.kl["z"], -1), kl.sum(-1))
    assert set(found.metrics) == ({"size"} if name == "ByImage" else set())


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Bare", "flow Bare: call must return a FlowOutput, not "),
        ("Short", "flow Short: call returns z of shape (2, 3) for z of (2, 4)"),
        (
            "Narrow",
            "flow Narrow: call returns log_det of shape (2, 2) for z of (2, 4); it must be (2,), (2, 1) or (2, 4)",
        ),
    ],
)
def test_an_output_of_another_shape_is_refused(name, says):
    with pytest.raises(ModelError) as error:
        score_layout(build_model(experiment(toy(name)), SHAPE))
    assert str(error.value).startswith(says)


def test_its_exceptions_are_shown_with_the_users_lines():
    with pytest.raises(UserCodeError) as error:
        build_model(experiment(toy("Scaling"), "model.flow.depth=13"), SHAPE)
    first, *lines = str(error.value).splitlines()
    assert first == f"model.flow.type = '{toy('Scaling')}': the flow cannot be created:"
    assert f"{NAME}/flows.py" in lines[1]
    assert lines[-1] == "ZeroDivisionError: thirteen steps"
    with pytest.raises(UserCodeError, match=r"flows\.py(.*\n)+.*no_such_thing") as error:
        score_layout(build_model(experiment(toy("Raising")), SHAPE))
    assert "\x1b" not in str(error.value)  # Keras's escape code for bold text


def test_free_bits_by_latent_are_refused_where_only_their_sum_is_known(strategy):
    def step(*overrides, kind=PLANAR):
        chosen = experiment(kind, "objective.free_bits=0.5", *overrides)
        with strategy.scope():
            model = build_model(chosen, SHAPE)
        return build_step(chosen, model, strategy, steps_per_epoch=2, global_batch=4)

    message = message_of(step)
    assert message.startswith("objective.free_bits_group = 1: the KL divergence of layer 'z' is one number for its 4 ")
    assert "it must be 0 for this model" in message
    assert step("objective.free_bits_group=0").objective.free_bits == 0.5
    assert step(kind="iaf").objective.free_bits == 0.5


def test_the_planar_log_determinant_is_that_of_the_jacobian():
    model = random_model(experiment(), 0.3)
    (case,) = flows(model, pixels())
    assert case.h.shape == (5, 3 * 9)
    (check,) = log_determinant(case)
    assert check.passed
    assert check.error < 1e-10
    determinants = case.flow(case.z, case.h).log_det.numpy()
    assert determinants.shape == (5, 1)
    assert np.abs(determinants).min() > 0.01  # the flow does not preserve volume


def test_every_planar_step_is_invertible():
    """w.u > -1 for any parameters, also where w is near 0, with finite gradients."""
    from planar_flow import dot, invertible

    u, w = 4 * normal(2000, 4), 4 * normal(2000, 4, seed=1)
    w = tf.concat([w, 1e-5 * w, 0 * w], axis=0)
    u = tf.tile(u, (3, 1))
    with tf.GradientTape() as tape:
        tape.watch((u, w))
        found, stretch = invertible(u, w)
    np.testing.assert_allclose(1 + dot(w, found), stretch, atol=1e-8)
    assert tf.reduce_min(stretch) > 0
    assert tf.reduce_min(dot(w, u)) < -50
    assert np.abs(found).max() < 1e3
    assert all(np.isfinite(gradient).all() for gradient in tape.gradient(found, (u, w)))


def test_samples_of_an_image_share_its_parameters():
    model, images = random_model(experiment(), 0.3), pixels()
    eps = normal(5, 3, 4)
    together = score(model, images, {"z": eps}, None, samples=3)
    for k in range(3):
        alone = score(model, images, {"z": eps[:, k]}, None)
        np.testing.assert_allclose(together.kl["z"][:, k], alone.kl["z"])
        np.testing.assert_allclose(together.log_px[:, k], alone.log_px)
