"""Mathematical properties of the flow, in float64 and with random weights far from the initial ones."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from vaedist.models.flows import masks
from vaedist.models.flows.autoregressive import AutoregressiveNetwork
from vaedist.models.flows.inverse_autoregressive import InverseAutoregressiveFlow
from vaedist.models.flows.options import IAFOptions
from vaedist.models.flows.transforms import Gated

TRANSFORMS = ["gated", "affine", "location"]
SIZES = [(1, 4, 1), (2, 2, 1), (5, 16, 1), (5, 1, 2), (7, 3, 1), (8, 5, 2), (6, 20, 3), (4, 9, 3)]
DEPTHS = [1, 2, 3, 5]


def randomise(layer, seed=0, spread=0.6):
    rng = np.random.default_rng(seed)
    layer.set_weights([rng.normal(0, spread, w.shape) for w in layer.get_weights()])
    return layer


def network(latent, width, layers):
    made = AutoregressiveNetwork(latent, width, layers, dtype="float64")
    made.build((None, latent))
    return randomise(made)


def flow(latent, depth, width=11, layers=1, *, context=None, seed=0, **options):
    context = latent if context is None else context
    options = IAFOptions(depth=depth, width=width, layers=layers, **options)
    made = InverseAutoregressiveFlow(latent, options, context=context, seed=seed, dtype="float64")
    made.build((None, latent))
    return made


def normal(*shape, seed=1):
    return tf.constant(np.random.default_rng(seed).normal(size=shape))


def jacobian(function, x):
    """Returns d function(x) / dx of each image, [B, out, in], by output, as `batch_jacobian` is slow to trace."""
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        outputs = tf.unstack(function(x), axis=-1)
    rows = [tape.gradient(output, x, unconnected_gradients="zero") for output in outputs]
    return tf.stack(rows, axis=1).numpy()


def log_abs_det(jacobians):
    return np.linalg.slogdet(jacobians)[1]


def reach(latent, width):
    """Returns the mask of inputs that each output may depend on, [out, in]: those with a hidden unit between them."""
    degrees = masks.hidden_degrees(width, latent)
    return np.array([[((degrees > i) & (degrees <= o)).any() for i in range(latent)] for o in range(latent)], bool)


@pytest.mark.parametrize("part", [0, 1], ids=["m", "s"])
@pytest.mark.parametrize(("latent", "width", "layers"), SIZES)
def test_proposal_and_gate_depend_on_earlier_latents_only(latent, width, layers, part):
    net, h = network(latent, width, layers), normal(3, width, seed=2)
    found = jacobian(lambda z: net(z, h)[part], normal(3, latent))
    allowed = reach(latent, width)
    assert not np.triu(allowed).any()
    assert (found[:, ~allowed] == 0).all()  # not small: zero
    assert (found[:, allowed] != 0).all()


@pytest.mark.parametrize("part", [0, 1], ids=["m", "s"])
@pytest.mark.parametrize(("latent", "width", "layers"), SIZES)
def test_the_context_reaches_every_output_the_first_included(latent, width, layers, part):
    stack, z = randomise(flow(latent, 1, width, layers)), normal(3, latent)
    (net,) = stack.networks
    assert (jacobian(lambda h: net(z, stack.context(h))[part], normal(3, latent, seed=2)) != 0).all()


def test_the_context_of_an_image_does_not_reach_another_image():
    net, z, h = network(4, 9, 2), normal(3, 4), normal(3, 9, seed=2).numpy()
    before = np.concatenate(net(z, tf.constant(h)), axis=1)
    h[0] += 1
    after = np.concatenate(net(z, tf.constant(h)), axis=1)
    assert (before[0] != after[0]).all()
    np.testing.assert_array_equal(before[1:], after[1:])


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("latent", [1, 2, 5, 6])
@pytest.mark.parametrize("depth", DEPTHS)
def test_log_det_is_that_of_the_autograd_jacobian_image_by_image(latent, depth, layers, transform):
    stack, h = randomise(flow(latent, depth, layers=layers, transform=transform)), normal(4, latent, seed=2)
    z = normal(4, latent)
    found = tf.reduce_sum(stack(z, h).log_det, axis=-1)
    np.testing.assert_allclose(found, log_abs_det(jacobian(lambda z: stack(z, h).z, z)), atol=1e-10, rtol=0)


def test_chapter_fault_log_det_is_one_number_an_image_not_a_sum_over_the_batch():
    stack, z, h = randomise(flow(5, 3)), normal(6, 5), normal(6, 5, seed=2)
    together = tf.reduce_sum(stack(z, h).log_det, axis=-1).numpy()
    alone = [tf.reduce_sum(stack(z[i : i + 1], h[i : i + 1]).log_det).numpy() for i in range(6)]
    assert together.shape == (6,)
    assert len(set(np.round(together, 6))) == 6
    np.testing.assert_allclose(together, alone, atol=1e-12)


def test_chapter_fault_transform_networks_are_autoregressive_so_that_the_sum_of_log_gates_is_log_det():
    """With plain MLPs, the Jacobian of a step is full, and the sum of the log-gates is not its log-determinant."""
    net, z, h, gated = network(5, 16, 1), normal(4, 5), normal(4, 16, seed=2), Gated(0.0).forward
    step = jacobian(lambda z: gated(z, *net(z, h))[0], z)
    log_gate = gated(z, *net(z, h))[1]
    assert (np.triu(step, 1) == 0).all()
    np.testing.assert_allclose(np.diagonal(step, axis1=1, axis2=2), np.exp(log_gate), rtol=1e-12)
    np.testing.assert_allclose(tf.reduce_sum(log_gate, -1), log_abs_det(step), atol=1e-10)

    for layer in (*net.hidden, net.out):
        for product in layer.products:
            product.mask = None
    plain = jacobian(lambda z: gated(z, *net(z, h))[0], z)
    assert not np.allclose(tf.reduce_sum(gated(z, *net(z, h))[1], -1), log_abs_det(plain), atol=1e-2)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize(("transform", "scale"), [("gated", "gate"), ("affine", "scale"), ("location", "scale")])
def test_metrics_are_the_log_det_and_the_mean_scale_of_each_step(depth, transform, scale):
    stack, z, h = randomise(flow(5, depth, transform=transform)), normal(3, 5), normal(3, 5, seed=2)
    out = stack(z, h)
    assert set(out.metrics) == {f"{name}_{t}" for name in ("log_det", scale) for t in range(1, depth + 1)}
    for t, (net, context) in enumerate(zip(stack.networks, stack.contexts(h), strict=True), 1):

        def step(z, net=net, context=context):
            return stack.transform.forward(z, *net(z, context))[0]

        diagonal = np.diagonal(jacobian(step, z), axis1=1, axis2=2)
        np.testing.assert_allclose(out.metrics[f"log_det_{t}"], np.log(diagonal).sum(axis=-1), atol=1e-10)
        np.testing.assert_allclose(out.metrics[f"{scale}_{t}"], diagonal.mean(axis=-1), atol=1e-10)
        z = step(z)
    of_steps = [out.metrics[f"log_det_{t}"] for t in range(1, depth + 1)]
    np.testing.assert_allclose(tf.reduce_sum(out.log_det, -1), sum(of_steps), atol=1e-12)


@pytest.mark.parametrize("depth", DEPTHS)
def test_each_unit_keeps_its_place_and_has_its_own_log_det(depth):
    """With constant m and s, each unit of z_T is a multiple of the same unit of z_0, so that its share is known."""
    stack, z, h = randomise(flow(5, depth)), normal(3, 5), normal(3, 5, seed=2)
    for net in stack.networks:
        for kernel in net.out.kernels:
            kernel.assign(np.zeros(kernel.shape))
    jacobians = jacobian(lambda z: stack(z, h).z, z)
    assert (jacobians[:, ~np.eye(5, dtype=bool)] == 0).all()
    np.testing.assert_allclose(stack(z, h).log_det, np.log(np.diagonal(jacobians, axis1=1, axis2=2)), atol=1e-12)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_steps_take_the_latents_in_turn_from_the_first_to_the_last_and_back(depth):
    stack, h = randomise(flow(5, depth)), normal(3, 5, seed=2)
    net = stack.networks[-1]
    context = stack.context(h)[:, -11:]
    found = jacobian(lambda z: net(z, context)[0], normal(3, 5))
    allowed = np.tril(np.ones((5, 5), bool), -1)
    allowed = allowed if depth % 2 else allowed[::-1, ::-1]
    assert (found[:, allowed] != 0).all()
    assert (found[:, ~allowed] == 0).all()
    assert list(net.order) == (list(range(5)) if depth % 2 else list(range(5))[::-1])


def test_depth_0_is_the_identity():
    stack, z, h = flow(5, 0), normal(3, 5), normal(3, 5, seed=2)
    out = stack(z, h)
    assert stack.weights == []
    assert out.metrics == {}
    np.testing.assert_array_equal(out.z, z)
    np.testing.assert_array_equal(out.log_det, np.zeros((3, 5)))


@pytest.mark.parametrize("depth", DEPTHS)
def test_open_gates_leave_everything_as_it_is(depth):
    stack, z = flow(5, depth, gate_bias=20.0), normal(3, 5)
    out = stack(z, normal(3, 5, seed=2))
    np.testing.assert_allclose(out.z, z, atol=1e-6)
    np.testing.assert_allclose(out.log_det, np.zeros((3, 5)), atol=1e-6)


@pytest.mark.parametrize("context", [0, 5])
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("depth", [0, 1, 2, 3])
def test_the_inverse_maps_z_t_to_z_0(depth, transform, context):
    stack = randomise(flow(5, depth, layers=2, transform=transform, context=context))
    z, h = normal(4, 5), normal(4, context, seed=2)
    np.testing.assert_allclose(stack.inverse(stack(z, h).z, h), z, atol=1e-10)


def test_a_flow_without_a_context_has_no_weights_for_it_and_does_not_read_it():
    stack, z = randomise(flow(5, 2, context=0)), normal(3, 5)
    assert stack.context is None
    np.testing.assert_array_equal(stack(z, normal(3, 5)).z, stack(z, normal(3, 5, seed=4)).z)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_samples_of_an_image_share_its_context(transform):
    stack, z, h = randomise(flow(5, 3, transform=transform)), normal(4, 7, 5), normal(4, 5, seed=2)
    together = stack(z, h[:, None])
    for k in range(7):
        alone = stack(z[:, k], h)
        np.testing.assert_allclose(together.z[:, k], alone.z, atol=1e-12)
        np.testing.assert_allclose(together.log_det[:, k], alone.log_det, atol=1e-12)


def test_a_location_only_flow_preserves_volume():
    stack, z, h = randomise(flow(5, 3, transform="location")), normal(3, 5), normal(3, 5, seed=2)
    out = stack(z, h)
    np.testing.assert_array_equal(out.log_det, np.zeros((3, 5)))
    assert not np.allclose(out.z, z)
    assert all(network.parameters == 1 for network in stack.networks)


def test_two_steps_let_latents_depend_on_each_other_in_both_directions():
    stack, h = randomise(flow(5, 2)), normal(3, 5, seed=2)
    found = jacobian(lambda z: stack(z, h).z, normal(3, 5))
    below, above = np.tril(np.ones((5, 5), bool), -1), np.triu(np.ones((5, 5), bool), 1)
    assert (found[:, below] != 0).all()
    assert (found[:, above] != 0).any()


def test_a_new_step_is_near_the_identity():
    latent = 40
    stack = flow(latent, 1, 50)
    z, h = normal(64, latent), normal(64, latent, seed=2)
    m, s = (np.asarray(x) for x in stack.networks[0](z, stack.context(h)))
    assert 0 < np.abs(m).max() < 0.5
    assert np.abs(m).mean() < 0.1
    gates = np.exp(stack(z, h).log_det)
    assert 0.8 < gates.min() < gates.max() < 0.93  # sigmoid(2) = 0.88
    assert np.abs(s).max() < 0.5


def test_the_gate_bias_is_added_to_the_gates_logits():
    z, h = normal(3, 5), normal(3, 5, seed=2)
    stack = randomise(flow(5, 1, gate_bias=0.0))
    s = stack.networks[0](z, stack.context(h))[1]
    gates = randomise(flow(5, 1, gate_bias=-1.5))(z, h).log_det
    np.testing.assert_allclose(np.exp(gates), 1 / (1 + np.exp(1.5 - s.numpy())), rtol=1e-12)


def weights_of(layer):
    return [w.numpy() for w in layer.weights]


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    a, b, c = (weights_of(flow(5, 3, layers=2, seed=s)) for s in (7, 7, 8))
    for x, y, other in zip(a, b, c, strict=True):
        np.testing.assert_array_equal(x, y)
        assert x.ndim == 1 or (x != other).any()


def test_no_two_layers_start_with_the_same_weights():
    kernels = [w for w in weights_of(flow(6, 4, width=6, layers=3)) if w.ndim == 2 and w.size >= 6]
    assert len(kernels) > 4 * 5
    starts = {tuple(np.round((w / np.abs(w).max()).ravel()[:6], 5)) for w in kernels}
    assert len(starts) == len(kernels)


def test_one_program_of_xla_gives_the_same_numbers():
    stack, z, h = randomise(flow(5, 3)), normal(4, 5), normal(4, 5, seed=2)
    eager = stack(z, h)
    compiled = tf.function(stack.call, jit_compile=True)(z, h)
    np.testing.assert_allclose(compiled.z, eager.z, atol=1e-12)
    np.testing.assert_allclose(compiled.log_det, eager.log_det, atol=1e-12)


def test_a_network_made_from_its_config_has_the_same_weights():
    layer = AutoregressiveNetwork(4, 6, 2, parameters=1, seed=3)
    twin = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    for each in (layer, twin):
        each.build((None, 4))
    for a, b in zip(weights_of(layer), weights_of(twin), strict=True):
        np.testing.assert_array_equal(a, b)
