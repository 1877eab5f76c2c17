"""Keras: layers and one `tf.function` per step, with tf.data, as in textbooks; the flow has plain networks."""

import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import common
import keras
import tensorflow as tf
from common import GATE_BIAS, HIDDEN, LATENTS, LOG_2PI, PIXELS, RATE, batch, images


def network(inputs, *outputs):
    """Returns a network with a hidden layer, and several linear layers on it."""
    entry = keras.Input((inputs,))
    hidden = keras.layers.Dense(HIDDEN, activation="tanh")(entry)
    return keras.Model(entry, [keras.layers.Dense(size)(hidden) for size in outputs])


encoder = network(PIXELS, LATENTS, LATENTS, LATENTS)
flow = [network(2 * LATENTS, LATENTS, LATENTS) for _ in range(common.STEPS)]
decoder = network(LATENTS, PIXELS)
weights = [w for part in (encoder, *flow, decoder) for w in part.trainable_variables]
optimizer = keras.optimizers.Adam(RATE)
optimizer.build(weights)


@tf.function
def train(raw):
    """Makes one step of Adam on the negative ELBO."""
    x = tf.cast(raw, tf.float32) / 255.0
    with tf.GradientTape() as tape:
        mu, log_sigma, context = encoder(x)
        eps = tf.random.normal(tf.shape(mu))
        z = mu + tf.exp(log_sigma) * eps
        log_q = tf.reduce_sum(-0.5 * (eps**2 + LOG_2PI) - log_sigma, axis=-1)
        for step in flow:
            m, s = step(tf.concat([z, context], axis=-1))
            gate = tf.sigmoid(s + GATE_BIAS)
            log_q -= tf.reduce_sum(tf.math.log_sigmoid(s + GATE_BIAS), axis=-1)
            z = gate * z + (1.0 - gate) * m
        logits = decoder(z)
        log_px = -tf.reduce_sum(tf.nn.sigmoid_cross_entropy_with_logits(labels=x, logits=logits), axis=-1)
        log_pz = tf.reduce_sum(-0.5 * (z**2 + LOG_2PI), axis=-1)
        loss = tf.reduce_mean(log_q - log_pz - log_px)
    optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
    return loss


data = tf.data.Dataset.from_tensor_slices(images).batch(batch)


def take_pass():
    """Trains over all images, step by step."""
    loss = tf.constant(0.0)
    for raw in data:
        loss = train(raw)
    return loss


common.run(take_pass)
