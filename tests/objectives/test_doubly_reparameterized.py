"""The doubly reparameterized gradient (Tucker et al. 2019): its formula, its mean, its variance, and its limits."""

import numpy as np
import pytest
import tensorflow as tf
from mlp_vae import vae
from small_models import Layered, OwnSample, Plain

from vaedist.devices.batches import Batch
from vaedist.devices.compilation import compiled
from vaedist.errors import ModelError
from vaedist.models.rng import POSTERIOR, row_noise
from vaedist.objectives.objective import Objective
from vaedist.training.batch_gradient import BatchGradient, ReplicaVariables

SEED, K = 2, 4
IMAGE = np.random.default_rng(3).integers(0, 256, (1, 2, 2, 1), dtype=np.uint8)
DRAWS = 10_000


def made(model, gradient, images, **options):
    """Returns the gradient of -L / rows at the noise of a step, as a function of the step."""
    objective = Objective(samples=K, gradient=gradient, **options)
    rows = len(images)
    taken = BatchGradient(model, objective, global_batch=rows, accumulation_steps=1, kernel_first=False, seed=SEED)
    variables = ReplicaVariables([weight.value for weight in model.trainable_variables], [])
    batch = Batch(tf.constant(images), tf.constant(0, tf.int64), tf.constant(rows), tf.range(rows, dtype=tf.int64))
    return lambda step: taken(variables, batch, step)[0]


def perturbed(model, scale=0.7):
    """Returns the model with other weights, so that its posterior is not the true one."""
    rng = np.random.default_rng(4)
    for weight in model.trainable_variables:
        weight.assign(rng.normal(0, scale, weight.shape))
    return model


@pytest.mark.parametrize(
    "make", [Plain, lambda shape: vae(shape, hidden=6, latent=3, flow_depth=0)], ids=["repeated", "broadcast"]
)
@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_it_is_the_formula(make, beta):
    """sum_k f_k w_k d log w_k/dz_k dz_k/d(mu, log_sigma), with f_k = w_k, or 1 - beta (1 - w_k) in the warm-up."""
    images = np.random.default_rng(0).integers(0, 256, (5, 2, 2, 1), dtype=np.uint8)
    model = perturbed(make((2, 2, 1)))
    # Update number 1 of a warm-up of 4 has beta = 1/2.
    options = {} if beta == 1 else {"warmup": 4}
    found = compiled(made(model, "dreg", images, **options))(tf.constant(1, tf.int64))
    eps = row_noise(SEED, POSTERIOR, tf.constant(1, tf.int64), 0, 5, model.noise, K)["z"].numpy().astype(np.float64)
    kernel1, bias1, kernel2, bias2, *decoder = (w.numpy().astype(np.float64) for w in model.trainable_variables)
    x = images.reshape(5, -1) / 255.0
    h = np.tanh(x @ kernel1 + bias1)
    mu, log_sigma = np.split((h @ kernel2 + bias2)[:, None], 2, axis=-1)
    sigma = np.exp(log_sigma)
    z = mu + sigma * eps
    y, slopes = z, []  # the decoder's logits, and their derivatives by z
    for kernel, bias in zip(decoder[::2], decoder[1::2], strict=True):
        y = y @ kernel + bias
        if kernel is not decoder[-2]:
            y = np.tanh(y)
            slopes.append((kernel, 1 - y**2))
        else:
            slopes.append((kernel, None))
    log_px = np.sum(x[:, None] * y - np.logaddexp(0, y), axis=-1)
    back = x[:, None] - 1 / (1 + np.exp(-y))
    for kernel, slope in reversed(slopes):
        back = (back if slope is None else back * slope) @ kernel.T
    log_w = log_px + beta * np.sum(-0.5 * z**2 + 0.5 * eps**2 + log_sigma, axis=-1)
    d_log_w = back + beta * (-z + eps / sigma)  # - log q has the slope (z - mu) / sigma^2
    w = np.exp(log_w - log_w.max(axis=1, keepdims=True))
    w /= w.sum(axis=1, keepdims=True)
    dz = (w * (1 - beta * (1 - w)))[..., None] * d_log_w
    outputs = np.concatenate([dz.sum(axis=1), (dz * sigma * eps).sum(axis=1)], axis=-1)
    into_hidden = outputs @ kernel2.T * (1 - h**2)
    expected = [x.T @ into_hidden, into_hidden.sum(0), h.T @ outputs, outputs.sum(0)]
    for weight, gradient, exact in zip(model.trainable_variables, found, expected, strict=False):
        np.testing.assert_allclose(
            gradient, -exact / 5, rtol=1e-4, atol=1e-5 * np.abs(exact).max(), err_msg=weight.path
        )


