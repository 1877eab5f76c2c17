"""Batches, and a model's sums over their real rows: what the training step and the test pass have in common."""

from typing import Any, NamedTuple

import tensorflow as tf

from vaedist.model import VAE, VAEOutput
from vaedist.objective import bound


class Batch(NamedTuple):
    """A replica's part of one global batch.

    images [Q, D], uint8; first_row, number of the first one within the global batch; count, how many are real.
    """

    images: Any
    first_row: Any
    count: Any

    @property
    def real(self) -> Any:
        """Which rows are not padding, [Q], boolean."""
        return tf.range(self.images.shape[0]) < self.count


def column_names(model: VAE) -> tuple[str, ...]:
    """What `row_sums` sums, in its order."""
    steps, scale = range(1, len(model.flow.networks) + 1), model.flow.transform.scale_name
    return (
        "rows", "elbo", "reconstruction", "kl", *(f"log_det_{t}" for t in steps), *(f"{scale}_{t}" for t in steps),
    )  # fmt: skip


def score(model: VAE, batch: Batch, eps: Any, noise: Any) -> VAEOutput:
    """The model's output for a batch, padding included."""
    return model(tf.reshape(batch.images, (-1, *model.image_shape)), tf.cast(eps, model.compute_dtype), noise)


def row_sums(batch: Batch, output: VAEOutput, *more: Any) -> Any:
    """Sums over the real rows of a batch: rows, elbo, its parts, log_det and scale a step, and `more`, [B]."""
    scales = output.posterior.log_scales
    columns = [
        tf.ones_like(output.log_px),
        *bound(output),
        *(tf.reduce_sum(log_scale, axis=-1) for log_scale in scales),
        *(tf.reduce_mean(tf.exp(log_scale), axis=-1) for log_scale in scales),
        *more,
    ]
    # Padding is cut out, not multiplied away: its numbers may be anything.
    return tf.stack([tf.reduce_sum(tf.where(batch.real, column, 0.0)) for column in columns])
