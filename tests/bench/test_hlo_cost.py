"""Operation counts of compiled programs against known counts."""

import numpy as np
import pytest
import tensorflow as tf

from vaedist.bench.hlo_cost import Convolution, Dot, work_of
from vaedist.config import Experiment
from vaedist.data.lane_reader import LaneReader
from vaedist.data.lanes import LanePlan
from vaedist.models.build import build_model
from vaedist.models.convolutions import convolve_half, transposed_double
from vaedist.training.build import build_step


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


def multiplications(x, kernel, *arguments):
    """Returns how many products of a pixel and a weight a convolution of two shapes adds up: each is 1 for ones."""
    return int(tf.reduce_sum(tf.nn.conv2d(tf.ones(x), tf.ones(kernel), *arguments)))


@pytest.mark.parametrize(
    ("size", "arguments"),
    [
        ((3, 3), (1, "SAME")),
        ((3, 3), (1, "VALID")),
        ((2, 3), (1, [[0, 0], [0, 1], [1, 1], [0, 0]])),
        ((5, 5), (2, "SAME")),
        ((3, 2), (1, "SAME", "NHWC", 2)),
    ],
    ids=["same", "valid", "asymmetric", "stride", "dilation"],
)
def test_a_convolution_and_its_gradients_multiply_each_pixel_as_often(size, arguments):
    x, kernel = (2, 8, 6, 3), (*size, 3, 4)

    def gradient(number):
        def taken(x, kernel):
            with tf.GradientTape() as tape:
                tape.watch((x, kernel))
                score = tf.reduce_sum(tf.nn.conv2d(x, kernel, *arguments) ** 2)
            return tape.gradient(score, (x, kernel))[number]

        return taken

    once = 2 * multiplications(x, kernel, *arguments)
    forward = work_of(compiled(lambda x, kernel: tf.nn.conv2d(x, kernel, *arguments), x, kernel))
    assert forward.products == ()
    assert forward.flops == once
    for number in range(2):
        assert work_of(compiled(gradient(number), x, kernel)).flops == 2 * once  # the score's forward pass is another


def test_the_sizes_of_a_convolution():
    x, kernel = (5, 16, 8, 6), (3, 3, 6, 7)
    work = work_of(compiled(lambda x, kernel: tf.nn.conv2d(x, kernel, 1, "SAME"), x, kernel))
    (found,) = work.convolutions
    assert found == Convolution(images=5, positions=16 * 8, pairs=(3 * 16 - 2) * (3 * 8 - 2), inputs=6, outputs=7)
    assert found.product == Dot(5 * 16 * 8, round(6 * 46 * 22 / 128), 7)
    assert found.product.flops == pytest.approx(work.flops, rel=0.01)
    assert work.bytes >= 4 * (5 * 128 * 6 + 9 * 6 * 7 + 5 * 128 * 7)


def test_a_kernel_over_blocks_counts_with_its_zeros():
    x, kernel = (2, 8, 8, 3), (5, 5, 3, 4)
    work = work_of(compiled(convolve_half, x, kernel))
    assert work.flops == 2 * multiplications((2, 4, 4, 12), (3, 3, 12, 4), 1, "SAME")
    work = work_of(compiled(transposed_double, (2, 4, 4, 3), kernel))
    assert work.flops == 2 * multiplications((2, 4, 4, 3), (3, 3, 3, 16), 1, "SAME")


def test_a_grouped_convolution_counts_the_channels_of_a_group():
    attributes = "window={size=3x3 stride=2x2 pad=0_1x0_1}, dim_labels=b01f_01io->b01f, feature_group_count=2"
    text = f"""
ENTRY main (a: f32[2,8,6,4], b: f32[3,3,2,10]) -> f32[2,4,3,10] {{
  %a = f32[2,8,6,4]{{3,2,1,0}} parameter(0)
  %b = f32[3,3,2,10]{{3,2,1,0}} parameter(1)
  ROOT %c = f32[2,4,3,10]{{3,2,1,0}} convolution(%a, %b), {attributes}
}}
"""
    work = work_of(text)
    assert work.convolutions == (Convolution(2, 12, 11 * 8, 2, 10),)
    assert work.bytes == 4 * (2 * 48 * 4 + 9 * 2 * 10 + 2 * 12 * 10)


@pytest.mark.slow
def test_a_step_of_a_resnet_counts_as_by_hand(strategy):
    size, batch, width, latent = 8, 4, 6, 2
    experiment = Experiment.from_dict(
        {
            "model": {"type": "resnet", "width": width, "latent": latent, "blocks": 2, "flow": {"layers": 1}},
            "training": {"steps_per_call": 1, "global_batch": batch},
        }
    )
    with strategy.scope():
        model = build_model(experiment, (size, size, 3))
    step = build_step(experiment, model, strategy, steps_per_epoch=1, global_batch=batch)
    images = np.zeros((8, size, size, 3), np.uint8)
    reader = LaneReader(LanePlan(8, 8, batch), [images[lane : lane + 1] for lane in range(8)], seed=0)
    work = work_of(step.program(reader.read(0, 0, 1, 1)))

    side = size // 2
    taps = (3 * side - 2) ** 2  # of 3x3 kernels that are on a pixel, over all positions
    masked = (2 * side - 1) * (3 * side - 2)  # of 2x3 kernels
    stem, head = 4 * 3 * width * taps, width * 4 * 2 * 3 * taps  # 5x5 over pixels is 3x3 over blocks of 2x2
    up = width * (2 * latent + width) + width * width + width * width + width * (2 * latent + width)
    down, above = width * (4 * latent + 2 * width) + 2 * (latent + width) * width, width * (4 * latent + 2 * width)
    flow = 2 * (latent * width + width * 2 * latent) * masked
    forward = batch * (stem + head + (up + down) * taps + flow) + above * taps  # the top's input has no images
    assert work.products == ()
    assert work.flops == 2 * (3 * forward - batch * stem)  # the images have no gradient