def moments(model, gradient, **options):
    """Returns mean and variance of each weight's gradient over `DRAWS` steps' noise, in one compiled loop."""
    one = made(model, gradient, IMAGE, **options)

    @compiled
    def summed():
        def add(step, total, squares):
            found = tf.cast(tf.concat([tf.reshape(part, [-1]) for part in one(step)], 0), tf.float64)
            return step + 1, total + found, squares + tf.square(found)

        size = sum(weight.shape.num_elements() for weight in model.trainable_variables)
        start = tf.constant(10, tf.int64), tf.zeros(size, tf.float64), tf.zeros(size, tf.float64)
        return tf.while_loop(lambda step, *_: step < 10 + DRAWS, add, start)[1:]

    total, squares = (part.numpy() for part in summed())
    mean = total / DRAWS
    return mean, squares / DRAWS - mean**2


def deep():
    return vae((2, 2, 1), hidden=5, latent=2, flow_depth=2, flow_width=5)


CASES = {
    "no flow": (lambda: vae((2, 2, 1), hidden=5, latent=2, flow_depth=0), {}),
    "flow": (deep, {}),
    "flow in the warm-up": (deep, {"warmup": 50_000}),  # beta from 0 to 1/5
}


@pytest.mark.parametrize("case", CASES)
def test_it_has_the_mean_of_the_plain_gradient_and_less_variance(case):
    make, options = CASES[case]
    model = perturbed(make(), 0.3)  # near 0, as in training: far from the true posterior the variance may be larger
    for product in model.products:
        product.clear_masked()
    (plain, variance), (doubly, variance_2) = (moments(model, gradient, **options) for gradient in ("plain", "dreg"))
    names = np.concatenate([np.full(weight.shape.num_elements(), weight.path) for weight in model.trainable_variables])
    apart = np.abs(doubly - plain) / np.sqrt((variance + variance_2) / DRAWS + 1e-20)
    # The noise of both is the same, so that their difference is less than independent draws would give.
    assert (apart < 4).all(), (names[apart >= 4], apart.max())
    assert (np.abs(plain) > 4 * np.sqrt(variance / DRAWS)).mean() > 0.5  # otherwise the test proves nothing
    encoder = np.char.find(names.astype(str), "encoder") >= 0
    assert encoder.any()
    assert variance_2[encoder].sum() < 0.6 * variance[encoder].sum()
    decoder = np.char.find(names.astype(str), "decoder") >= 0
    np.testing.assert_allclose(doubly[decoder], plain[decoder], rtol=1e-3, atol=1e-5)


def test_of_one_sample_only_the_path_is_left():
    """sum_k w_k^2 d log w_k/dz_k dz_k/d phi with w_1 = 1: the gradient of Roeder et al. 2017."""
    model = perturbed(vae((2, 2, 1), hidden=5, latent=2, flow_depth=0))
    objective = Objective(gradient="dreg")
    assert not objective.is_elbo
    assert objective.drawn == 1
    taken = BatchGradient(model, objective, global_batch=1, accumulation_steps=1, kernel_first=False, seed=SEED)
    variables = ReplicaVariables([weight.value for weight in model.trainable_variables], [])
    batch = Batch(tf.constant(IMAGE), tf.constant(0, tf.int64), tf.constant(1), tf.zeros(1, tf.int64))
    gradients, sums = taken(variables, batch, tf.constant(0, tf.int64))
    assert all(np.isfinite(part).all() for part in gradients)
    assert sums[1] == sums[-1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Layered, r"model Layered has 2 streams of noise and draws 2 samples .*; objective.gradient = 'dreg' "),
        (OwnSample, r"model OwnSample has 1 stream of noise and draws 0 samples by .*sample_normal; "),
    ],
    ids=["layers", "own sample"],
)
def test_a_model_that_it_would_not_be_right_for_is_refused(make, message):
    model = make()
    settings = {"global_batch": 4, "accumulation_steps": 1, "kernel_first": False, "seed": 0}
    BatchGradient(model, Objective(samples=K), **settings)
    with pytest.raises(ModelError, match=message) as error:
        BatchGradient(model, Objective(samples=K, gradient="dreg"), **settings)
    assert "\n" not in str(error.value)
