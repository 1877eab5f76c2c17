"""Models in mixed precision: which operations are in bfloat16, and how far the results are from those in float32."""

from collections import Counter

import keras
import numpy as np
import pytest
import tensorflow as tf

from vaedist.config import Experiment
from vaedist.errors import ModelError
from vaedist.evaluation.scoring import score, score_layout
from vaedist.models.build import build_model, training_policy
from vaedist.models.gradients import WeightGradients
from vaedist.models.model import Model, Score
from vaedist.models.preprocessing import PREPROCESSING
from vaedist.objectives.elbo import bound

MODELS = {
    "mlp": ("model.hidden=32", "model.latent=8", "model.flow.depth=2", "model.flow.width=24"),
    "conv": (
        "model.type=conv", "model.width=4", "model.hidden=16", "model.latent=8", "model.flow.depth=2",
        "model.flow.width=24", "model.likelihood=discretized_logistic",
    ),
    "flow of a user": ("model.flow.type=planar_flow:PlanarFlow", "model.hidden=32", "model.latent=8"),
    "model of a user": ("model.type=conv_vae:ConvVAE", "model.latent=8", "model.width=4"),
    "resnet": ("model.type=resnet", "model.levels=2", "model.blocks=2", "model.width=8", "model.latent=4"),
}  # fmt: skip
SHAPE, ROWS = (8, 8, 3), 16
LAYERS = {"MatMul", "BatchMatMulV2", "Conv2D"}
MOVES = {"BroadcastTo", "ExpandDims", "Identity", "Reshape", "Split", "SplitV", "Squeeze", "StridedSlice", "Transpose"}
NARROW, WIDE = tf.bfloat16, tf.float32


@pytest.fixture(params=MODELS)
def kind(request, example_packages):
    return request.param


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    smooth = rng.integers(0, 256, (ROWS, 2, 2, 3)).repeat(4, axis=1).repeat(4, axis=2)
    return tf.constant(smooth.astype(np.uint8))


def pair(kind, batch):
    """Returns a model in float32 and the same in mixed precision, with the weights of the former, and noise."""
    models = [
        build_model(Experiment().with_overrides(*MODELS[kind]), SHAPE, dtype) for dtype in ("float32", "mixed_bfloat16")
    ]
    eps = noise(models[0])
    models[0].initialise(batch, eps)
    models[1].set_weights(models[0].get_weights())
    return models, eps


def noise(model):
    rng = np.random.default_rng(1)
    return {name: tf.constant(rng.normal(size=(ROWS, *shape)), tf.float32) for name, shape in model.noise.items()}


def operations(model, batch):
    """Returns the operations of a score."""
    eps = noise(model)
    traced = tf.function(lambda: score(model, batch, eps, None)._asdict(), autograph=False)
    return traced.get_concrete_function().graph.get_operations()


def origin(operation):
    """Returns the operation that computed the input of another one, through those that only move values."""
    found = operation.inputs[0].op
    while found.type in MOVES:
        found = next(tensor for tensor in found.inputs if tensor.dtype in {NARROW, WIDE}).op
    return found


def test_policy_of_an_experiment():
    for precision, policy in {"float32": "float32", "tf32": "float32", "mixed_bfloat16": "mixed_bfloat16"}.items():
        assert training_policy(Experiment().with_overrides(f"training.precision={precision}")) == policy


def test_products_and_convolutions_are_in_bfloat16_and_the_weights_in_float32(kind, batch):
    (_, mixed), _ = pair(kind, batch)
    layers = [one for one in operations(mixed, batch) if one.type in LAYERS]
    assert layers
    assert {one.inputs[0].dtype for one in layers} == {one.inputs[1].dtype for one in layers} == {NARROW}
    assert {variable.dtype for variable in mixed.variables} == {"float32"}


def test_logarithms_exponentials_and_sums_are_in_float32(kind, batch):
    (_, mixed), _ = pair(kind, batch)
    found = [one for one in operations(mixed, batch) if one.type in {"Log", "Log1p", "Exp", "Expm1", "Softplus", "Sum"}]
    assert found
    assert {one.inputs[0].dtype for one in found} == {WIDE}


def test_nothing_is_cast_back_and_forth(kind, batch):
    (_, mixed), _ = pair(kind, batch)
    casts = [one for one in operations(mixed, batch) if one.type == "Cast"]
    assert not [one for one in casts if origin(one).type == "Cast" and origin(one).inputs[0].dtype in {NARROW, WIDE}]
    sources = Counter(one.inputs[0].ref() for one in casts if one.outputs[0].dtype == NARROW)
    assert not [source for source, count in sources.items() if count > 1]  # or cast twice


def test_the_score_is_close_to_that_in_float32(kind, batch):
    models, eps = pair(kind, batch)
    exact, rounded = (bound(score(model, batch, eps, None)) for model in models)
    np.testing.assert_allclose(rounded.elbo, exact.elbo, rtol=0.01)
    assert not np.array_equal(rounded.elbo, exact.elbo)
    np.testing.assert_allclose(np.mean(rounded.kl), np.mean(exact.kl), rtol=0.03)


def test_gradients_are_in_float32_and_close(kind, batch):
    models, eps = pair(kind, batch)
    found = []
    for model in models:
        weights = [variable.value for variable in model.trainable_variables]
        gradients, _ = WeightGradients(model)(
            lambda model=model: (tf.reduce_mean(bound(score(model, batch, eps, None)).elbo), None), weights
        )
        assert {gradient.dtype for gradient in gradients} == {WIDE}
        found.append(np.concatenate([np.ravel(gradient) for gradient in gradients]))
    exact, rounded = found
    assert exact @ rounded / np.linalg.norm(exact) / np.linalg.norm(rounded) > 0.99


def test_initialisation_from_data_gives_the_same_scales(batch):
    (exact, _), eps = pair("resnet", batch)
    mixed = build_model(Experiment().with_overrides(*MODELS["resnet"]), SHAPE, "mixed_bfloat16")
    mixed.initialise(batch, eps)
    for one, other in zip(exact.variables, mixed.variables, strict=True):
        np.testing.assert_allclose(other, one, atol=0.05, err_msg=one.path)


class Narrow(Model):
    """A model that forgets to cast the output of its layer."""

    def __init__(self, **kwargs):
        super().__init__(SHAPE, preprocessing=PREPROCESSING["bernoulli"], **kwargs)
        self.noise = {"z": (2,)}
        self.dense = keras.layers.Dense(2)
        self.dense.build((None, 192))

    def encode(self, images, u=None, *, training=False):
        return self.dense(tf.reshape(self.observe(images, u), (-1, 192)))

    def score(self, encoding, eps, *, training=False):
        return Score(tf.reduce_sum(encoding, axis=-1), {"z": eps["z"]}, {"z": eps["z"]})

    def decode(self, latents, u=None):
        raise NotImplementedError


def test_a_score_in_bfloat16_is_refused():
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = Narrow(dtype="mixed_bfloat16")
    finally:
        keras.config.set_dtype_policy(policy)
    with pytest.raises(ModelError, match="log_px of type bfloat16; it must be float32"):
        score_layout(model)
