"""JAX: one compiled step with donated buffers, and optax's Adam."""

from functools import partial

import common
import jax
import jax.numpy as jnp
import numpy as np
import optax
from common import BETA_1, BETA_2, EPSILON, GATE_BIAS, HIDDEN, LATENTS, LOG_2PI, PIXELS, RATE, batch, images

rng = np.random.default_rng(0)


def dense(inputs, outputs):
    """Returns a kernel and a bias."""
    return jnp.asarray(common.glorot(rng, inputs, outputs)), jnp.zeros(outputs)


weights = {
    "encoder": dense(PIXELS, HIDDEN),
    "parameters": dense(HIDDEN, 3 * LATENTS),
    "flow": [(dense(LATENTS, HIDDEN), dense(LATENTS, HIDDEN), dense(HIDDEN, 2 * LATENTS)) for _ in range(common.STEPS)],
    "decoder": dense(LATENTS, HIDDEN),
    "pixels": dense(HIDDEN, PIXELS),
}
mask_in, mask_out = map(jnp.asarray, common.masks())
optimizer = optax.adam(RATE, BETA_1, BETA_2, EPSILON)


def negative_elbo(w, raw, key):
    """Returns the loss of a batch, in nats per image."""
    x = raw.astype(jnp.float32) / 255.0
    hidden = jnp.tanh(x @ w["encoder"][0] + w["encoder"][1])
    mu, log_sigma, context = jnp.split(hidden @ w["parameters"][0] + w["parameters"][1], 3, axis=-1)
    eps = jax.random.normal(key, mu.shape)
    z = mu + jnp.exp(log_sigma) * eps
    log_q = (-0.5 * (eps**2 + LOG_2PI) - log_sigma).sum(-1)
    for (kernel, bias), (into, shift), (out, offset) in w["flow"]:
        units = jnp.tanh(z @ (kernel * mask_in) + bias + context @ into + shift)
        m, s = jnp.split(units @ (out * mask_out) + offset, 2, axis=-1)
        gate = jax.nn.sigmoid(s + GATE_BIAS)
        log_q -= jax.nn.log_sigmoid(s + GATE_BIAS).sum(-1)
        z = (gate * z + (1.0 - gate) * m)[:, ::-1]
    logits = jnp.tanh(z @ w["decoder"][0] + w["decoder"][1]) @ w["pixels"][0] + w["pixels"][1]
    log_px = -optax.sigmoid_binary_cross_entropy(logits, x).sum(-1)
    log_pz = (-0.5 * (z**2 + LOG_2PI)).sum(-1)
    return (log_q - log_pz - log_px).mean()


@partial(jax.jit, donate_argnums=(0, 1))
def train(weights, state, raw, key):
    """Makes one step of Adam."""
    loss, gradients = jax.value_and_grad(negative_elbo)(weights, raw, key)
    updates, state = optimizer.update(gradients, state)
    return optax.apply_updates(weights, updates), state, loss


held = [weights, optimizer.init(weights), jax.random.key(0)]


def take_pass():
    """Trains over all images, step by step."""
    loss = 0.0
    for start in range(0, len(images), batch):
        held[2], key = jax.random.split(held[2])
        held[0], held[1], loss = train(held[0], held[1], images[start : start + batch], key)
    return loss


common.run(take_pass)
