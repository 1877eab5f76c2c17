"""Latents and scores of images, row by row; the noise of an image depends only on the seed and its row's number."""

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import tensorflow as tf

from vaedist.devices.compilation import compiled
from vaedist.errors import ConfigError, ModelError
from vaedist.evaluation.scoring import evaluation_noise, score_encoding, score_layout
from vaedist.models.model import Model
from vaedist.models.rng import INSPECTION, numbered_noise
from vaedist.objectives.elbo import bound
from vaedist.user_code import user_code

Kind = Literal["sample", "mean", "log_sigma"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SCORES = ("elbo", "reconstruction", "kl")

MOST_ROWS = 256  # images at a time
BLOCK_BYTES = 64 << 20  # of the largest tensors of a block, see `Model.sample_bytes`


def block_rows(model: Model) -> int:
    """Returns the number of images that are computed at a time."""
    return max(1, min(MOST_ROWS, BLOCK_BYTES // model.sample_bytes))


class RowEncoder:
    """Encodes and scores rows of a split, with the noise of `Run.encode` and `Run.score` for these rows.

    Row n of a split gets the noise that `Run.encode(images, seed=seed)` gives to image n.

    Args:
        model: the model.
        seed: seed of the noise.
        kinds: latents to return, one or several: "sample" of q(z|x), and "mean" and "log_sigma" of the base of the
            posterior, see `Model.posterior_base`. None returns those that the model has.

    Attributes:
        kinds: the latents that are returned.
        sizes: number of values in each column, by name: 1 for the scores, whose columns are not arrays.
        shapes: shape of the latents of an image, by the column's name.

    Raises:
        ConfigError: a kind is unknown, or there is none.
        ModelError: the model has no mean and log_sigma.
        UserCodeError: the code of a user's model raises an exception.
    """

    def __init__(self, model: Model, *, seed: int = 0, kinds: Kind | Sequence[Kind] | None = None) -> None:
        self.model, self.seed, self.rows = model, seed, block_rows(model)
        self._layout = score_layout(model)
        base = self._base()
        if kinds is None:
            kinds = KINDS if base else ("sample",)
        kinds = (kinds,) if isinstance(kinds, str) else kinds
        if not kinds or set(kinds) - set(KINDS):
            raise ConfigError(f"latents = {list(kinds)}: must be one or several of {', '.join(KINDS)}")
        if not base and set(kinds) != {"sample"}:
            missing = " and no ".join(kind for kind in kinds if kind != "sample")
            raise ModelError(
                f"model {type(model).__name__} has no {missing}: it does not define posterior_base; only 'sample' can "
                "be encoded"
            )
        self.kinds: tuple[Kind, ...] = tuple(kind for kind in KINDS if kind in kinds)
        shapes = self._layout.latents
        self.shapes = {
            column_of(layer, kind): shapes[layer]
            for layer in shapes
            for kind in self.kinds
            if kind == "sample" or layer in base
        }
        self._block = compiled(self._encode)

    @property
    def sizes(self) -> dict[str, int]:
        """Number of latents in each column of latents, by name."""
        return {name: math.prod(shape) for name, shape in self.shapes.items()}

    def encode(self, images: np.ndarray, numbers: np.ndarray) -> dict[str, np.ndarray]:
        """Returns scores, [n], in nats, and latents, [n, latents], by column.

        Args:
            images: uint8, [n, H, W, C].
            numbers: indices of the rows in their split, [n].

        Raises:
            UserCodeError: the code of a user's model raises an exception.
        """
        with user_code(f"model {type(self.model).__name__}: it cannot encode images", mixed=True):
            blocks = [
                self._padded(images[i : i + self.rows], numbers[i : i + self.rows])
                for i in range(0, len(images), self.rows)
            ]
        return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}

    def _padded(self, images: np.ndarray, numbers: np.ndarray) -> dict[str, np.ndarray]:
        """Encodes a block that may have fewer than `rows` rows, with the program for `rows` rows."""
        count = len(images)
        if count < self.rows:
            images = np.concatenate([images, np.zeros((self.rows - count, *images.shape[1:]), np.uint8)])
            numbers = np.concatenate([numbers, np.zeros(self.rows - count, np.int64)])
        found = self._block(tf.constant(images), tf.constant(numbers, tf.int64))
        return {name: values.numpy()[:count] for name, values in found.items()}

    def _encode(self, images: Any, numbers: Any) -> dict[str, Any]:
        model = self.model
        encoding = model.encode(images, evaluation_noise(model, numbers))
        eps = numbered_noise(self.seed, INSPECTION, 0, numbers, model.noise, dtype=model.variable_dtype)
        scored = score_encoding(model, encoding, eps)
        parts = bound(scored)
        latents = {column_of(layer, "sample"): z for layer, z in scored.latents.items()}
        for layer, (mean, log_sigma) in (model.posterior_base(encoding) or {}).items():
            latents |= {column_of(layer, "mean"): mean, column_of(layer, "log_sigma"): log_sigma}
        scores = {name: getattr(parts, name) for name in SCORES}
        return scores | {name: tf.reshape(latents[name], (self.rows, -1)) for name in self.shapes}

    def _base(self) -> tuple[str, ...]:
        """Returns the layers of which the model knows the base of the posterior."""
        model = self.model
        images = tf.TensorSpec((2, *model.image_shape), tf.uint8)
        u = tf.TensorSpec((2, *model.image_shape), tf.float32) if model.preprocessing.noisy else None

        def base(images: Any, u: Any) -> Any:
            return model.posterior_base(model.encode(images, u)) or {}

        with user_code(f"model {type(model).__name__}: it cannot encode images", mixed=True):
            found = tf.function(base, autograph=False).get_concrete_function(images, u).structured_outputs
        shapes = self._layout.latents
        for layer, parts in found.items():
            if layer not in shapes or any(tuple(part.shape) != (2, *shapes[layer]) for part in parts):
                raise ModelError(
                    f"model {type(model).__name__}: posterior_base gives {layer!r} with shapes "
                    f"{[list(part.shape) for part in parts]} for 2 images; it must give mean and log_sigma in the "
                    f"shapes of the score's latents: { ({name: [2, *shape] for name, shape in shapes.items()}) }"
                )
        return tuple(found)


def column_of(layer: str, kind: Kind) -> str:
    """Returns the name of the column of a layer's latents: z for samples, z_mean and z_log_sigma."""
    return layer if kind == "sample" else f"{layer}_{kind}"
