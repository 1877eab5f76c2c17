"""Encoding, decoding and scoring of batches of any size, as functions of tensors.

All noise is keyed by a seed and by the number of a row: image i of a batch gets the noise of row first + i, whatever
the size of the batch. If pixels are preprocessed with noise, they get the noise of that row in every evaluation, see
`evaluation_noise`. `inspection` applies these functions to arrays, and an exported model contains them.
"""

import math
from typing import Any, NamedTuple

import tensorflow as tf
from keras import ops

from vaedist.evaluation.scoring import ScoreLayout, concatenated, evaluation_noise
from vaedist.models.model import Model, Score
from vaedist.models.rng import INSPECTION, row_noise
from vaedist.objectives.elbo import Bound, bound


class Encoded(NamedTuple):
    """A sample of q(z|x), and the distribution that it starts from.

    Attributes:
        z: the sample, [B, latents]; layers are concatenated.
        base: mean and log_sigma by layer, [B, ...], see `Model.posterior_base`; None if the model has none.
    """

    z: Any
    base: dict[str, tuple[Any, Any]] | None


def encode(model: Model, images: Any, seed: Any, first: Any) -> Encoded:
    """Returns one sample of q(z|x) for each uint8 image, [B, H, W, C]."""
    encoding, scored = _scored(model, images, seed, first)
    return Encoded(concatenated(scored.latents), model.posterior_base(encoding))


def score(model: Model, images: Any, seed: Any, first: Any) -> Bound:
    """Returns the ELBO of each uint8 image [B, H, W, C] and its parts, from one sample of z, [B] each, in nats."""
    return bound(_scored(model, images, seed, first)[1])


def decode(model: Model, layout: ScoreLayout, z: Any) -> Any:
    """Returns E[x|z], [B, H, W, C], in [0, 1], for latents [B, latents]."""
    return model.decode(by_layer(layout, z))


def pixel_noise(model: Model, images: Any, first: Any) -> Any:
    """Returns the pixel noise of evaluation for images [B, H, W, C], shaped like them; None if the model uses none."""
    return evaluation_noise(model, tf.cast(first, tf.int64) + tf.range(ops.shape(images)[0], dtype=tf.int64))


def by_layer(layout: ScoreLayout, z: Any) -> dict[str, Any]:
    """Splits latents, [B, latents], by layer."""
    parts = tf.split(z, [math.prod(shape) for shape in layout.latents.values()], axis=-1)
    shapes = zip(layout.latents.items(), parts, strict=True)
    return {name: tf.reshape(part, (-1, *shape)) for (name, shape), part in shapes}


def _scored(model: Model, images: Any, seed: Any, first: Any) -> tuple[Any, Score]:
    """Returns the encoding of images, and its score at one sample of z."""
    eps = row_noise(seed, INSPECTION, 0, first, ops.shape(images)[0], model.noise)
    encoding = model.encode(images, pixel_noise(model, images, first))
    return encoding, model.score(encoding, eps)
