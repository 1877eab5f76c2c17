"""What a model shows of itself: reconstructions, samples, interpolations, and how much its latents carry.

All of it is drawn from fixed noise, so that pictures of different epochs can be compared. Where pixels are seen through
noise, image i of what is given is seen as row i of a split is in every evaluation (see `pixel_uniform`): the first test
images, of which sheets are made, are the very pixels that the test pass scores.
"""

from typing import Any, Literal, NamedTuple

import numpy as np
import tensorflow as tf

from vaedist.devices.compilation import compiled, traced
from vaedist.evaluation.active_units import (
    active_units,
    active_units_doubt,
    exact_moments,
    latent_moments,
    samples_to_count,
)
from vaedist.evaluation.scoring import evaluation_noise
from vaedist.models import VAE, Posterior
from vaedist.models.rng import INSPECTION, PIXELS, PRIOR, row_normal, row_uniform
from vaedist.objectives.elbo import Bound, bound, kl_per_unit

BLOCK = 256  # images at a time
SAMPLES = 40  # of z an image, at least, from which statistics of the latents are taken

Pixels = Literal["mean", "sample"]


class LatentStatistics(NamedTuple):
    """How much the latents carry.

    active_units: number of them with Var_x(E_q[z]) > 0.01; None where that cannot be told, as of one image.
    kl_per_unit: [latent], in nats, a mean over images and samples.
    """

    active_units: int | None
    kl_per_unit: np.ndarray


def posterior(model: VAE, images: np.ndarray, *, seed: int = 0) -> Posterior:
    """One sample of q(z|x) for uint8 images [n, H, W, C], as NumPy arrays."""
    return _in_blocks(images, lambda block, first: _posterior(model, block, seed, first))


