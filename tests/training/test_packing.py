"""Tensors that the replicas of a step reduce."""

import numpy as np
import pytest
import tensorflow as tf
from mlp_vae import vae

from vaedist.devices.batches import Batch
from vaedist.models.products import Factors
from vaedist.training.packing import Packing


@pytest.fixture(scope="module")
def model():
    return vae((32, 32, 3))


def packing_of(model, rows, *, reduce_dtype="float32", split=True):
    paths = [weight.path for weight in model.trainable_variables]
    kernels = [paths.index(product.kernel.path) for product in model.products]
    shapes = [weight.shape for weight in model.trainable_variables]
    return Packing(shapes, kernels, rows=rows, dtype="float32", reduce_dtype=reduce_dtype, split=split)


def rows_of(packing, rng, first, count, room):
    """Returns random gradients of a replica's rows, with NaN in padding, and their batch."""
    images, numbers = tf.zeros((room, 1, 1, 1), tf.uint8), tf.zeros(room, tf.int64)
    batch = Batch(images, tf.constant(first, tf.int64), tf.constant(count), numbers)
    parts = iter(packing.shapes)
    gradients = []
    for i in range(len(packing.shapes) - len(packing.factored)):
        if i in packing.factored:
            factors = [rng.standard_normal((room, next(parts)[1]), np.float32) for _ in range(2)]
            for factor in factors:
                factor[count:] = np.nan
            gradients.append(Factors(*map(tf.constant, factors)))
        else:
            gradients.append(tf.constant(rng.standard_normal(next(parts), np.float32)))
    return batch, gradients, tf.constant(rng.standard_normal(3, np.float32))


@pytest.mark.parametrize(("reduce_dtype", "split"), [("float32", True), ("float32", False), ("bfloat16", True)])
def test_the_sum_over_replicas_is_the_gradient_of_the_whole_batch(model, reduce_dtype, split):
    packing, rng = packing_of(model, 100, reduce_dtype=reduce_dtype, split=split), np.random.default_rng(0)
    replicas = [rows_of(packing, rng, *place) for place in ((0, 48, 48), (48, 45, 48), (93, 7, 48), (144, 0, 48))]
    packed = [packing.pack(*replica) for replica in replicas]
    gradients, sums = packing.unpack([tf.add_n(parts) for parts in zip(*packed, strict=True)])
    np.testing.assert_allclose(sums, sum(replica[2].numpy() for replica in replicas), rtol=1e-5, atol=1e-6)
    assert {i for i, _ in enumerate(gradients)} > packing.factored
    tolerance = 1e-4 if reduce_dtype == "float32" else 0.05
    for i, gradient in enumerate(gradients):
        wanted = 0.0
        for batch, parts, _ in replicas:
            part, count = parts[i], int(batch.count)
            wanted += part.x[:count].numpy().T @ part.dy[:count].numpy() if i in packing.factored else part.numpy()
        gradient = gradient.product() if i in packing.factored else gradient
        assert gradient.shape == model.trainable_variables[i].shape
        assert np.abs(gradient - wanted).max() <= tolerance * np.abs(wanted).max()


@pytest.mark.parametrize(("rows", "numbers", "tensors"), [(32, 0.70e6, 1), (256, 6.58e6, 5), (1024, 6.58e6, 5)])
def test_numbers_and_tensors_that_a_step_reduces_at_full_size(model, rows, numbers, tensors):
    packing = packing_of(model, rows)
    assert sum(packing.sizes) < numbers
    assert sum(packing.alone) + 1 == tensors
    assert sum(packing_of(model, rows, split=False).alone) == 0
