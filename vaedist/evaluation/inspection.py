"""Reconstructions, samples, interpolations and latent statistics of a model.

All noise is fixed, so that pictures of different epochs can be compared. If pixels are preprocessed with noise, image i
of the given images gets the noise that row i of a split gets in every evaluation (see `pixel_uniform`). For the first
test images, which the picture sheets show, these are the pixels that the test pass scores.

Latents of several layers are concatenated, [n, latents].

An exception in a user's model, or in its flow or likelihood, is raised as a `UserCodeError`.
"""

import math
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import tensorflow as tf

from vaedist.devices.compilation import compiled, traced
from vaedist.errors import ConfigError
from vaedist.evaluation import row_functions
from vaedist.evaluation.active_units import (
    active_channels,
    active_units,
    active_units_doubt,
    exact_moments,
    latent_moments,
    samples_to_count,
)
from vaedist.evaluation.row_functions import by_layer
from vaedist.evaluation.row_functions import pixel_noise as block_noise
from vaedist.evaluation.scoring import ScoreLayout, concatenated, evaluation_noise, score_layout
from vaedist.models.model import Model
from vaedist.models.rng import INSPECTION, PIXELS, PRIOR, row_noise, row_uniform
from vaedist.objectives.elbo import Bound
from vaedist.user_code import user_code

BLOCK = 256  # images at a time
COLUMNS = 7  # maximum number of columns of progressive reconstructions; with the original, a row has 8 images
SAMPLES = 40  # minimum number of samples of z per image for statistics of the latents


Pixels = Literal["mean", "sample"]


class Progressive(NamedTuple):
    """Reconstructions from fewer and fewer stochastic layers.

    Attributes:
        layers: number of layers.
        kept: numbers of top layers whose latents come from the image, from all layers to 0, [columns].
        images: E[x|z], [n, columns, H, W, C], float32 in [0, 1].
    """

    layers: int
    kept: tuple[int, ...]
    images: np.ndarray


class LatentStatistics(NamedTuple):
    """Information in the latents.

    Attributes:
        active_units: number of latents with Var_x(E_q[z]) > 0.01; None if it is not reliable, as for one image.
        kl: KL divergence by group, [groups], in nats, by layer; a mean over images and samples.
        active_channels: number of channels with a KL divergence above `ACTIVE_KL`, by layer whose KL is by channel.
    """

    active_units: int | None
    kl: dict[str, np.ndarray]
    active_channels: dict[str, int]


