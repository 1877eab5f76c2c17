"""Random numbers keyed by (seed, stream, step, row), the same whatever the devices that draw them.

Row r of a batch owns a fixed run of counters of the Philox generator (Salmon et al. 2011), so that a replica
that holds rows a, ..., b of a global batch draws exactly the numbers that one device holding all rows would
give them.
"""

from typing import Any

import numpy as np
import tensorflow as tf

_PHILOX = 1
# Streams, which must not share numbers.
POSTERIOR, OBSERVATION, EVALUATION, EVALUATION_OBSERVATION, PRIOR, INSPECTION, IMPORTANCE, PIXELS = range(8)
_STREAMS = 8


def row_bits(seed: int, stream: int, step: Any, first_row: Any, rows: int, width: int) -> Any:
    """Uniform 32-bit integers, [rows, width], for the rows first_row, ..., first_row + rows - 1."""
    blocks = -(-width // 4)  # one counter gives four numbers
    folded = tf.stack([tf.constant(seed * _STREAMS + stream, tf.int64), tf.cast(step, tf.int64)])
    key, _ = tf.raw_ops.StatelessRandomGetKeyCounter(seed=folded)
    counter = tf.stack([tf.cast(tf.cast(first_row, tf.int64) * blocks, tf.uint64), tf.constant(0, tf.uint64)])
    bits = tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=[rows, 4 * blocks], key=key, counter=counter, alg=_PHILOX, dtype=tf.uint32
    )
    return bits[:, :width]


def row_uniform(seed: int, stream: int, step: Any, first_row: Any, rows: int, width: int) -> Any:
    """Uniform numbers in the open interval (0, 1), [rows, width], float32, with 23 random bits each."""
    bits = row_bits(seed, stream, step, first_row, rows, width)
    high = tf.cast(tf.bitwise.right_shift(bits, tf.constant(9, tf.uint32)), tf.float32)
    return (high + 0.5) * 2.0**-23


def row_normal(seed: int, stream: int, step: Any, first_row: Any, rows: int, width: int) -> Any:
    """Standard normal numbers, [rows, width], float32, by the inverse distribution function; |eps| < 5.3.

    Compiled by XLA they are the same bits however rows are split. Run eagerly, the last bits of a number depend
    on where it stands in the tensor: vectorised and scalar code round erfinv differently.
    """
    uniform = row_uniform(seed, stream, step, first_row, rows, width)
    return np.float32(np.sqrt(2.0)) * tf.math.erfinv(2.0 * uniform - 1.0)