def reconstruct(model: VAE, images: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """E[x|z] at one sample z of q(z|x), [n, H, W, C], float32 in [0, 1], for uint8 images of that shape."""
    return decode(model, posterior(model, images, seed=seed).z)


def observed(model: VAE, images: np.ndarray) -> np.ndarray:
    """The x that `posterior` encodes of uint8 images [n, H, W, C], float32 in [0, 1]; binary, where it binarizes."""
    return _in_blocks(images, lambda block, first: tf.reshape(_observed(model, block, first), block.shape))


def pixel_noise(model: VAE, count: int) -> np.ndarray | None:
    """The noise through which `count` images are seen here, [count, D]; None where a model takes none."""
    return evaluation_noise(model, tf.range(count, dtype=tf.int64)).numpy() if model.noisy else None


def score(model: VAE, images: np.ndarray, *, seed: int = 0) -> Bound:
    """The ELBO of each uint8 image [n, H, W, C] and its parts, from one sample of z, [n] each, in nats."""
    return _in_blocks(images, lambda block, first: _score(model, block, seed, first))


def decode(model: VAE, z: np.ndarray) -> np.ndarray:
    """E[x|z], [n, H, W, C], float32 in [0, 1], for latents [n, latent]."""
    return _in_blocks(np.asarray(z, np.float32), lambda block, _: model.decode(block))


def sample(model: VAE, count: int, *, seed: int = 0, pixels: Pixels = "mean") -> np.ndarray:
    """New images, from `count` draws z ~ N(0, I), [count, H, W, C], float32 in [0, 1].

    They are E[x|z], or with `pixels` = "sample" drawn from p(x|z). Image i depends on seed and i only.
    """
    z = row_normal(seed, PRIOR, 0, 0, count, model.latent).numpy()
    if pixels == "mean":
        return decode(model, z)

    def draw(block: Any, first: Any) -> Any:
        return model.sample_pixels(block, row_uniform(seed, PIXELS, 0, first, block.shape[0], model.pixels))

    return _in_blocks(z, draw)


def interpolate(model: VAE, images: np.ndarray, *, steps: int = 8, seed: int = 0) -> np.ndarray:
    """Decoded paths in z between neighbours: for images [2 n, ...], [n * steps, H, W, C], float32 in [0, 1].

    A path goes along the great circle, as z of the prior lies near a sphere (White 2016).
    """
    z = posterior(model, images, seed=seed).z
    t = np.linspace(0, 1, steps)[None, :, None]
    a, b = z[0::2, None], z[1::2, None]
    cosine = np.sum(a * b, -1, keepdims=True) / (
        np.linalg.norm(a, axis=-1, keepdims=True) * np.linalg.norm(b, axis=-1, keepdims=True)
    )
    angle = np.maximum(np.arccos(np.clip(cosine, -1, 1)), 1e-6)
    path = (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)
    return decode(model, path.reshape(-1, model.latent))


def latent_statistics(model: VAE, images: np.ndarray, *, samples: int | None = None, seed: int = 0) -> LatentStatistics:
    """Active units and the KL of each unit over some uint8 images, from several samples of z an image.

    Active units are counted by the encoder's mu where there is no flow. Otherwise they take as many samples as make
    `dead_unit_noise` no larger than the threshold, `SAMPLES` for 128 images, and more for fewer, which is how many are
    taken where `samples` is not given.
    """
    samples = samples or max(SAMPLES, samples_to_count(len(images)))
    sums, squares, kl, *mean = _in_blocks(images, lambda block, first: _latent_sums(model, block, seed, samples, first))
    moments = exact_moments(mean[0]) if mean else latent_moments(sums, squares, samples)
    count = active_units(moments) if active_units_doubt(moments) is None else None
    return LatentStatistics(count, kl.mean(0) / samples)


@compiled
def _latent_sums(model: VAE, images: Any, seed: int, samples: int, first: Any) -> tuple[Any, ...]:
    """Sums over some samples of z of each image: of z, of z^2, and of the KL of each unit, [B, latent], float64.

    And E_q[z], where it is known.
    """
    rows, latent = images.shape[0], model.latent

    def take(k: Any, *totals: Any) -> tuple[Any, ...]:
        draw = model.sample_posterior(encoding, row_normal(seed, INSPECTION, k, first, rows, latent))
        parts = draw.z, tf.square(draw.z), kl_per_unit(draw)
        return k + 1, *(total + tf.cast(part, tf.float64) for total, part in zip(totals, parts, strict=True))

    encoding = model.encode(_observed(model, images, first))
    start = tf.constant(0), *(tf.zeros((rows, latent), tf.float64) for _ in range(3))
    _, *sums = tf.while_loop(lambda k, *_: k < samples, take, start, maximum_iterations=samples)
    mean = model.posterior_mean(encoding)
    return (*sums,) if mean is None else (*sums, mean)


@traced
def _posterior(model: VAE, images: Any, seed: int, first: Any) -> Posterior:
    eps = row_normal(seed, INSPECTION, 0, first, images.shape[0], model.latent)
    return model.sample_posterior(model.encode(_observed(model, images, first)), eps)


@traced
def _score(model: VAE, images: Any, seed: int, first: Any) -> Bound:
    eps = row_normal(seed, INSPECTION, 0, first, images.shape[0], model.latent)
    return bound(model(images, eps, _noise(model, images, first)))


def _observed(model: VAE, images: Any, first: Any) -> Any:
    """The x of a block of images, [B, D]."""
    return model.observe(images, _noise(model, images, first))


def _noise(model: VAE, images: Any, first: Any) -> Any:
    numbers = tf.cast(first, tf.int64) + tf.range(images.shape[0], dtype=tf.int64)
    return evaluation_noise(model, numbers)


def _in_blocks(rows: np.ndarray, function: Any) -> Any:
    """Apply function(block, number of its first row) to blocks of rows, and join what it gives back."""
    starts = range(0, len(rows), BLOCK)
    parts = [function(tf.constant(rows[i : i + BLOCK]), tf.constant(i)) for i in starts]
    return tf.nest.map_structure(lambda *blocks: np.concatenate([block.numpy() for block in blocks]), *parts)
