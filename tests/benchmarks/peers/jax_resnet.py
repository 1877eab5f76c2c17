"""JAX: one compiled step, whose buffers are donated, with convolutions of [B, H, W, C], and Adamax by optax."""

from functools import partial

import common
import jax
import jax.numpy as jnp
import numpy as np
import optax
import resnet
from common import LOG_2PI, batch, images
from jax import lax
from resnet import BLOCKS, DOWN, LEVEL, RESIDUAL, SIDE, TOP_UP, UP

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
MASKED = ((0, 1), (1, 1))  # padding of masked kernels
masks = {name: resnet.mask(name, shape) for name, shape in resnet.shapes().items()}
weights = jax.tree.map(jnp.asarray, {"top": np.full(resnet.WIDTH, 0.1, np.float32), **resnet.initial_weights()})
optimizer = optax.adamax(resnet.RATE, resnet.BETA_1, resnet.BETA_2, resnet.EPSILON)


def kernel(weights, name):
    """Returns a weight-normalised kernel, with masked weights at 0."""
    direction, log_scale, _ = weights[name]
    if masks[name] is not None:
        direction = direction * masks[name]
    return jnp.exp(log_scale) * direction * lax.rsqrt((direction**2).sum((0, 1, 2)))


def convolve(weights, name, x, stride=1, padding="SAME"):
    """Returns a weight-normalised convolution of x."""
    y = lax.conv_general_dilated(x, kernel(weights, name), (stride, stride), padding, dimension_numbers=DIMENSIONS)
    return y + weights[name][2]


def split(values, sizes):
    """Splits channels into parts."""
    return jnp.split(values, np.cumsum(sizes)[:-1], axis=-1)


def log_normal(x, mu, log_sigma):
    """Returns the log-density of a normal distribution by component."""
    return -0.5 * (((x - mu) * jnp.exp(-log_sigma)) ** 2 + LOG_2PI) - log_sigma


def flow(weights, block, z, context):
    """Returns the flow's z and the contributions to its log-determinant."""
    y = z
    for layer in range(resnet.LAYERS):
        y = convolve(weights, f"hidden_{block}_{layer}", y, padding=MASKED)
        y = jax.nn.elu(y if layer else y + context)
    out = convolve(weights, f"flow_{block}", y, padding=MASKED)
    m, s = jnp.split(resnet.PARAMETER_SCALE * out, 2, axis=-1)
    return (z - m) * jnp.exp(-s), -s


def log_likelihood(raw, x):
    """Returns the log-probability of the levels of an image's pixels."""
    mu, log_s = jnp.split(raw, 2, axis=-1)
    mu, log_s = mu + 0.5, jnp.clip(log_s - 2.0, -20.0, 20.0)
    inverse = jnp.exp(-log_s)
    centred, half = (x - mu) * inverse, 0.5 * LEVEL * inverse
    first, last = x < LEVEL, x > 1 - LEVEL
    below = jnp.where(last, 0.0, jax.nn.log_sigmoid(centred + half))
    above = jnp.where(first, 0.0, jax.nn.log_sigmoid(half - centred))
    within = jnp.where(first | last, 0.0, jnp.log(-jnp.expm1(-2 * half)))
    return (below + above + within).sum((1, 2, 3))


def loss_of(weights, raw, key):
    """Returns the negative ELBO of a batch with free bits, in nats per image."""
    x = (raw.astype(jnp.float32) + 0.5) / 256
    h, parts = convolve(weights, "stem", x - 0.5, stride=2), []
    for block in range(BLOCKS):
        values = convolve(weights, f"up_in_{block}", jax.nn.elu(h))
        *part, context = split(values, TOP_UP if block == BLOCKS - 1 else UP)[:3]
        parts.append((*part, context))
        if block < BLOCKS - 1:
            h = h + RESIDUAL * convolve(weights, f"up_out_{block}", jax.nn.elu(split(values, UP)[3]))
    h, penalty = jnp.broadcast_to(weights["top"], (1, SIDE // 2, SIDE // 2, resnet.WIDTH)), 0.0
    for block, each in reversed(list(enumerate(jax.random.split(key, BLOCKS)))):
        up_mu, up_log_sigma, up_context = parts[block]
        values = convolve(weights, f"down_in_{block}", jax.nn.elu(h))
        prior_mu, prior_log_sigma, mu, log_sigma, context, features = split(values, DOWN)
        mu, log_sigma = mu + up_mu, log_sigma + up_log_sigma
        eps = jax.random.normal(each, mu.shape)
        z, log_det = flow(weights, block, mu + jnp.exp(log_sigma) * eps, context + up_context)
        log_q = -0.5 * (eps**2 + LOG_2PI) - log_sigma - log_det
        kl = (log_q - log_normal(z, prior_mu, prior_log_sigma)).sum((1, 2)).mean(0)
        penalty += jnp.maximum(kl, resnet.FREE_BITS).sum()
        features = jnp.broadcast_to(features, (*z.shape[:-1], features.shape[-1]))
        update = convolve(weights, f"down_out_{block}", jax.nn.elu(jnp.concatenate([z, features], -1)))
        h = h + RESIDUAL * update
    raw = lax.conv_transpose(jax.nn.elu(h), kernel(weights, "head"), (2, 2), "SAME", dimension_numbers=DIMENSIONS)
    return penalty - log_likelihood(raw + weights["head"][2], x).mean()


@partial(jax.jit, donate_argnums=(0, 1, 2))
def train(weights, state, average, raw, key):
    """Makes one step of Adamax, and updates the average of the weights."""
    loss, gradients = jax.value_and_grad(loss_of)(weights, raw, key)
    updates, state = optimizer.update(gradients, state)
    weights = optax.apply_updates(weights, updates)
    return weights, state, optax.incremental_update(weights, average, 1 - resnet.EMA_DECAY), loss


held = [weights, optimizer.init(weights), jax.tree.map(jnp.zeros_like, weights), jax.random.key(0)]
pictures = images.reshape(-1, SIDE, SIDE, resnet.COLORS)


def take_pass():
    """Trains over all images, step by step."""
    loss = 0.0
    for start in range(0, len(pictures), batch):
        held[3], key = jax.random.split(held[3])
        *held[:3], loss = train(*held[:3], pictures[start : start + batch], key)
    return loss


common.run(take_pass)
