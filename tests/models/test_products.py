"""Products of rows with kernels: their gradients, and their masks in a graph."""

import numpy as np
import pytest
import tensorflow as tf

from vaedist.bench.hlo_cost import Dot as Counted
from vaedist.bench.hlo_cost import work_of
from vaedist.models.products import Product, boolean_tensor, kernel_first_product, products_seen

X, KERNEL, WEIGHT = (np.random.default_rng(i).normal(size=size).astype("float32") for i, size in enumerate(
    [(4, 30), (30, 20), (4, 20)]
))  # fmt: skip


def gradients(product):
    x, kernel = tf.constant(X), tf.constant(KERNEL)
    with tf.GradientTape() as tape:
        tape.watch([x, kernel])
        loss = tf.reduce_sum(WEIGHT * tf.tanh(product(x, kernel)))
    return tape.gradient(loss, [x, kernel])


def test_the_gradients_of_a_product_whose_kernel_comes_first():
    wanted = gradients(tf.matmul)
    found = tf.function(lambda: gradients(kernel_first_product), jit_compile=True)()
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kernel_first", [False, True])
def test_the_compiler_leaves_the_kernel_first(kernel_first):
    kernel = tf.Variable(KERNEL)
    kernel.path = "kernel"

    def gradient(x):
        with tf.GradientTape() as tape, products_seen(kernel_first=kernel_first):
            tape.watch(x)
            loss = tf.reduce_sum(WEIGHT * tf.tanh(Product(kernel)(x)))
        return tape.gradient(loss, x)

    program = tf.function(gradient, jit_compile=True)
    text = program.experimental_get_compiler_ir(tf.constant(X))(stage="optimized_hlo")
    backward = Counted(30, 20, 4, right_transposed=True) if kernel_first else Counted(4, 20, 30, right_transposed=True)
    assert work_of(text).products == (Counted(4, 30, 20), backward)


def test_a_mask_is_written_into_a_graph_as_bytes():
    mask = np.tri(30, 20, dtype=bool)
    program = tf.function(lambda: boolean_tensor(mask)).get_concrete_function()
    np.testing.assert_array_equal(program(), mask)
    kinds = {op.get_attr("dtype") for op in program.graph.get_operations() if op.type == "Const"}
    assert kinds == {tf.uint8}
