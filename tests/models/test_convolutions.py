"""Convolutions against TensorFlow's own, and their gradients against automatic differentiation."""

from contextlib import nullcontext

import numpy as np
import pytest
import tensorflow as tf

from vaedist.models.convolutions import convolve, convolve_half, in_loop, over_images, transposed_double


def normal(*shape, seed=0):
    return tf.constant(np.random.default_rng(seed).normal(size=shape))


@pytest.fixture(params=["alone", "in a loop"], autouse=True)
def place(request):
    """Traces the convolutions of each test outside and inside of loops."""
    with in_loop() if request.param == "in a loop" else nullcontext():
        yield request.param


def assert_same(ours, theirs, x, kernel):
    """Compares two functions of an image and a kernel, and their gradients, in float64."""
    with tf.GradientTape(persistent=True) as tape:
        tape.watch((x, kernel))
        found, expected = ours(x, kernel), theirs(x, kernel)
        weights = normal(*expected.shape, seed=2)
        scores = [tf.reduce_sum(weights * y) for y in (found, expected)]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    for mine, autodiff in zip(*(tape.gradient(score, (x, kernel)) for score in scores), strict=True):
        np.testing.assert_allclose(mine, autodiff, atol=1e-11)


@pytest.mark.parametrize("size", [(3, 3), (5, 5), (1, 1), (2, 3)])
def test_the_size_is_kept_as_by_same(size):
    x, kernel = normal(2, 6, 5, 3), normal(*size, 3, 4, seed=1)
    assert_same(convolve, lambda x, kernel: tf.nn.conv2d(x, kernel, 1, "SAME"), x, kernel)


@pytest.mark.parametrize("padding", [((0, 1), (1, 1)), ((1, 0), (1, 1)), ((0, 0), (0, 0))])
def test_padding(padding):
    x, kernel = normal(2, 6, 5, 3), normal(2, 3, 3, 4, seed=1)
    pads = [[0, 0], *map(list, padding), [0, 0]]
    assert_same(lambda *two: convolve(*two, padding), lambda *two: tf.nn.conv2d(*two, 1, pads), x, kernel)


@pytest.mark.parametrize("size", [1, 3, 5, 7])
def test_stride_2(size):
    x, kernel = normal(2, 6, 8, 3), normal(size, size, 3, 4, seed=1)
    assert_same(convolve_half, lambda x, kernel: tf.nn.conv2d(x, kernel, 2, "SAME"), x, kernel)


@pytest.mark.parametrize("size", [1, 3, 5, 7])
def test_transposed_stride_2(size):
    x, kernel = normal(2, 3, 4, 3), normal(size, size, 3, 4, seed=1)

    def theirs(x, kernel):
        return tf.nn.conv2d_transpose(x, tf.transpose(kernel, (0, 1, 3, 2)), (2, 6, 8, 4), 2, "SAME")

    assert_same(transposed_double, theirs, x, kernel)


def test_the_gradient_of_the_kernel_is_made_of_products_only_in_a_loop(place):
    def gradients(x, kernel):
        with tf.GradientTape() as tape:
            tape.watch((x, kernel))
            score = tf.reduce_sum(convolve(x, kernel) ** 2)
        return tape.gradient(score, (x, kernel))

    function = tf.function(gradients).get_concrete_function(normal(2, 6, 5, 3), normal(3, 3, 3, 4))
    kinds = {operation.type for operation in function.graph.get_operations()}
    assert "Conv2DBackpropInput" not in kinds
    assert ("Conv2DBackpropFilter" in kinds) == (place == "alone")


def test_the_number_of_images_may_be_unknown_when_a_function_is_traced():
    kernel, images = normal(3, 3, 3, 4, seed=1), normal(2, 5, 4, 6, 3)
    found = tf.function(
        lambda x: over_images(lambda flat: convolve(flat, kernel), x),
        input_signature=[tf.TensorSpec((None, 5, 4, 6, 3), tf.float64)],
        autograph=False,
    )(images)
    expected = tf.reshape(tf.nn.conv2d(tf.reshape(images, (10, 4, 6, 3)), kernel, 1, "SAME"), (2, 5, 4, 6, 4))
    np.testing.assert_allclose(found, expected, atol=1e-12)
