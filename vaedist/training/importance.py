"""Evaluation with many samples of z an image: the variational bound, log p(x), and what the latents carry.

The work is cut into blocks of images that depend on the model and the number of samples alone, and an image's noise
on its number, so that the result is the same whoever scores which block.
"""

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from vaedist.data.rows import SplitRows
from vaedist.model import VAE, Encoding
from vaedist.model.noise import IMPORTANCE, row_normal
from vaedist.objective import (
    LatentMoments,
    active_units,
    bits_per_dim,
    bound,
    effective_sample_size,
    group_sizes,
    importance_bounds,
    kl_per_unit,
    latent_moments,
)
from vaedist.training.batches import evaluation_noise
from vaedist.training.compiled import compiled, program_text

BLOCK_BYTES = 24 << 20  # of the decoder's output at a time
SAMPLES_AT_ONCE = 16  # of each image in a block, or as many more as it takes to be done in ROUNDS
ROUNDS = 16  # over a block, at most: it takes a second or so on two cores, with however many samples
BLOCKS_AT_ONCE = 2  # for not every part of a block's work keeps all cores busy


@dataclass(frozen=True)
class Estimate:
    """A mean over images, and its standard error: the images' standard deviation over the root of their number."""

    mean: float
    standard_error: float


@dataclass(frozen=True)
class Evaluation:
    """What a model scored, in nats an image unless said otherwise.

    Attributes:
        images: how many were scored.
        samples: K, of z for each of them.
        bounds: L_k, the importance-weighted bound with k samples, by k = 1, 2, 4, ..., K; L_1 is the ELBO.
        gap: L_K - L_1.
        reconstruction: E log p(x|z).
        kl: KL(q(z|x) || p(z)), the rate.
        effective_sample_size: (sum w)^2 / sum w^2, of K.
        bits_per_dim: of L_1 and of L_K; None where the likelihood gives none, see `bits_per_dim`.
        active_units: latents with Var_x(E_q[z]) > 0.01; None for a single sample.
        kl_per_unit: nats that each latent adds to the rate; with a flow only their sum is a KL.
    """

    images: int
    samples: int
    bounds: dict[int, Estimate]
    gap: Estimate
    reconstruction: Estimate
    kl: Estimate
    effective_sample_size: Estimate
    bits_per_dim: dict[int, Estimate] | None
    active_units: int | None
    kl_per_unit: tuple[float, ...]

    @property
    def elbo(self) -> Estimate:
        """L_1, the variational lower bound (VLB)."""
        return self.bounds[1]

    @property
    def log_p(self) -> Estimate:
        """L_K, the estimate of log p(x)."""
        return self.bounds[self.samples]

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


class BlockScores(NamedTuple):
    """What the images of a block scored.

    bounds: L_k, [N, len(group_sizes)].
    reconstruction, kl, effective_sample_size: [N].
    moments: of the latents; None for a single sample.
    kl_per_unit: sum over the images, [latent].
    """

    bounds: np.ndarray
    reconstruction: np.ndarray
    kl: np.ndarray
    effective_sample_size: np.ndarray
    moments: LatentMoments | None
    kl_per_unit: np.ndarray


