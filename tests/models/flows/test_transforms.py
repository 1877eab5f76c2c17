"""The transforms of a flow step: numbers by hand, derivatives by autograd, inverses, and values at the edge."""

import numpy as np
import pytest
import tensorflow as tf

from vaedist.models.flows.transforms import Affine, Gated, Location, make_transform

TRANSFORMS = [Gated(2.0), Gated(-1.0), Affine(), Location()]


def parameters(transform, *shape, seed=0):
    rng = np.random.default_rng(seed)
    return [tf.constant(rng.normal(size=shape)) for _ in range(transform.parameters)]


def test_each_transform_matches_its_formula():
    z, m, s = 3.0, -2.0, 0.7
    gate = 1 / (1 + np.exp(-(s + 2.0)))
    expected = {
        Gated(2.0): (gate * z + (1 - gate) * m, np.log(gate)),
        Affine(): ((z - m) / np.exp(s), -s),
        Location(): (z + m, 0.0),
    }
    for transform, (moved, log_scale) in expected.items():
        arguments = [tf.constant([v], tf.float64) for v in (m, s)[: transform.parameters]]
        found = transform.forward(tf.constant([z], tf.float64), *arguments)
        np.testing.assert_allclose(np.ravel(found), [moved, log_scale], rtol=1e-12)


@pytest.mark.parametrize("transform", TRANSFORMS, ids=repr)
def test_log_scale_is_the_logarithm_of_the_derivative(transform):
    z, numbers = tf.constant(np.linspace(-3, 3, 11)), parameters(transform, 11)
    with tf.GradientTape() as tape:
        tape.watch(z)
        moved, log_scale = transform.forward(z, *numbers)
    np.testing.assert_allclose(np.log(tape.gradient(moved, z)), log_scale, atol=1e-12)


@pytest.mark.parametrize("transform", TRANSFORMS, ids=repr)
def test_the_inverse_undoes_it(transform):
    z, numbers = tf.constant(np.linspace(-3, 3, 11)), parameters(transform, 11)
    np.testing.assert_allclose(transform.inverse(transform.forward(z, *numbers)[0], *numbers), z, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("logit", [-1e4, -100.0, 0.0, 100.0, 1e4])
def test_a_gated_step_is_finite_for_any_logit_and_so_are_its_gradients(logit, dtype):
    z, m, s = (tf.constant([[v]], dtype) for v in (3.0, -2.0, logit))
    with tf.GradientTape() as tape:
        tape.watch([z, m, s])
        out, log_gate = Gated(0.0).forward(z, m, s)
        total = tf.reduce_sum(out) + tf.reduce_sum(log_gate)
    for value in (out, log_gate, *tape.gradient(total, [z, m, s])):
        assert np.isfinite(value).all()
    assert log_gate.numpy().item() == pytest.approx(min(logit, 0), abs=0.7)
    assert -2 <= out.numpy().item() <= 3


def test_transforms_are_found_by_name():
    assert make_transform("gated", 1.5) == Gated(1.5)
    assert make_transform("affine") == Affine()
    assert make_transform("location") == Location()
