"""Random numbers keyed by (seed, stream, step, row), the same whatever the devices that draw them.

Row r of a batch owns a fixed run of counters of the Philox generator (Salmon et al. 2011), so that a replica
that holds rows a, ..., b of a global batch draws exactly the numbers that one device holding all rows would
give them.

Pixels are evaluated with `pixel_uniform`, whose numbers depend on `EVALUATION_SEED` and the row's number in its split
alone: every run, command, batch size and number of workers sees the same binarised or dequantised images.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

_PHILOX = 1
# Streams, which must not share numbers.
POSTERIOR, OBSERVATION, EVALUATION, EVALUATION_OBSERVATION, PRIOR, INSPECTION, IMPORTANCE, PIXELS = range(8)
_STREAMS = 8

EVALUATION_SEED = 0  # key of the pixels that are evaluated, whatever the run's seed

# Philox4x32-10: multipliers, what is added to the key in each round, and the number of rounds.
_MULTIPLIERS, _WEYL, _ROUNDS = (0xD2511F53, 0xCD9E8D57), (0x9E3779B9, 0xBB67AE85), 10


def row_bits(seed: int, stream: int, step: Any, first_row: Any, rows: int, width: int) -> Any:
    """Uniform 32-bit integers, [rows, width], for the rows first_row, ..., first_row + rows - 1."""
    blocks = -(-width // 4)  # one counter gives four numbers
    key = _key(seed, stream, step)
    counter = tf.stack([tf.cast(tf.cast(first_row, tf.int64) * blocks, tf.uint64), tf.constant(0, tf.uint64)])
    bits = tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=[rows, 4 * blocks], key=key, counter=counter, alg=_PHILOX, dtype=tf.uint32
    )
    return bits[:, :width]


def row_uniform(seed: int, stream: int, step: Any, first_row: Any, rows: int, width: int) -> Any:
    """Uniform numbers in the open interval (0, 1), [rows, width], float32, with 23 random bits each."""
    return _uniform(row_bits(seed, stream, step, first_row, rows, width))


def row_normal(seed: int, stream: int, step: Any, first_row: Any, rows: int, width: int) -> Any:
    """Standard normal numbers, [rows, width], float32, by the inverse distribution function; |eps| < 5.3.

    Compiled by XLA they are the same bits however rows are split. Run eagerly, the last bits of a number depend
    on where it stands in the tensor: vectorised and scalar code round erfinv differently.
    """
    uniform = row_uniform(seed, stream, step, first_row, rows, width)
    return np.float32(np.sqrt(2.0)) * tf.math.erfinv(2.0 * uniform - 1.0)


def row_noise(
    seed: int, stream: int, step: Any, first_row: Any, rows: int, shapes: Mapping[str, Sequence[int]],
    samples: int | None = None, dtype: str = "float32",
) -> dict[str, Any]:  # fmt: skip
    """Returns standard normal noise of several names, each [rows, *shape], or [rows, samples, *shape].

    A row's numbers are one run of the generator, cut into the names in their order.

    Args:
        seed: key of the run.
        stream: that shares no numbers with another.
        step: number of the update.
        first_row: number of the first row within the global batch.
        rows: how many.
        shapes: of one row's noise, by name.
        samples: number of draws for each row; None draws once, without that axis.
        dtype: of the result.
    """
    sizes = [math.prod(shape) for shape in shapes.values()]
    leading = [rows] if samples is None else [rows, samples]
    noise = row_normal(seed, stream, step, first_row, rows, (samples or 1) * sum(sizes))
    noise = tf.cast(tf.reshape(noise, [*leading, sum(sizes)]), dtype)
    parts = tf.split(noise, sizes, axis=-1) if len(sizes) > 1 else [noise]
    return {
        name: tf.reshape(part, [*leading, *shape]) for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }


def numbered_bits(seed: int, stream: int, step: Any, numbers: Any, width: int) -> Any:
    """Uniform 32-bit integers, [B, width], for rows of any numbers, [B]; those that `row_bits` gives the same rows."""
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


def pixel_uniform(numbers: Any, width: int) -> Any:
    """Noise of the pixels that are evaluated, uniform in (0, 1), [B, width], for rows of a split, [B].

    The number of a row is its place in the order in which rows are dealt to shards, so that it does not depend on how
    many there are; see `LanePlan`.
    """
    return _uniform(numbered_bits(EVALUATION_SEED, EVALUATION_OBSERVATION, 0, numbers, width))


def _key(seed: int, stream: int, step: Any) -> Any:
    folded = tf.stack([tf.constant(seed * _STREAMS + stream, tf.int64), tf.cast(step, tf.int64)])
    return tf.raw_ops.StatelessRandomGetKeyCounter(seed=folded)[0]


def _uniform(bits: Any) -> Any:
    """The upper 23 of 32 random bits as a number in the open interval (0, 1), float32."""
    high = tf.cast(tf.bitwise.right_shift(bits, tf.constant(9, tf.uint32)), tf.float32)
    return (high + 0.5) * 2.0**-23