class ImportanceEvaluator:
    """Scores a split's images, block by block.

    Args:
        model: with the weights to be evaluated.
        rows: the images.
        samples: K, of z for each image.
        seed: key of the noise of z; that of the pixels is the same in every evaluation.
    """

    def __init__(self, model: VAE, rows: SplitRows, *, samples: int, seed: int) -> None:
        self.model, self.rows, self.samples, self.seed = model, rows, samples, seed
        together = max(1, BLOCK_BYTES // (4 * model.likelihood.outputs * model.pixels))
        self.rounds = -(-samples // min(max(SAMPLES_AT_ONCE, -(-samples // ROUNDS)), together))
        self.at_once = -(-samples // self.rounds)  # samples in a round; the last round may have some to spare
        self.block = max(1, together // self.at_once)
        self._score = compiled(self._rounds)

    @property
    def blocks(self) -> int:
        """How many blocks there are."""
        return -(-self.rows.rows // self.block)

    def score(self, number: int) -> BlockScores:
        """Score the images of a block.

        Raises:
            DataError: a shard is missing or damaged.
        """
        first = number * self.block
        images = self.rows.read(first, first + self.block)
        count, padded = len(images), np.zeros((self.block, *images.shape[1:]), np.uint8)
        padded[:count] = images
        numbers = np.zeros(self.block, np.int64)
        numbers[:count] = self.rows.numbers(first, first + self.block)
        parts = self._score(tf.constant(padded), tf.constant(first, tf.int64), tf.constant(numbers))
        log_w, reconstruction, sums, squares, units = (part.numpy()[:count] for part in parts)
        return BlockScores(
            np.stack(list(importance_bounds(log_w).values()), axis=1),
            reconstruction / self.samples,
            units.sum(axis=1) / self.samples,
            effective_sample_size(log_w),
            latent_moments(sums, squares, self.samples) if self.samples > 1 else None,
            units.sum(axis=0) / self.samples,
        )

    def scores(self) -> Iterator[BlockScores]:
        """The scores of all blocks in their order, `BLOCKS_AT_ONCE` of which are computed at a time."""
        with ThreadPoolExecutor(BLOCKS_AT_ONCE, thread_name_prefix="blocks") as pool:
            yield from pool.map(self.score, range(self.blocks))

    def program(self) -> str:
        """XLA's optimized text of what scores a block; the samples of a round are the body of its loop."""
        images = tf.zeros((self.block, *self.model.image_shape), tf.uint8)
        return program_text(self._score, images, tf.constant(0, tf.int64), tf.zeros(self.block, tf.int64))

    def summary(self, scores: Sequence[BlockScores]) -> Evaluation:
        """The means over all images, from the scores of all blocks in their order."""
        bounds, reconstruction, kl, sizes = (
            np.concatenate([getattr(block, name) for block in scores]) for name in BlockScores._fields[:4]
        )
        moments = [block.moments for block in scores if block.moments is not None]
        bits = None
        if self.model.levels is not None:
            bits = bits_per_dim(bounds[:, [0, -1]], self.model.pixels, self.model.levels)
        return Evaluation(
            images=len(bounds),
            samples=self.samples,
            bounds={k: _estimate(bounds[:, i]) for i, k in enumerate(group_sizes(self.samples))},
            gap=_estimate(bounds[:, -1] - bounds[:, 0]),
            reconstruction=_estimate(reconstruction),
            kl=_estimate(kl),
            effective_sample_size=_estimate(sizes),
            bits_per_dim=None if bits is None else {k: _estimate(bits[:, i]) for i, k in ((0, 1), (1, self.samples))},
            active_units=active_units(sum(moments[1:], start=moments[0])) if moments else None,
            kl_per_unit=tuple((np.sum([block.kl_per_unit for block in scores], axis=0) / len(bounds)).tolist()),
        )

    def _rounds(self, images: Any, first: Any, numbers: Any) -> tuple[Any, ...]:
        """All samples of a block's images, whose rows have numbers in their split.

        Returns:
            log w, [B, K]; sums over the samples: log p(x|z), [B], and z, z^2 and the KL by unit, [B, latent], float64.
        """
        model, rows, latent = self.model, self.block, self.model.latent
        x = model.observe(images, evaluation_noise(model, numbers))
        encoding = Encoding(*(part[:, None] for part in model.encode(x)))

        def take(t: Any, log_w: Any, *totals: Any) -> tuple[Any, ...]:
            eps = row_normal(self.seed, IMPORTANCE, t, first, rows, self.at_once * latent)
            eps = tf.cast(tf.reshape(eps, (rows, self.at_once, latent)), model.compute_dtype)
            output = model.score(x[:, None], encoding, eps)
            wanted = tf.range(self.at_once) < self.samples - t * self.at_once
            parts = (output.log_px, output.posterior.z, tf.square(output.posterior.z), kl_per_unit(output.posterior))
            added = (tf.where(_like(wanted, part), part, 0.0) for part in parts)
            totals = tuple(
                total + tf.cast(tf.reduce_sum(part, axis=1), tf.float64)
                for total, part in zip(totals, added, strict=True)
            )
            return t + 1, tf.tensor_scatter_nd_update(log_w, [[t]], [bound(output).elbo]), *totals

        start = (
            tf.constant(0),
            tf.zeros((self.rounds, rows, self.at_once), model.compute_dtype),
            tf.zeros(rows, tf.float64),
            *(tf.zeros((rows, latent), tf.float64) for _ in range(3)),
        )
        _, log_w, *totals = tf.while_loop(lambda t, *_: t < self.rounds, take, start, maximum_iterations=self.rounds)
        log_w = tf.reshape(tf.transpose(log_w, (1, 0, 2)), (rows, -1))[:, : self.samples]
        return log_w, *totals


def _like(wanted: Any, part: Any) -> Any:
    """Which samples are wanted, [K], in a shape that goes with numbers of each sample, [B, K, ...]."""
    return tf.reshape(wanted, (1, -1, *[1] * (part.shape.rank - 2)))


def _estimate(values: np.ndarray) -> Estimate:
    count = len(values)
    error = float(values.std(ddof=1) / math.sqrt(count)) if count > 1 else math.nan
    return Estimate(float(values.mean()), error)
