"""Limits of a device, as tasks to time: matrix products, memory bandwidth and updates, in compiled programs."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from vaedist.bench.hlo_cost import Dot
from vaedist.bench.record import GIGA
from vaedist.bench.tasks import Task
from vaedist.devices.compilation import compiled
from vaedist.training.optimizer import Optimizer

REPEATS = 4  # per call, to make the overhead of the call negligible
FLOAT = 4  # bytes of a float32


def products_task(products: Sequence[Dot]) -> Task:
    """Returns a task of matrix products alone, one after another, in float32 and in the program's memory layouts.

    For convolutions, the products are those of `Convolution.product`, and not the convolutions as the compiler
    generates them: their time is then a limit that does not depend on how good the generated code is. A convolution
    that multiplies each pixel by each weight of its kernel takes at least the time of its product. Only algorithms that
    multiply less often, such as Winograd's, can be faster; the CPU compiler of TensorFlow has none.
    """
    random = tf.random.Generator.from_seed(0)

    def kept(sizes: tuple[int, int], transposed: bool) -> Any:
        return random.normal(sizes[::-1] if transposed else sizes)

    pairs = [
        (kept((p.rows, p.inner), p.left_transposed), kept((p.inner, p.columns), p.right_transposed)) for p in products
    ]

    @compiled
    def multiply(pairs: Any) -> Any:
        def body(k: Any, results: Any) -> Any:
            found = []
            for product, (a, b), before in zip(products, pairs, results, strict=True):
                # The smaller operand depends on the previous result, or the compiler would multiply only once.
                factor = 1.0 + 1e-30 * before[0, 0]
                a, b = (a * factor, b) if product.rows <= product.columns else (a, b * factor)
                found.append(tf.matmul(a, b, product.left_transposed, product.right_transposed))
            return k + 1, tuple(found)

        start = tf.constant(0), tuple(tf.zeros((p.rows, p.columns)) for p in products)
        _, results = tf.while_loop(lambda k, _: k < REPEATS, body, start, maximum_iterations=REPEATS)
        return tf.add_n([result[0, 0] for result in results])

    flops = REPEATS * sum(product.flops for product in products)
    return Task(lambda: multiply(pairs).numpy(), flops / GIGA, "GFLOP/s")


def memory_task(array_bytes: int) -> Task:
    """Returns a task that adds an array to three others, a <- a + s c, which reads two arrays and writes one.

    It has the memory traffic of an update of weights with two moments, including its use of the caches, without the
    arithmetic.

    Args:
        array_bytes: size of each of the four arrays.
    """
    *arrays, source = (tf.Variable(tf.ones([array_bytes // FLOAT])) for _ in range(4))

    @compiled
    def grow() -> Any:
        def body(k: Any, totals: Any) -> Any:
            return k + 1, tuple(total + 1e-3 * tf.cast(k, tf.float32) * source for total in totals)

        start = tf.constant(0), tuple(array.read_value() for array in arrays)
        _, totals = tf.while_loop(lambda k, _: k < REPEATS, body, start, maximum_iterations=REPEATS)
        for array, total in zip(arrays, totals, strict=True):
            array.assign(total)
        return tf.add_n([total[0] for total in totals])

    return Task(lambda: grow().numpy(), REPEATS * 9 * array_bytes / GIGA, "GB/s")


def update_task(optimizer: Optimizer, shapes: Sequence[Sequence[int]]) -> Task:
    """Returns a task of an optimizer's updates alone, of weights of these shapes with constant gradients."""
    weights, gradients, *slots = (
        [tf.Variable(tf.fill(shape, value)) for shape in shapes]
        for value in (0.0, 1e-3, *(0.0 for _ in optimizer.slots))
    )

    @compiled
    def update() -> Any:
        for step in range(REPEATS):
            rates = optimizer.rates(tf.constant(step, tf.int64))
            for weight, gradient, *kept in zip(weights, gradients, *slots, strict=True):
                owned = [weight, *kept]
                values = optimizer.update(rates, weight.read_value(), gradient, *(one.read_value() for one in kept))
                for variable, value in zip(owned, values, strict=True):
                    variable.assign(value)
        return tf.add_n([tf.reshape(weight, [-1])[0] for weight in weights])

    return Task(lambda: update().numpy(), REPEATS, "updates/s")
