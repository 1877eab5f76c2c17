"""Scores of any model: names, shapes, refused scores, and several samples of an image."""

import numpy as np
import pytest
import tensorflow as tf
from tiny import TinyHierarchy

from vaedist.devices.batches import Batch
from vaedist.errors import ModelError
from vaedist.evaluation.scoring import concatenated, row_sums, score, score_layout
from vaedist.models import VAE
from vaedist.models.flows.options import IAFOptions
from vaedist.models.mlp.options import MLPOptions
from vaedist.models.preprocessing import Dequantised, Dynamic
from vaedist.objectives.elbo import bound

SHAPE = (4, 6, 3)
SMALL = MLPOptions(hidden=8, latent=5, likelihood="gaussian", flow=IAFOptions(depth=2, width=7))
MODELS = {
    "mlp": (VAE, {"options": SMALL, "preprocessing": Dequantised()}),
    "hierarchy": (TinyHierarchy, {"preprocessing": Dynamic()}),
}


def normal(*shape, seed=0, dtype="float32"):
    return tf.constant(np.random.default_rng(seed).normal(size=shape), dtype)


def pixels(count):
    rng = np.random.default_rng(1)
    return rng.integers(0, 256, (count, *SHAPE), np.uint8), tf.constant(rng.uniform(size=(count, *SHAPE)), tf.float32)


def noise_of(model, *leading):
    return {
        name: normal(*leading, *shape, seed=i, dtype=model.compute_dtype)
        for i, (name, shape) in enumerate(model.noise.items())
    }


@pytest.mark.parametrize("name", MODELS)
def test_samples_have_the_same_scores_with_a_shared_encoding_and_without(name):
    cls, arguments = MODELS[name]

    class Copying(cls):
        broadcasts = False

    sharing, copying = (made(SHAPE, seed=3, dtype="float64", **arguments) for made in (cls, Copying))
    assert sharing.broadcasts
    copying.set_weights(sharing.get_weights())
    images, u = pixels(3)
    eps = noise_of(sharing, 3, 4)
    found, copied = (score(model, images, eps, u, samples=4) for model in (sharing, copying))
    tf.nest.assert_same_structure(found, copied)
    for a, b in zip(tf.nest.flatten(found), tf.nest.flatten(copied), strict=True):
        assert a.shape[:2] == (3, 4)
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)
    for k in range(4):
        alone = score(sharing, images, {stream: each[:, k] for stream, each in eps.items()}, u)
        for a, b in zip(tf.nest.flatten(copied), tf.nest.flatten(alone), strict=True):
            np.testing.assert_allclose(a[:, k], b, rtol=1e-9, atol=1e-9)


def test_the_layout_has_the_names_and_sizes_in_a_score():
    layout = score_layout(VAE(SHAPE, SMALL))
    assert layout.layers == {"z": 5}
    assert layout.latents == {"z": (5,)}
    assert layout.metrics == ("log_det_1", "log_det_2", "gate_1", "gate_2")
    assert (layout.size, layout.channels) == (5, {})
    assert layout.columns == ("rows", "elbo", "reconstruction", "kl", *layout.metrics)


def test_the_layout_of_several_layers_has_a_column_for_the_kl_of_each():
    model = TinyHierarchy(SHAPE)
    layout = score_layout(model)
    assert layout.layers == {"z_2": 2, "z_1": 3}
    assert layout.latents == {"z_2": (2,), "z_1": (2, 3)}
    assert layout.columns == ("rows", "elbo", "reconstruction", "kl", "kl_z_2", "kl_z_1", "away")
    assert (layout.size, layout.channels) == (8, {"z_1": 3})
    images, _ = pixels(5)
    batch = Batch(tf.constant(images), tf.constant(0), tf.constant(3), tf.range(5))
    scored = score(model, images, noise_of(model, 5), None)
    sums = dict(zip((*layout.columns, "more"), row_sums(batch, scored, layout, tf.range(5.0)).numpy(), strict=True))
    parts = bound(scored)
    expected = {
        "rows": 3, "elbo": sum(parts.elbo[:3]), "reconstruction": sum(scored.log_px[:3]), "kl": sum(parts.kl[:3]),
        "kl_z_2": np.sum(scored.kl["z_2"][:3]), "kl_z_1": np.sum(scored.kl["z_1"][:3]),
        "away": sum(scored.metrics["away"][:3]), "more": 3,
    }  # fmt: skip
    assert sums == pytest.approx({name: float(value) for name, value in expected.items()}, rel=1e-5)


