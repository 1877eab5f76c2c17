"""Rates of matrix products and convolutions in float32 and bfloat16, compiled by XLA and by TensorFlow's own kernels.

    python tests/benchmarks/precision.py [--threads 2] [--rounds 5] [--batch 32 256 1024]

On CPUs, TensorFlow's own kernels are those of oneDNN. The products are those of the outermost layers of the MLP of
jobs/cifar10-iaf.toml, and the convolutions those of the first level of a ResNet VAE, of width 32 and 64. All alternate
in each round. Prints medians in GFLOP/s, with minimum and maximum.
"""

import argparse

import tensorflow as tf

from vaedist.bench.record import GIGA
from vaedist.bench.tasks import Task, in_turn
from vaedist.devices.compilation import compiled, traced
from vaedist.devices.strategy import configure_devices

REPEATS = 8  # per call
DTYPES = {"float32": tf.float32, "bfloat16": tf.bfloat16}
COMPILERS = {"XLA": compiled, "own kernels": traced}


def repeated(operation):
    """Returns a function that applies an operation several times, each time to an input that depends on the last."""

    def run(x, kernel):
        total = tf.zeros(())
        for _ in range(REPEATS):
            y = operation(x, kernel)
            total += tf.cast(tf.reduce_sum(y[..., :1]), tf.float32)
            x += tf.cast(1e-30 * total, x.dtype)
        return total

    return run


def task(operation, compiler, dtype, left, right, flops):
    """Returns a task that multiplies random tensors of these shapes."""
    random = tf.random.Generator.from_seed(0)
    x, kernel = (tf.cast(random.normal(shape), dtype) for shape in (left, right))
    function = compiler(repeated(operation))
    return Task(lambda: function(x, kernel).numpy(), REPEATS * flops / GIGA, "GFLOP/s")


def convolve(x, kernel):
    """Returns the 3x3 convolution."""
    return tf.nn.conv2d(x, kernel, 1, "SAME")


def main():
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, nargs="+", default=[32, 256, 1024])
    options = parser.parse_args()
    configure_devices(options.threads, 0, 1)
    cases = {}
    for rows in options.batch:
        for inputs, outputs in ((500, 3072), (3072, 500)):
            name = f"product, {rows} x {inputs} x {outputs}"
            cases[name] = tf.matmul, (rows, inputs), (inputs, outputs), 2 * rows * inputs * outputs
        for width in (32, 64):
            name = f"convolution, {rows} images of 16 x 16 x {width}"
            flops = 2 * rows * 256 * 9 * width * width
            cases[name] = convolve, (rows, 16, 16, width), (3, 3, width, width), flops
    tasks = {
        (name, compiler, dtype): task(operation, COMPILERS[compiler], DTYPES[dtype], left, right, flops)
        for name, (operation, left, right, flops) in cases.items()
        for compiler in COMPILERS
        for dtype in DTYPES
    }
    found = in_turn(tasks, options.rounds)
    columns = [(compiler, dtype) for compiler in COMPILERS for dtype in DTYPES]
    print("| | " + " | ".join(f"{compiler}, {dtype}" for compiler, dtype in columns) + " |")
    print("|---" * (1 + len(columns)) + "|")
    for name in cases:
        measures = [found[name, *column] for column in columns]
        rates = [f"{one.median:.0f} ({min(one.samples):.0f} to {max(one.samples):.0f})" for one in measures]
        print(f"| {name} | " + " | ".join(rates) + " |")


if __name__ == "__main__":
    main()
