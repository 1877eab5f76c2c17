"""The base distribution of the posterior, against the samples that a score draws."""

import numpy as np
import pytest
import tensorflow as tf
from mlp_vae import vae
from small_models import Plain

from vaedist.models.conv.model import ConvVAE
from vaedist.models.conv.options import ConvOptions
from vaedist.models.resnet.model import ResNetVAE
from vaedist.models.resnet.options import ResNetOptions

SHAPE = (8, 8, 1)


def mlp(depth):
    return vae(SHAPE, hidden=9, latent=4, flow_width=7, flow_depth=depth, dtype="float64")


def conv(depth):
    sizes = {"width": 3, "hidden": 7, "latent": 4, "flow": {"width": 6, "depth": depth}}
    return ConvVAE(SHAPE, ConvOptions(**sizes), seed=3, dtype="float64")


def images():
    return np.random.default_rng(0).integers(0, 256, (5, *SHAPE), dtype=np.uint8)


@pytest.mark.parametrize("depth", [0, 2])
@pytest.mark.parametrize("make", [mlp, conv])
def test_the_flow_maps_samples_of_the_base_to_those_of_the_posterior(make, depth):
    model = make(depth)
    rng = np.random.default_rng(1)
    for variable in model.trainable_variables:
        variable.assign(variable.numpy() + 0.2 * rng.normal(size=variable.shape))
    eps = tf.constant(rng.normal(size=(5, 4)))
    encoding = model.encode(images())
    base = model.posterior_base(encoding)
    assert list(base) == ["z"]
    mean, log_sigma = base["z"]
    z = model.flow(mean + tf.exp(log_sigma) * eps, encoding.h).z
    np.testing.assert_allclose(z, model.score(encoding, {"z": eps}).latents["z"], rtol=1e-12)
    assert np.std(mean, axis=0).min() > 0
    assert np.std(log_sigma, axis=0).min() > 0


def test_other_models_have_none():
    resnet = ResNetVAE((8, 8, 1), ResNetOptions(levels=1, blocks=2, width=4, latent=2), seed=0)
    for model, shape in ((resnet, SHAPE), (Plain(), (4, 4, 1))):
        assert model.posterior_base(model.encode(np.zeros((1, *shape), np.uint8))) is None
