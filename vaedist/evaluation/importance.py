"""Evaluation with many samples of z for each image: the ELBO, log p(x), and active units.

Images are scored in blocks. The size of a block depends only on the model and the number of samples, and the noise of
an image only on its number, so the result is the same whichever worker scores a block.
"""

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from vaedist.data.rows import SplitRows
from vaedist.devices.compilation import compiled, program_text
from vaedist.evaluation.active_units import (
    LatentMoments,
    active_channels,
    active_units,
    active_units_doubt,
    exact_moments,
    latent_moments,
)
from vaedist.evaluation.bounds import (
    effective_sample_size,
    group_sizes,
    half_bound,
    importance_bounds,
    monte_carlo_variances,
)
from vaedist.evaluation.results import Evaluation, ImageScores, estimate_of
from vaedist.evaluation.scoring import concatenated, evaluation_noise, score_encoding, score_layout
from vaedist.models.model import Model
from vaedist.models.rng import IMPORTANCE, row_noise
from vaedist.objectives.elbo import bits_per_dim, bound

BLOCK_BYTES = 24 << 20  # of the largest tensors of a round, see `Model.sample_bytes`
SAMPLES_AT_ONCE = 16  # of each image in a round; more if ROUNDS rounds would not be enough
ROUNDS = 16  # at most, so that a block takes about a second on two cores for any number of samples
BLOCKS_AT_ONCE = 2  # scored at the same time, as parts of a block's work do not use all cores


class BlockScores(NamedTuple):
    """Scores of the N images of a block, in nats.

    Attributes:
        rows: numbers of the images in their split, [N].
        bounds, variances: L_k and its Monte-Carlo variance, [N, len(group_sizes)].
        half: L_h with h = K // 2 samples, [N].
        reconstruction, kl, effective_sample_size: [N].
        kl_by_layer: KL by stochastic layer, [N, layers].
        moments: moments of the latents; None for a single sample through a flow.
        kl_per_unit: KL by group of all layers, summed over the images, [groups].
    """

    rows: np.ndarray
    bounds: np.ndarray
    variances: np.ndarray
    half: np.ndarray
    reconstruction: np.ndarray
    kl: np.ndarray
    effective_sample_size: np.ndarray
    kl_by_layer: np.ndarray
    moments: LatentMoments | None
    kl_per_unit: np.ndarray


