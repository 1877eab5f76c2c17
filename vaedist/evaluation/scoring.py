"""Scores of mini-batches and their sums over real rows, for the training step and the test pass."""

import math
from collections.abc import Mapping
from inspect import signature
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import tensorflow as tf
from keras import ops

from vaedist.devices.batches import Batch
from vaedist.errors import ModelError
from vaedist.models.model import Model, Score
from vaedist.models.rng import OBSERVATION, pixel_uniform, row_uniform
from vaedist.objectives.elbo import bound
from vaedist.user_code import user_code

# Names that are logged besides the columns of a score; a model's metrics must have other names.
RESERVED = frozenset(
    {
        "kind", "epoch", "step", "objective", "kl_weight", "stop", "gradient_norm", "learning_rate",
        "images_per_second", "step_seconds", "input_wait", "bits_per_dim", "importance_bound", "train_elbo", "best",
    }
)  # fmt: skip


class ScoreLayout(NamedTuple):
    """Names and sizes in a model's `Score`.

    Attributes:
        layers: number of groups of each stochastic layer's KL, by name.
        latents: shape of one image's latents, by layer.
        metrics: names of the metrics.
        convolutional: True if the model has convolutions.
    """

    layers: dict[str, int]
    latents: dict[str, tuple[int, ...]]
    metrics: tuple[str, ...]
    convolutional: bool

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of `row_sums`, in order; they include the KL by layer if there are several layers."""
        by_layer = [f"kl_{name}" for name in self.layers] if len(self.layers) > 1 else []
        return ("rows", "elbo", "reconstruction", "kl", *by_layer, *self.metrics)

    @property
    def size(self) -> int:
        """Number of latents of one image, over all layers."""
        return sum(math.prod(shape) for shape in self.latents.values())

    def split(self, kl: np.ndarray) -> dict[str, np.ndarray]:
        """Splits the KL of all groups, [..., groups], by layer."""
        edges = np.cumsum(list(self.layers.values()))[:-1]
        return dict(zip(self.layers, np.split(kl, edges, axis=-1), strict=True))

    @property
    def channels(self) -> dict[str, int]:
        """Number of channels by layer, for the layers whose KL is by channel: of several groups of several latents."""
        return {name: groups for name, groups in self.layers.items() if 1 < groups < math.prod(self.latents[name])}


_LAYOUTS: WeakKeyDictionary[Model, ScoreLayout] = WeakKeyDictionary()


def score_layout(model: Model) -> ScoreLayout:
    """Returns the names and sizes in a model's score, found by tracing it once.

    Raises:
        ModelError: a part of the score has a wrong shape or dtype or a reserved name, or `generate` lacks an argument.
        UserCodeError: a user's model, or its flow or likelihood, raises an exception.
    """
    if model in _LAYOUTS:
        return _LAYOUTS[model]
    images = tf.TensorSpec((2, *model.image_shape), tf.uint8)
    eps = {name: tf.TensorSpec((2, *shape), model.variable_dtype) for name, shape in model.noise.items()}
    u = tf.TensorSpec((2, *model.image_shape), tf.float32) if model.preprocessing.noisy else None

    def traced(images: Any, eps: Any, u: Any) -> Any:
        return score(model, images, eps, u)._asdict()

    with user_code(f"model {type(model).__name__}: it cannot score images"):
        function = tf.function(traced, autograph=False).get_concrete_function(images, eps, u)
    found = function.structured_outputs
    _require_shape(model, "log_px", found["log_px"], "[B]")
    _require_dtype(model, "log_px", found["log_px"])
    for part, shape in (("kl", "[B, groups]"), ("latents", "[B, ...]"), ("metrics", "[B]")):
        for name, values in found[part].items():
            _require_shape(model, f"{part}[{name!r}]", values, shape)
            _require_dtype(model, f"{part}[{name!r}]", values)
    layout = ScoreLayout(
        {name: kl.shape[-1] for name, kl in found["kl"].items()},
        {name: tuple(z.shape[1:]) for name, z in found["latents"].items()},
        tuple(found["metrics"]),
        any("Conv" in operation.type for operation in function.graph.get_operations()),
    )
    _require_names(model, layout)
    _require_given(model, layout)
    _LAYOUTS[model] = layout
    return layout


def _require_shape(model: Model, name: str, found: Any, shape: str) -> None:
    """Checks the shape of a part of a score of two images."""
    fits = {"[B]": found.shape == (2,), "[B, groups]": found.shape.rank == 2, "[B, ...]": found.shape.rank >= 1}
    if not fits[shape] or found.shape[0] != 2 or None in found.shape:
        raise ModelError(
            f"model {type(model).__name__}: score gives {name} of shape {list(found.shape)} for 2 images; "
            f"it must be {shape}"
        )


def _require_dtype(model: Model, name: str, found: Any) -> None:
    """Checks that a part of a score has the dtype of the weights, which in mixed precision is not that of layers."""
    if found.dtype != model.variable_dtype:
        raise ModelError(
            f"model {type(model).__name__}: score gives {name} of type {found.dtype.name}; it must be "
            f"{model.variable_dtype}: cast the outputs of layers to self.variable_dtype before computing densities"
        )


def _require_names(model: Model, layout: ScoreLayout) -> None:
    """Refuses a score without a stochastic layer, and metrics with a reserved name."""
    if not layout.layers:
        raise ModelError(
            f"model {type(model).__name__}: score gives no KL divergence; kl must have one or more stochastic layers"
        )
    taken = {*layout._replace(metrics=()).columns, *RESERVED}
    for name in layout.metrics:
        if name in taken:
            raise ModelError(
                f"model {type(model).__name__}: score gives a metric the name {name!r}, which vaedist uses itself; "
                "choose another"
            )


def _require_given(model: Model, layout: ScoreLayout) -> None:
    """Refuses a model of several layers whose `generate` cannot be given the latents of some of them."""
    if len(layout.layers) == 1:
        return
    try:
        signature(model.generate).bind({}, given={})
    except TypeError:
        raise ModelError(
            f"model {type(model).__name__}: generate does not accept the argument 'given', which a model of several "
            "stochastic layers needs for pictures by layer"
        ) from None


def evaluation_noise(model: Model, numbers: Any) -> Any:
    """Returns the pixel noise of rows of a split, the same in every test pass, evaluation and picture, [B, H, W, C].

    It is None if the model's preprocessing uses no noise.
    """
    if not model.preprocessing.noisy:
        return None
    return _shaped(model, pixel_uniform(numbers, math.prod(model.image_shape)))


def training_noise(model: Model, seed: int, step: Any, first_row: Any, numbers: Any) -> Any:
    """Returns the pixel noise of a training step, [B, H, W, C], or None; new in each step unless the noise is fixed."""
    if not model.preprocessing.noisy or model.preprocessing.fixed:
        return evaluation_noise(model, numbers)
    pixels = math.prod(model.image_shape)
    return _shaped(model, row_uniform(seed, OBSERVATION, step, first_row, numbers.shape[0], pixels))


def score(model: Model, images: Any, eps: Any, u: Any, *, samples: int | None = None, training: bool = False) -> Score:
    """Returns the model's score of images, padding included, for one or several samples of the latents.

    Args:
        model: the model.
        images: uint8, [B, H, W, C].
        eps: standard normal noise by stream, [B, ...], or [B, K, ...] for K samples of each image.
        u: pixel noise, or None.
        samples: K; None if the noise has no axis of samples.
        training: see `Model`.
    """
    return score_encoding(model, model.encode(images, u, training=training), eps, samples=samples, training=training)


def score_encoding(
    model: Model, encoding: Any, eps: Any, *, samples: int | None = None, training: bool = False
) -> Score:
    """Returns the score of encoded images, see `score`."""
    if samples is None:
        return model.score(encoding, eps, training=training)
    if model.broadcasts:
        return model.score(tf.nest.map_structure(lambda x: x[:, None], encoding), eps, training=training)
    copies = tf.nest.map_structure(lambda x: tf.repeat(x, samples, axis=0), encoding)
    flat = model.score(copies, tf.nest.map_structure(_merged, eps), training=training)
    return tf.nest.map_structure(lambda x: tf.reshape(x, (-1, samples, *x.shape[1:])), flat)


def row_sums(batch: Batch, scored: Score, layout: ScoreLayout, *more: Any) -> Any:
    """Returns sums over the real rows of a batch by column of `layout`, followed by those of `more`, [B] each.

    Values of K samples of an image are averaged first.
    """
    parts = bound(scored)
    by_layer = [parts.by_layer[name] for name in layout.layers] if len(layout.layers) > 1 else []
    columns = [
        tf.ones_like(batch.real, scored.log_px.dtype),
        parts.elbo,
        parts.reconstruction,
        parts.kl,
        *by_layer,
        *(scored.metrics[name] for name in layout.metrics),
        *more,
    ]
    columns = [tf.reduce_mean(column, axis=1) if column.shape.rank > 1 else column for column in columns]
    # Padding is masked with `where`, not multiplied by 0, as it may hold NaN.
    return tf.stack([tf.reduce_sum(tf.where(batch.real, column, 0.0)) for column in columns])


def _shaped(model: Model, noise: Any) -> Any:
    return tf.reshape(noise, (-1, *model.image_shape))


def _merged(x: Any) -> Any:
    """Merges the first two axes."""
    return tf.reshape(x, (-1, *x.shape[2:]))


def concatenated(parts: Mapping[str, Any], axes: int = 1) -> Any:
    """Returns all numbers of an image in one row, [..., n], from tensors by layer that have `axes` leading axes."""
    rows = [
        x if x.shape.rank == axes + 1 else tf.reshape(x, (*ops.shape(x)[:axes], math.prod(x.shape[axes:])))
        for x in parts.values()
    ]
    return rows[0] if len(rows) == 1 else tf.concat(rows, axis=-1)
