"""Random numbers keyed by (seed, stream, step, row), which do not depend on the number of devices.

Row r of a batch owns a fixed range of counters of the Philox generator (Salmon et al. 2011). A replica with rows
a, ..., b of a global batch therefore draws exactly the numbers that a single device would draw for these rows.

The pixel noise of evaluation, `pixel_uniform`, depends only on `EVALUATION_SEED` and the index of a row in its split.
All runs, commands, batch sizes and numbers of workers therefore see the same binarised or dequantised images.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from keras import ops

_PHILOX = 1
# Streams, which never share random numbers.
POSTERIOR, OBSERVATION, EVALUATION, EVALUATION_OBSERVATION, PRIOR, INSPECTION, IMPORTANCE, PIXELS = range(8)
_STREAMS = 8

EVALUATION_SEED = 0  # seed of the pixel noise of evaluation, independent of the run's seed

# Philox4x32-10: multipliers, increments of the key per round, and number of rounds.
_MULTIPLIERS, _WEYL, _ROUNDS = (0xD2511F53, 0xCD9E8D57), (0x9E3779B9, 0xBB67AE85), 10


def row_bits(seed: Any, stream: int, step: Any, first_row: Any, rows: Any, width: int) -> Any:
    """Returns uniform 32-bit integers, [rows, width], for the rows first_row, ..., first_row + rows - 1."""
    blocks = -(-width // 4)  # each counter yields four numbers
    key = _key(seed, stream, step)
    counter = tf.stack([tf.cast(tf.cast(first_row, tf.int64) * blocks, tf.uint64), tf.constant(0, tf.uint64)])
    bits = tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=[rows, 4 * blocks], key=key, counter=counter, alg=_PHILOX, dtype=tf.uint32
    )
    return bits[:, :width]


def row_uniform(seed: Any, stream: int, step: Any, first_row: Any, rows: Any, width: int) -> Any:
    """Returns uniform numbers in the open interval (0, 1), [rows, width], float32, with 23 random bits each."""
    return _uniform(row_bits(seed, stream, step, first_row, rows, width))


def row_normal(seed: Any, stream: int, step: Any, first_row: Any, rows: Any, width: int) -> Any:
    """Returns standard normal numbers, [rows, width], float32, by the inverse distribution function; |eps| < 5.3.

    If compiled by XLA, they are bitwise the same for any split of the rows. In eager mode, the last bits of a number
    depend on its position in the tensor, as vectorised and scalar code round erfinv differently.
    """
    return _normal(row_uniform(seed, stream, step, first_row, rows, width))


def row_noise(
    seed: Any, stream: int, step: Any, first_row: Any, rows: Any, shapes: Mapping[str, Sequence[int]],
    samples: int | None = None, dtype: str = "float32",
) -> dict[str, Any]:  # fmt: skip
    """Returns standard normal noise by name, each [rows, *shape], or [rows, samples, *shape].

    The numbers of a row are one range of the generator, divided among the names in their order.

    Args:
        seed: seed of the run, an integer or an int64 tensor.
        stream: one of the streams above.
        step: index of the update.
        first_row: index of the first row in the global batch.
        rows: number of rows, an integer or a tensor.
        shapes: shape of the noise of one row, by name.
        samples: number of draws per row; None draws once, without a samples axis.
        dtype: dtype of the result.
    """
    sizes = [math.prod(shape) for shape in shapes.values()]
    leading = [rows] if samples is None else [rows, samples]
    noise = row_normal(seed, stream, step, first_row, rows, (samples or 1) * sum(sizes))
    return _by_name(tf.cast(tf.reshape(noise, [*leading, sum(sizes)]), dtype), shapes)


def numbered_bits(seed: Any, stream: int, step: Any, numbers: Any, width: int) -> Any:
    """Returns the integers that `row_bits` draws for rows with arbitrary indices `numbers`, [B]; shape [B, width]."""
    blocks = -(-width // 4)
    high32, low32 = tf.constant(32, tf.uint64), tf.constant(0xFFFFFFFF, tf.uint64)

    def halves(x: Any) -> tuple[Any, Any]:
        return tf.bitwise.bitwise_and(x, low32), tf.bitwise.right_shift(x, high32)

    counters = tf.cast(numbers, tf.int64)[:, None] * blocks + tf.range(blocks, dtype=tf.int64)
    words = [*halves(tf.cast(counters, tf.uint64)), *(tf.zeros_like(counters, tf.uint64) for _ in range(2))]
    keys = list(halves(_key(seed, stream, step)[0]))
    for _ in range(_ROUNDS):
        products = [halves(tf.constant(m, tf.uint64) * words[i]) for m, i in zip(_MULTIPLIERS, (0, 2), strict=True)]
        (low0, high0), (low1, high1) = products
        words = [
            tf.bitwise.bitwise_xor(tf.bitwise.bitwise_xor(high1, words[1]), keys[0]), low1,
            tf.bitwise.bitwise_xor(tf.bitwise.bitwise_xor(high0, words[3]), keys[1]), low0,
        ]  # fmt: skip
        keys = [halves(key + tf.constant(more, tf.uint64))[0] for key, more in zip(keys, _WEYL, strict=True)]
    bits = tf.cast(tf.stack(words, axis=-1), tf.uint32)
    return tf.reshape(bits, (-1, 4 * blocks))[:, :width]


def numbered_noise(
    seed: int, stream: int, step: Any, numbers: Any, shapes: Mapping[str, Sequence[int]], dtype: str = "float32"
) -> dict[str, Any]:
    """Returns the noise that `row_noise` draws for rows with arbitrary indices `numbers`, [B]; by name, [B, *shape]."""
    width = sum(math.prod(shape) for shape in shapes.values())
    noise = _normal(_uniform(numbered_bits(seed, stream, step, numbers, width)))
    return _by_name(tf.cast(noise, dtype), shapes)


def pixel_uniform(numbers: Any, width: int) -> Any:
    """Returns the pixel noise of evaluation, uniform in (0, 1), [B, width], for rows with the indices `numbers`, [B].

    The index of a row is its position in the order in which rows are distributed to shards, so it does not depend on
    the number of shards; see `LanePlan`.
    """
    return _uniform(numbered_bits(EVALUATION_SEED, EVALUATION_OBSERVATION, 0, numbers, width))


def _key(seed: Any, stream: int, step: Any) -> Any:
    folded = tf.stack([tf.convert_to_tensor(seed * _STREAMS + stream, tf.int64), tf.cast(step, tf.int64)])
    return tf.raw_ops.StatelessRandomGetKeyCounter(seed=folded)[0]


def _by_name(noise: Any, shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Divides the numbers of each row, [..., n], among names in their order."""
    leading, sizes = ops.shape(noise)[:-1], [math.prod(shape) for shape in shapes.values()]
    parts = tf.split(noise, sizes, axis=-1) if len(sizes) > 1 else [noise]
    return {
        name: tf.reshape(part, [*leading, *shape]) for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }


def _normal(uniform: Any) -> Any:
    """Returns standard normal numbers from uniform ones, by the inverse distribution function."""
    return np.float32(np.sqrt(2.0)) * tf.math.erfinv(2.0 * uniform - 1.0)


def _uniform(bits: Any) -> Any:
    """Returns the upper 23 of 32 random bits as a number in the open interval (0, 1), float32."""
    high = tf.cast(tf.bitwise.right_shift(bits, tf.constant(9, tf.uint32)), tf.float32)
    return (high + 0.5) * 2.0**-23