class ImportanceEvaluator:
    """Scores the images of a split block by block.

    Args:
        model: the model to evaluate.
        rows: the images.
        samples: K, the number of samples of z for each image.
        seed: key of the noise of z; the noise of pixels is the same in every evaluation.
    """

    def __init__(self, model: Model, rows: SplitRows, *, samples: int, seed: int) -> None:
        self.model, self.rows, self.samples, self.seed = model, rows, samples, seed
        self.layout = score_layout(model)
        together = max(1, BLOCK_BYTES // model.sample_bytes)
        self.rounds = -(-samples // min(max(SAMPLES_AT_ONCE, -(-samples // ROUNDS)), together))
        self.at_once = -(-samples // self.rounds)  # samples in a round; the last round may have some to spare
        self.block = max(1, together // self.at_once)
        self._score = compiled(self._rounds)

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return -(-self.rows.rows // self.block)

    def score(self, number: int) -> BlockScores:
        """Returns the scores of a block.

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
        log_w, reconstruction, sums, squares, units, *mean = (part.numpy()[:count] for part in parts)
        moments = None
        if mean:
            moments = exact_moments(mean[0])
        elif self.samples > 1:
            moments = latent_moments(sums, squares, self.samples)
        return BlockScores(
            numbers[:count],
            np.stack(list(importance_bounds(log_w).values()), axis=1),
            np.stack(list(monte_carlo_variances(log_w).values()), axis=1),
            half_bound(log_w),
            reconstruction / self.samples,
            units.sum(axis=1) / self.samples,
            effective_sample_size(log_w),
            np.stack([part.sum(axis=1) for part in self.layout.split(units).values()], axis=1) / self.samples,
            moments,
            units.sum(axis=0) / self.samples,
        )

    def scores(self) -> Iterator[BlockScores]:
        """Yields the scores of all blocks in order; computes `BLOCKS_AT_ONCE` at the same time."""
        with ThreadPoolExecutor(BLOCKS_AT_ONCE, thread_name_prefix="blocks") as pool:
            yield from pool.map(self.score, range(self.blocks))

    def program(self) -> str:
        """Returns the optimized HLO of scoring a block; a round of samples is the body of its loop."""
        images = tf.zeros((self.block, *self.model.image_shape), tf.uint8)
        return program_text(self._score, images, tf.constant(0, tf.int64), tf.zeros(self.block, tf.int64))

    def summary(self, scores: Sequence[BlockScores]) -> Evaluation:
        """Returns the means over all images, from the scores of all blocks in order."""
        rows, bounds, variances, half, reconstruction, kl, sizes, by_layer = (
            np.concatenate([getattr(block, name) for block in scores]) for name in BlockScores._fields[:8]
        )
        units: int | None = None
        doubt: str | None = "with a flow, a single sample of z gives no estimate of E_q[z]"
        if moments := [block.moments for block in scores if block.moments is not None]:
            whole = sum(moments[1:], start=moments[0])
            doubt = active_units_doubt(whole)
            units = active_units(whole) if doubt is None else None
        groups = np.sum([block.kl_per_unit for block in scores], axis=0) / len(bounds)
        layout, parts = self.layout, self.layout.split(groups)
        ks, bits = group_sizes(self.samples), None
        if self.model.levels is not None:
            bits = bits_per_dim(bounds[:, [0, -1]], math.prod(self.model.image_shape), self.model.levels)
        return Evaluation(
            images=len(bounds),
            samples=self.samples,
            bounds={k: estimate_of(bounds[:, i]) for i, k in enumerate(ks)},
            monte_carlo_errors={k: float(np.sqrt(variances[:, i].sum()) / len(variances)) for i, k in enumerate(ks)},
            rise=estimate_of(bounds[:, -1] - half) if self.samples > 1 else None,
            gap=estimate_of(bounds[:, -1] - bounds[:, 0]),
            reconstruction=estimate_of(reconstruction),
            kl=estimate_of(kl),
            effective_sample_size=estimate_of(sizes),
            bits_per_dim=None if bits is None else {k: estimate_of(bits[:, i]) for i, k in ((0, 1), (1, self.samples))},
            active_units=units,
            active_units_withheld=doubt,
            latents=layout.size,
            channels=layout.channels,
            active_channels={name: active_channels(parts[name]) for name in layout.channels},
            kl_by_layer={name: estimate_of(by_layer[:, i]) for i, name in enumerate(layout.layers)},
            kl_per_unit=tuple(groups.tolist()),
            scores=ImageScores(rows, bounds[:, 0], bounds[:, -1], reconstruction, kl, sizes),
        )

    def _rounds(self, images: Any, first: Any, numbers: Any) -> tuple[Any, ...]:
        """Scores all samples of a block of images.

        Args:
            images: uint8, [B, H, W, C].
            first: number of the first row.
            numbers: numbers of the rows in their split, [B].

        Returns:
            log w, [B, K]. Sums over the samples, in float64: log p(x|z), [B], z and z^2, [B, latents], and the KL by
            group, [B, groups]. E_q[z], [B, latents], if it is known. Layers are concatenated.
        """
        model, rows = self.model, self.block
        encoding = model.encode(images, evaluation_noise(model, numbers))

        def take(t: Any, log_w: Any, *totals: Any) -> tuple[Any, ...]:
            eps = row_noise(
                self.seed, IMPORTANCE, t, first, rows, model.noise, self.at_once, dtype=model.variable_dtype
            )
            scored = score_encoding(model, encoding, eps, samples=self.at_once)
            wanted = tf.range(self.at_once) < self.samples - t * self.at_once
            z = concatenated(scored.latents, 2)
            parts = (scored.log_px, z, tf.square(z), concatenated(scored.kl, 2))
            added = (tf.where(_like(wanted, part), part, 0.0) for part in parts)
            totals = tuple(
                total + tf.cast(tf.reduce_sum(part, axis=1), tf.float64)
                for total, part in zip(totals, added, strict=True)
            )
            return t + 1, tf.tensor_scatter_nd_update(log_w, [[t]], [bound(scored).elbo]), *totals

        sizes = ((), (self.layout.size,), (self.layout.size,), (sum(self.layout.layers.values()),))
        start = (
            tf.constant(0),
            tf.zeros((self.rounds, rows, self.at_once), model.variable_dtype),
            *(tf.zeros((rows, *size), tf.float64) for size in sizes),
        )
        _, log_w, *totals = tf.while_loop(lambda t, *_: t < self.rounds, take, start, maximum_iterations=self.rounds)
        log_w = tf.reshape(tf.transpose(log_w, (1, 0, 2)), (rows, -1))[:, : self.samples]
        mean = model.posterior_mean(encoding)
        return (log_w, *totals) if mean is None else (log_w, *totals, concatenated(mean))


def _like(wanted: Any, part: Any) -> Any:
    """Reshapes a mask of samples, [K], so that it broadcasts with values of each sample, [B, K, ...]."""
    return tf.reshape(wanted, (1, -1, *[1] * (part.shape.rank - 2)))
