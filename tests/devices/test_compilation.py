"""Arguments of compiled functions."""

import psutil
import tensorflow as tf

from vaedist.devices.compilation import scalar

CALLS = 50_000


def test_a_number_is_not_cached():
    process = psutil.Process()
    for number in range(1000):
        scalar(number, tf.int64)
    before = process.memory_info().rss
    for number in range(1000, 1000 + CALLS):
        assert scalar(number, tf.int64).dtype == tf.int64
    assert (process.memory_info().rss - before) / CALLS < 200  # bytes; 750 if each is kept
    assert scalar(2.5, tf.float32).numpy() == 2.5
    assert scalar(True, "float64").numpy() == 1.0