def changed(**parts):
    """Model with changed parts of its score, computed by functions of the right score."""

    class Changed(TinyHierarchy):
        def score(self, encoding, eps, *, training=False):
            right = super().score(encoding, eps, training=training)
            return right._replace(**{name: part(right) for name, part in parts.items()})

    return Changed(SHAPE)


REFUSED = {
    "a likelihood by pixel": (
        {"log_px": lambda right: tf.zeros((2, 72))},
        r"score gives log_px of shape \[2, 72\] for 2 images; it must be \[B\]",
    ),
    "a likelihood of the whole batch": (
        {"log_px": lambda right: tf.reduce_sum(right.log_px)},
        r"score gives log_px of shape \[\] for 2 images; it must be \[B\]",
    ),
    "a KL without groups": (
        {"kl": lambda right: right.kl | {"z_1": tf.reduce_sum(right.kl["z_1"], axis=-1)}},
        r"score gives kl\['z_1'\] of shape \[2\] for 2 images; it must be \[B, groups\]",
    ),
    "a KL of the whole batch": (
        {"kl": lambda right: {"z": tf.constant(1.0)}},
        r"score gives kl\['z'\] of shape \[\] for 2 images; it must be \[B, groups\]",
    ),
    "a KL by place and channel": (
        {"kl": lambda right: right.kl | {"z_1": right.latents["z_1"]}},
        r"score gives kl\['z_1'\] of shape \[2, 2, 3\] for 2 images; it must be \[B, groups\]",
    ),
    "no KL": ({"kl": lambda right: {}}, r"score gives no KL divergence; kl must have one or more stochastic layers"),
    "a metric by unit": (
        {"metrics": lambda right: {"mu": right.latents["z_2"]}},
        r"score gives metrics\['mu'\] of shape \[2, 2\] for 2 images; it must be \[B\]",
    ),
    "a metric with the name of a column": (
        {"metrics": lambda right: {"elbo": right.log_px}},
        r"score gives a metric the name 'elbo', which vaedist uses itself; choose another",
    ),
    "a metric with the name of a layer's KL": (
        {"metrics": lambda right: {"kl_z_1": right.log_px}},
        r"score gives a metric the name 'kl_z_1', which vaedist uses itself; choose another",
    ),
    "latents of the whole batch": (
        {"latents": lambda right: right.latents | {"z_2": tf.zeros(())}},
        r"score gives latents\['z_2'\] of shape \[\] for 2 images; it must be \[B, \.\.\.\]",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_score_that_does_not_fit_is_refused_in_one_line(case):
    parts, message = REFUSED[case]
    with pytest.raises(ModelError, match=f"^model Changed: {message}$") as refused:
        score_layout(changed(**parts))
    assert "\n" not in str(refused.value)


def test_a_hierarchy_that_cannot_be_given_layers_is_refused_in_one_line():
    class Ungiven(TinyHierarchy):
        def generate(self, eps, u=None, temperature=1.0):
            return super().generate(eps, u, temperature)

    with pytest.raises(ModelError, match=r"^model Ungiven: generate does not accept the argument 'given', which") as e:
        score_layout(Ungiven(SHAPE))
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("leading", [(4,), (4, 3)])
def test_layers_are_concatenated_in_order(leading):
    parts = {"b": normal(*leading, 2, 3), "a": normal(*leading, 4, seed=1), "c": normal(*leading, 1, 2, 2, seed=2)}
    found = concatenated(parts, axes=len(leading)).numpy()
    flat = [part.numpy().reshape(*leading, -1) for part in parts.values()]
    np.testing.assert_array_equal(found, np.concatenate(flat, axis=-1))
    np.testing.assert_array_equal(concatenated({"a": parts["a"]}, axes=len(leading)), parts["a"])
