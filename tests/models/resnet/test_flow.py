"""The flow of masked convolutions: masks, log-determinant and inverse, against dense Jacobians in float64."""

import numpy as np
import pytest
import tensorflow as tf

from vaedist.checks.mathematics import dependencies, inverse, log_determinant
from vaedist.models.flows.flow import FlowCase
from vaedist.models.resnet.flow import ConvolutionalFlow, FlattenedFlow, channel_mask
from vaedist.models.resnet.options import ConvolutionalFlowOptions

HEIGHT, WIDTH, LATENT, CONTEXT = 4, 4, 3, 5


def make_flow(**options):
    """Returns a flow in float64 with random weights of every kind."""
    flow = ConvolutionalFlow(LATENT, CONTEXT, ConvolutionalFlowOptions(**options), seed=1, dtype="float64")
    flow.build()
    rng = np.random.default_rng(0)
    for variable in flow.trainable_variables:
        variable.assign(rng.normal(0, 0.5, variable.shape))
    return flow


def case_of(flow, context=CONTEXT):
    rng = np.random.default_rng(1)
    z, h = (tf.constant(rng.normal(size=(2, HEIGHT * WIDTH * channels))) for channels in (LATENT, context))
    return FlowCase(FlattenedFlow(flow, HEIGHT, WIDTH, context), z, h)


@pytest.mark.parametrize(
    "options",
    [
        {"layers": 2},
        {"layers": 1, "depth": 2},
        {"layers": 1, "transform": "gated"},
        {"layers": 1, "transform": "location", "depth": 2},
        {"layers": 0, "depth": 2},
    ],
)
def test_masks_log_determinant_and_inverse(options):
    case = case_of(make_flow(**options), context=CONTEXT if options["layers"] else 0)
    for check in (dependencies, log_determinant, inverse):
        found = list(check(case))
        assert found
        for each in found:
            assert each.passed, each


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_a_parameter_depends_on_every_latent_before_it_within_its_receptive_field(layers):
    flow = make_flow(layers=layers, depth=2)
    reach = layers + 1
    for network in flow.networks:
        z = tf.constant(np.random.default_rng(1).normal(size=(1, HEIGHT, WIDTH, LATENT)))
        context = tf.zeros((1, HEIGHT, WIDTH, CONTEXT), tf.float64)
        with tf.GradientTape() as tape:
            tape.watch(z)
            m = network(z, context)[0]
        jacobian = tape.jacobian(m, z).numpy()[0, :, :, :, 0]  # [H, W, C, H, W, C]
        place = np.empty(HEIGHT * WIDTH * LATENT, int)
        place[network.order(HEIGHT, WIDTH)] = np.arange(len(place))
        place = place.reshape(HEIGHT, WIDTH, LATENT)
        sign = -1 if network.reverse else 1
        for out in np.ndindex(place.shape):
            for into in np.ndindex(place.shape):
                down, right = (sign * (into[axis] - out[axis]) for axis in (0, 1))
                near = 0 <= down <= reach and -down <= right <= reach
                before = place[into] < place[out]
                assert (jacobian[out + into] != 0) == (near and before), (out, into)


def test_a_context_reaches_every_parameter_near_it():
    (network,) = make_flow(layers=1).networks
    z = tf.zeros((1, HEIGHT, WIDTH, LATENT), tf.float64)
    context = tf.zeros((1, HEIGHT, WIDTH, CONTEXT), tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(context)
        m = network(z, context)[0]
    jacobian = tape.jacobian(m, context).numpy()[0, :, :, :, 0]
    assert (jacobian[0, 1, -1, 1, 1] != 0).all(), "the last channel depends on the whole context of the row below"
    assert (jacobian[0, 1, :, 0, 1] != 0).any(), "and on some of its own position's"
    assert not (jacobian[1, 1, :, 0, 1] != 0).any(), "but on none above"


def test_a_step_without_scale_preserves_volume():
    case = case_of(make_flow(transform="location", layers=1))
    np.testing.assert_array_equal(case.flow(case.z, case.h).log_det, 0)


@pytest.mark.parametrize(("inputs", "outputs"), [(3, 8), (8, 3), (4, 4)])
def test_channel_masks_are_triangular_in_groups(inputs, outputs):
    strict, loose = (channel_mask(inputs, outputs, strict=each) for each in (True, False))
    assert not strict[:, 0].any()
    assert loose[:, -1].all()
    assert (strict <= loose).all()
    for mask in (strict, loose):
        assert (np.diff(mask.astype(int), axis=0) <= 0).all()
        assert (np.diff(mask.astype(int), axis=1) >= 0).all()
