"""TensorFlow: variables, XLA, and several steps per call; the fastest that a framework on it can be."""

import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import common
import numpy as np
import tensorflow as tf
from common import BETA_1, BETA_2, EPSILON, GATE_BIAS, HIDDEN, LATENTS, LOG_2PI, PIXELS, RATE, batch, images

STEPS_A_CALL = 8
rng, weights = np.random.default_rng(0), []


def dense(inputs, outputs):
    """Returns a kernel and a bias."""
    pair = tf.Variable(common.glorot(rng, inputs, outputs)), tf.Variable(np.zeros(outputs, np.float32))
    weights.extend(pair)
    return pair


encoder, parameters = dense(PIXELS, HIDDEN), dense(HIDDEN, 3 * LATENTS)
flow = [(dense(LATENTS, HIDDEN), dense(LATENTS, HIDDEN), dense(HIDDEN, 2 * LATENTS)) for _ in range(common.STEPS)]
decoder, pixels = dense(LATENTS, HIDDEN), dense(HIDDEN, PIXELS)
mask_in, mask_out = map(tf.constant, common.masks())
first, second = ([tf.Variable(tf.zeros_like(w)) for w in weights] for _ in range(2))
taken = tf.Variable(0, dtype=tf.int64)


def negative_elbo(raw, step):
    """Returns the loss of a batch, in nats per image."""
    x = tf.cast(raw, tf.float32) / 255.0
    hidden = tf.tanh(x @ encoder[0] + encoder[1])
    mu, log_sigma, context = tf.split(hidden @ parameters[0] + parameters[1], 3, axis=-1)
    eps = tf.random.stateless_normal((batch, LATENTS), tf.stack([tf.constant(0, tf.int64), step]))
    z = mu + tf.exp(log_sigma) * eps
    log_q = tf.reduce_sum(-0.5 * (eps**2 + LOG_2PI) - log_sigma, axis=-1)
    for (kernel, bias), (into, shift), (out, offset) in flow:
        units = tf.tanh(z @ (kernel * mask_in) + bias + context @ into + shift)
        m, s = tf.split(units @ (out * mask_out) + offset, 2, axis=-1)
        gate = tf.sigmoid(s + GATE_BIAS)
        log_q -= tf.reduce_sum(tf.math.log_sigmoid(s + GATE_BIAS), axis=-1)
        z = (gate * z + (1.0 - gate) * m)[:, ::-1]
    logits = tf.tanh(z @ decoder[0] + decoder[1]) @ pixels[0] + pixels[1]
    log_px = -tf.reduce_sum(tf.nn.sigmoid_cross_entropy_with_logits(labels=x, logits=logits), axis=-1)
    log_pz = tf.reduce_sum(-0.5 * (z**2 + LOG_2PI), axis=-1)
    return tf.reduce_mean(log_q - log_pz - log_px)


@tf.function(jit_compile=True)
def train(batches):
    """Makes several steps of Adam in one call."""
    loss = tf.constant(0.0)
    for k in tf.range(STEPS_A_CALL):
        with tf.GradientTape() as tape:
            loss = negative_elbo(batches[k], taken)
        gradients = tape.gradient(loss, weights)
        taken.assign_add(1)
        t = tf.cast(taken, tf.float32)
        rate = RATE * tf.sqrt(1.0 - BETA_2**t) / (1.0 - BETA_1**t)
        for w, m, v, g in zip(weights, first, second, gradients, strict=True):
            m.assign(BETA_1 * m + (1.0 - BETA_1) * g)
            v.assign(BETA_2 * v + (1.0 - BETA_2) * g * g)
            w.assign_sub(rate * m / (tf.sqrt(v) + EPSILON))
    return loss


def take_pass():
    """Trains over all images, call by call."""
    a_call, loss = batch * STEPS_A_CALL, 0.0
    for start in range(0, len(images) - a_call + 1, a_call):
        loss = train(tf.constant(images[start : start + a_call].reshape(STEPS_A_CALL, batch, PIXELS)))
    return loss


common.images = images[: len(images) // (batch * STEPS_A_CALL) * batch * STEPS_A_CALL]
common.run(take_pass)
