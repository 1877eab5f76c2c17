"""The gated convolutional VAE: against TensorFlow's convolutions, and with any flow, likelihood and size of image."""

import numpy as np
import pytest
import tensorflow as tf

from vaedist.evaluation.scoring import score
from vaedist.models.conv.model import ConvVAE
from vaedist.models.conv.options import ConvOptions

SIZES = {"width": 3, "hidden": 7, "latent": 4}


def make_model(shape=(8, 12, 1), dtype="float64", **options):
    return ConvVAE(shape, ConvOptions(**{**SIZES, **options}), seed=3, dtype=dtype)


def images_of(shape, count=2):
    return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)


def gated(y):
    a, b = tf.split(y, 2, axis=-1)
    return a / (1 + tf.exp(-b))


def test_the_networks_are_those_of_the_paper():
    model = make_model()
    for variable in model.trainable_variables:
        variable.assign(np.random.default_rng(variable.shape[0]).normal(0, 0.3, variable.shape))
    weights = {variable.path.removeprefix("vae/"): tf.constant(variable.numpy()) for variable in model.variables}

    def convolution(name, h, stride=1):
        return gated(tf.nn.conv2d(h, weights[f"{name}/kernel"], stride, "SAME") + weights[f"{name}/bias"])

    def transposed(name, h):
        kernel = tf.transpose(weights[f"{name}/kernel"], (0, 1, 3, 2))
        shape = (len(h), 2 * h.shape[1], 2 * h.shape[2], kernel.shape[2])
        return gated(tf.nn.conv2d_transpose(h, kernel, shape, 2, "SAME") + weights[f"{name}/bias"])

    def dense(name, h):
        return h @ weights[f"{name}/kernel"] + weights[f"{name}/bias"]

    images = images_of(model.image_shape)
    h = tf.cast(model.preprocessing(images), tf.float64)
    for number, stride in enumerate((1, 2, 1, 2, 1), 1):
        h = convolution(f"encoder/convolution_{number}", h, stride)
    assert h.shape == (2, 2, 3, 6)
    out = dense("encoder/out", gated(dense("encoder/hidden", tf.reshape(h, (2, -1)))))
    encoding = model.encode(images)
    np.testing.assert_allclose(tf.concat([encoding.mu, encoding.log_sigma, encoding.h], 1), out, rtol=1e-10)

    z = tf.constant(np.random.default_rng(0).normal(size=(2, 4)))
    h = tf.reshape(gated(dense("decoder/dense", z)), (2, 2, 3, 6))
    for number, doubles in enumerate((False, True, False, True, False), 1):
        h = (transposed if doubles else convolution)(f"decoder/convolution_{number}", h)
    logits = dense("decoder/out", h)
    assert logits.shape == (2, 8, 12, 1)
    np.testing.assert_allclose(model.decode({"z": z}), tf.sigmoid(logits), rtol=1e-10)


@pytest.mark.parametrize("options", [{}, {"initial_log_sigma": -2.0}])
def test_at_first_log_sigma_is_the_same_for_every_image(options):
    model = make_model(**options)
    encoding = model.encode(images_of(model.image_shape))
    np.testing.assert_array_equal(encoding.log_sigma, np.full((2, 4), options.get("initial_log_sigma", 0.0)))
    for others in (encoding.mu, encoding.h):
        assert (np.ptp(others, axis=0) > 0).all()


@pytest.mark.parametrize("likelihood", ["bernoulli", "discretized_logistic"])
@pytest.mark.parametrize("flow", [{"depth": 0}, {"depth": 2, "width": 6}])
def test_flows_and_likelihoods(likelihood, flow):
    model = make_model((8, 8, 3), likelihood=likelihood, flow={"type": "iaf", **flow})
    eps = {"z": tf.constant(np.random.default_rng(0).normal(size=(2, 3, 4)))}
    images = images_of(model.image_shape)
    together = score(model, images, eps, None, samples=3)
    for k in range(3):
        alone = score(model, images, {"z": eps["z"][:, k]}, None)
        np.testing.assert_allclose(together.log_px[:, k], alone.log_px, rtol=1e-12)
        np.testing.assert_allclose(together.kl["z"][:, k], alone.kl["z"], rtol=1e-10)


def test_sides_that_are_not_divisible_by_4_are_refused():
    with pytest.raises(ValueError, match=r"model.type = 'conv': .* divisible by 4, and they are 6x8"):
        make_model((6, 8, 3))
