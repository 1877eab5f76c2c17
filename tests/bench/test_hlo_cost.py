"""Operation counts of compiled programs against known counts."""

import pytest
import tensorflow as tf

from vaedist.bench.hlo_cost import Dot, work_of


def compiled(function, *shapes):
    arguments = [tf.ones(shape) for shape in shapes]
    return tf.function(function, jit_compile=True).experimental_get_compiler_ir(*arguments)(stage="optimized_hlo")


@pytest.mark.parametrize(
    ("transposed", "left", "right"),
    [((False, False), (96, 64), (64, 80)), ((True, False), (64, 96), (64, 80)), ((False, True), (96, 64), (80, 64))],
)
def test_a_matrix_product(transposed, left, right):
    work = work_of(compiled(lambda a, b: tf.matmul(a, b, *transposed), left, right))
    assert work.products == (Dot(96, 64, 80, *transposed),)
    assert work.flops == 2 * 96 * 64 * 80
    assert work.bytes == 4 * (96 * 64 + 64 * 80 + 96 * 80)


def test_a_fusion_reads_and_writes_once_for_any_computation():
    text = compiled(lambda a, b: tf.tanh(a * b) + a, (100, 300), (100, 300))
    work = work_of(text)
    assert work.products == ()
    assert work.bytes == 4 * 3 * 100 * 300


def test_the_body_of_a_loop_counts_once():
    def loop(a, b):
        return tf.while_loop(lambda k, _: k < 7, lambda k, c: (k + 1, tf.matmul(c, b)), (tf.constant(0), a))[1]

    work = work_of(compiled(loop, (64, 64), (64, 64)))
    assert work.products == (Dot(64, 64, 64),)


def test_a_product_inside_a_fusion_counts():
    text = """
fused (p: f32[8,16], q: f32[16,4]) -> f32[8,4] {
  %p = f32[8,16]{1,0} parameter(0)
  %q = f32[16,4]{1,0} parameter(1)
  %dot = f32[8,4]{1,0} dot(%p, %q), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %tanh = f32[8,4]{1,0} tanh(%dot)
}

ENTRY main (a: f32[8,16], b: f32[16,4]) -> f32[8,4] {
  %a = f32[8,16]{1,0} parameter(0)
  %b = f32[16,4]{1,0} parameter(1)
  ROOT %fusion = f32[8,4]{1,0} fusion(%a, %b), kind=kOutput, calls=%fused
}
"""
    work = work_of(text)
    assert work.products == (Dot(8, 16, 4),)
    assert work.bytes == 4 * (8 * 16 + 16 * 4 + 8 * 4)