def encode(model: Model, images: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Returns one sample of q(z|x), [n, latents], for uint8 images [n, H, W, C]."""
    return _in_blocks(model, "encode images", images, lambda block, first: _encode(model, block, seed, first))


def projected(model: Model, images: np.ndarray, *, dims: int, seed: int = 0) -> np.ndarray:
    """Returns the result of `encode`, or its random projection, [n, dims], if there are more than `dims` latents.

    The projection preserves squared distances on average, with a relative standard deviation of sqrt(2 / dims) (Johnson
    and Lindenstrauss 1984).
    """
    shapes = score_layout(model).latents
    sizes = [math.prod(shape) for shape in shapes.values()]
    if sum(sizes) <= dims:
        return encode(model, images, seed=seed)

    def project(block: Any, first: Any) -> Any:
        parts = np.split(_encode(model, block, seed, first).numpy(), np.cumsum(sizes)[:-1], axis=1)
        total = np.zeros((len(block), dims), np.float32)
        for number, part in enumerate(parts):  # the directions of all layers together may not fit into memory
            directions = np.random.default_rng((seed, number)).standard_normal((part.shape[1], dims), np.float32)
            total += part @ directions / math.sqrt(dims)
        return tf.constant(total)

    return _in_blocks(model, "encode images", images, project)


def reconstruct(model: Model, images: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Returns E[x|z] at one sample of q(z|x), [n, H, W, C], float32 in [0, 1], for uint8 images of that shape."""
    return decode(model, encode(model, images, seed=seed))


def progressive(model: Model, images: np.ndarray, *, columns: int = COLUMNS, seed: int = 0) -> Progressive:
    """Returns reconstructions in which only the top layers' latents come from the image.

    The latents of these layers are one sample of q(z|x), the same in all columns. Those of the other layers are drawn
    from the prior, given the layers above. Thus the first column shows reconstructions, and the last one new images.

    Args:
        model: the model.
        images: uint8, [n, H, W, C].
        columns: maximum number of columns, at least 2; with fewer layers, there is one column for each number of them.
        seed: seed of the noise.
    """
    layout = score_layout(model)
    names = list(layout.latents)
    kept = kept_layers(len(names), columns)
    z = encode(model, images, seed=seed)

    def column(count: int) -> np.ndarray:
        def draw(block: Any, first: Any) -> Any:
            eps = row_noise(seed, PRIOR, 0, first, block.shape[0], model.noise)
            latents = by_layer(layout, block)
            return model.generate(eps, given={name: latents[name] for name in names[:count]})

        return _in_blocks(model, "generate images from given latents", z, draw)

    return Progressive(len(names), kept, np.stack([column(count) for count in kept], axis=1))


def kept_layers(layers: int, columns: int) -> tuple[int, ...]:
    """Returns at most `columns` numbers of layers, evenly spaced, from all layers to 0."""
    return tuple(np.rint(np.linspace(layers, 0, min(columns, layers + 1))).astype(int).tolist())


def observed(model: Model, images: np.ndarray) -> np.ndarray:
    """Returns the x that is encoded for uint8 images [n, H, W, C], float32 in [0, 1]; binary if it is binarised."""

    def preprocess(block: Any, first: Any) -> Any:
        return model.preprocessing(block, block_noise(model, block, first))

    return _in_blocks(model, "preprocess images", images, preprocess)


def pixel_noise(model: Model, count: int) -> np.ndarray | None:
    """Returns the pixel noise of `count` images, [count, H, W, C]; None if preprocessing uses none."""
    noise = evaluation_noise(model, tf.range(count, dtype=tf.int64))
    return None if noise is None else noise.numpy()


def score(model: Model, images: np.ndarray, *, seed: int = 0) -> Bound:
    """Returns the ELBO of each uint8 image [n, H, W, C] and its parts, from one sample of z, [n] each, in nats."""
    return _in_blocks(model, "score images", images, lambda block, first: _score(model, block, seed, first))


def decode(model: Model, z: np.ndarray) -> np.ndarray:
    """Returns E[x|z], [n, H, W, C], float32 in [0, 1], for latents [n, latents]."""
    layout, z = score_layout(model), np.asarray(z, np.float32)
    return _in_blocks(model, "decode latents", z, lambda block, _: row_functions.decode(model, layout, block))


def sample(model: Model, count: int, *, seed: int = 0, pixels: Pixels = "mean", temperature: float = 1.0) -> np.ndarray:
    """Returns new images from draws of the prior, [count, H, W, C], float32 in [0, 1].

    They are E[x|z], or with `pixels` = "sample" drawn from p(x|z). Image i depends only on seed and i.
    """

    def draw(block: Any, first: Any) -> Any:
        return sample_rows(model, first, block.shape[0], seed=seed, pixels=pixels, temperature=temperature)

    return _in_blocks(model, "generate images", np.zeros(count, np.int32), draw)


def require_drawable(count: int, *, pixels: Pixels, temperature: float) -> None:
    """Checks the arguments of `sample`.

    Raises:
        ConfigError: count is less than 1, or temperature is negative or not finite, or `pixels` is another text.
    """
    if count < 1:
        raise ConfigError(f"count = {count}: must be at least 1")
    if not 0 <= temperature < math.inf:  # which NaN is not
        raise ConfigError(f"temperature = {temperature}: must be at least 0, and finite")
    if pixels not in get_args(Pixels):
        raise ConfigError(f"pixels = {pixels!r}: must be {' or '.join(map(repr, get_args(Pixels)))}")


def sample_rows(model: Model, first: Any, rows: int, *, seed: int, pixels: Pixels, temperature: float) -> Any:
    """Returns the images first, ..., first + rows - 1 of `sample`, as a tensor."""
    u = None
    if pixels == "sample":
        u = row_uniform(seed, PIXELS, 0, first, rows, math.prod(model.image_shape))
        u = tf.reshape(u, (-1, *model.image_shape))
    return model.generate(row_noise(seed, PRIOR, 0, first, rows, model.noise), u, temperature)


def interpolate(model: Model, images: np.ndarray, *, steps: int = 8, seed: int = 0) -> np.ndarray:
    """Returns decoded paths in z between neighbours: for images [2 n, ...], [n * steps, H, W, C], float32 in [0, 1].

    A path follows a great circle in each layer: z drawn from N(0, I) lies near a sphere (White 2016).
    """
    z, shapes = encode(model, images, seed=seed), score_layout(model).latents
    edges = np.cumsum([math.prod(shape) for shape in shapes.values()])[:-1]
    paths = [_great_circles(layer[0::2], layer[1::2], steps) for layer in np.split(z, edges, axis=1)]
    return decode(model, np.concatenate(paths, axis=-1).reshape(-1, z.shape[1]))


def latent_statistics(
    model: Model, images: np.ndarray, *, samples: int | None = None, seed: int = 0
) -> LatentStatistics:
    """Returns active units and the KL divergence by group over uint8 images, from several samples of z per image.

    Active units are computed from E_q[z] if the model knows it. Otherwise they need as many samples as make
    `dead_unit_noise` at most the threshold: `SAMPLES` for 128 images, and more for fewer images. This is the default of
    `samples`.
    """
    samples, layout = samples or max(SAMPLES, samples_to_count(len(images))), score_layout(model)
    sums, squares, kl, *mean = _in_blocks(
        model, "score images", images, lambda block, first: _latent_sums(model, layout, block, seed, samples, first)
    )
    moments = exact_moments(mean[0]) if mean else latent_moments(sums, squares, samples)
    count = active_units(moments) if active_units_doubt(moments) is None else None
    by_layer = layout.split(kl.mean(0) / samples)
    return LatentStatistics(count, by_layer, {name: active_channels(by_layer[name]) for name in layout.channels})


def _great_circles(a: np.ndarray, b: np.ndarray, steps: int) -> np.ndarray:
    """Returns points on great circles from a to b, both [n, latents]: [n, steps, latents]."""
    a, b, t = a[:, None], b[:, None], np.linspace(0, 1, steps)[None, :, None]
    cosine = np.sum(a * b, -1, keepdims=True) / (
        np.linalg.norm(a, axis=-1, keepdims=True) * np.linalg.norm(b, axis=-1, keepdims=True)
    )
    angle = np.maximum(np.arccos(np.clip(cosine, -1, 1)), 1e-6)
    points: np.ndarray = (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)
    return points


@compiled
def _latent_sums(
    model: Model, layout: ScoreLayout, images: Any, seed: int, samples: int, first: Any
) -> tuple[Any, ...]:
    """Returns sums over samples of z, z^2, [B, latents], and the KL, [B, groups], in float64; and E_q[z] if known."""
    rows = images.shape[0]

    def take(k: Any, *totals: Any) -> tuple[Any, ...]:
        scored = model.score(encoding, row_noise(seed, INSPECTION, k, first, rows, model.noise))
        z = concatenated(scored.latents)
        parts = z, tf.square(z), concatenated(scored.kl)
        return k + 1, *(total + tf.cast(part, tf.float64) for total, part in zip(totals, parts, strict=True))

    encoding = model.encode(images, block_noise(model, images, first))
    sizes = layout.size, layout.size, sum(layout.layers.values())
    start = tf.constant(0), *(tf.zeros((rows, size), tf.float64) for size in sizes)
    _, *sums = tf.while_loop(lambda k, *_: k < samples, take, start, maximum_iterations=samples)
    mean = model.posterior_mean(encoding)
    return (*sums,) if mean is None else (*sums, concatenated(mean))


@traced
def _encode(model: Model, images: Any, seed: int, first: Any) -> Any:
    return row_functions.encode(model, images, seed, first).z


@traced
def _score(model: Model, images: Any, seed: int, first: Any) -> Bound:
    return row_functions.score(model, images, seed, first)


def _in_blocks(model: Model, task: str, rows: np.ndarray, function: Any) -> Any:
    """Applies function(block, number of its first row) to blocks of rows, and joins the results.

    Raises:
        UserCodeError: the code of a user's model raises an exception; the headline names the task.
    """
    starts = range(0, len(rows), BLOCK)
    with user_code(f"model {type(model).__name__}: it cannot {task}", mixed=True):
        parts = [function(tf.constant(rows[i : i + BLOCK]), tf.constant(i)) for i in starts]
    return tf.nest.map_structure(lambda *blocks: np.concatenate([block.numpy() for block in blocks]), *parts)
