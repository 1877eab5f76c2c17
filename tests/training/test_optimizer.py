"""Adam against Keras's."""

import numpy as np
import tensorflow as tf

import vaedist.model  # noqa: F401 - chooses Keras's backend
from vaedist.training.optimizer import Adam

import keras  # isort: skip


def test_adam_makes_the_steps_that_keras_makes():
    rng = np.random.default_rng(0)
    start = rng.normal(size=(5, 3)).astype(np.float32)
    reference = keras.Variable(start)
    theirs, ours = keras.optimizers.Adam(0.01), Adam(0.01)
    weight, m, v = tf.constant(start), tf.zeros((5, 3)), tf.zeros((5, 3))
    for step in range(50):
        gradient = tf.constant(rng.normal(scale=10.0 ** (step % 5 - 2), size=(5, 3)), tf.float32)
        theirs.apply([gradient], [reference])
        weight, m, v = ours.update(ours.rate(tf.constant(step)), weight, gradient, m, v)
    np.testing.assert_allclose(weight, reference.numpy(), rtol=1e-5, atol=1e-6)
