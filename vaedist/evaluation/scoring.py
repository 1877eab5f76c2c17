"""Batches, and a model's sums over their real rows: what the training step and the test pass have in common."""

from typing import Any, NamedTuple

import tensorflow as tf

from vaedist.models import VAE, VAEOutput
from vaedist.models.rng import OBSERVATION, pixel_uniform, row_uniform
from vaedist.objectives.elbo import bound


class Batch(NamedTuple):
    """A replica's part of one global batch.

    images [Q, D], uint8; first_row, number of the first one within the global batch; count, how many are real;
    numbers [Q], int64, of the rows in their split.
    """

    images: Any
    first_row: Any
    count: Any
    numbers: Any

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


def evaluation_noise(model: VAE, numbers: Any) -> Any:
    """Noise of the pixels of some rows of a split, [B, D], in every test pass, evaluation and picture; or None."""
    return pixel_uniform(numbers, model.pixels) if model.noisy else None


def training_noise(model: VAE, seed: int, step: Any, first_row: Any, numbers: Any) -> Any:
    """Noise of the pixels in a training step, [B, D]: drawn afresh, unless binarisation is fixed; or None."""
    if not model.noisy or model.observation.fixed:
        return evaluation_noise(model, numbers)
    return row_uniform(seed, OBSERVATION, step, first_row, numbers.shape[0], model.pixels)


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
