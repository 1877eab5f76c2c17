"""The ResNet VAE: against an implementation in NumPy, exact integrals, and its parts on their own."""

import numpy as np
import pytest
import tensorflow as tf
from resnet_reference import Reference

from vaedist.evaluation.scoring import score, score_encoding
from vaedist.models.resnet.model import ResNetVAE
from vaedist.models.resnet.options import ResNetOptions
from vaedist.models.weight_normalization import Convolution
from vaedist.objectives.elbo import bound

SIZES = {"levels": 2, "blocks": 2, "width": 6, "latent": 3}


def make_model(shape=(8, 12, 3), dtype="float64", **options):
    flow = {"layers": 2, "depth": 2, **options.pop("flow", {})}
    return ResNetVAE(shape, ResNetOptions(**{**SIZES, "flow": flow, **options}), seed=3, dtype=dtype)


def images_of(shape, count=2):
    return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)


def noise_of(model, count, *samples, seed=0):
    rng = np.random.default_rng(seed)
    return {name: tf.constant(rng.normal(size=(count, *samples, *shape)), model.compute_dtype)
            for name, shape in model.noise.items()}  # fmt: skip


def spread(model, scale=0.3):
    """Changes all weights, so that none is at its initial value."""
    rng = np.random.default_rng(1)
    for variable in model.trainable_variables:
        variable.assign(variable.numpy() + scale * rng.normal(size=variable.shape))


@pytest.mark.parametrize(
    ("flow", "residual_scale"), [({"depth": 1, "layers": 1}, 0.1), ({"depth": 2, "layers": 2}, 1.0)]
)
def test_the_elbo_is_that_of_an_independent_implementation(flow, residual_scale):
    model = make_model(flow=flow, residual_scale=residual_scale)
    spread(model, 0.1)
    images, eps = images_of(model.image_shape), noise_of(model, 2)
    images[0, 0, 0], images[0, 0, 1] = 0, 255
    found = score(model, images, eps, None)
    weights = {variable.path: variable.numpy() for variable in model.trainable_variables}
    reference = Reference(weights, SIZES["levels"], SIZES["blocks"], flow["layers"], residual_scale)
    log_px, kl = reference.elbo(images, {name: values.numpy() for name, values in eps.items()})
    np.testing.assert_allclose(found.log_px, log_px, rtol=1e-10)
    assert found.kl.keys() == kl.keys()
    for name, values in kl.items():
        np.testing.assert_allclose(found.kl[name], values, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("depth", [0, 1])
def test_the_mean_of_p_over_q_is_one(depth):
    """E_q[p(z)/q(z|x)] = 1, for latents of two layers with 1 and 4 numbers."""
    model = make_model((4, 4, 1), levels=2, blocks=1, latent=1, width=3, flow={"depth": depth})
    spread(model, 0.1)
    encoding = model.encode(images_of(model.image_shape, 1))
    ratios = np.concatenate([
        np.exp(-bound(score_encoding(model, encoding, noise_of(model, 1, 20000, seed=seed), samples=20000)).kl.numpy())
        for seed in range(5)
    ], axis=None)  # fmt: skip
    assert ratios.mean() == pytest.approx(1, abs=4 * ratios.std() / len(ratios) ** 0.5)
    assert ratios.std() / len(ratios) ** 0.5 < 0.05, "the estimate is sharp enough to fail"


def test_without_a_flow_the_mean_of_the_sampled_kl_is_the_closed_form():
    model = make_model((4, 4, 1), levels=1, blocks=1, latent=2, width=4, flow={"depth": 0})
    spread(model, 0.3)
    encoding = model.encode(images_of(model.image_shape, 1))
    (block,), (part,) = model.blocks, encoding.blocks
    down = block.prior(tf.broadcast_to(model.top.value, (1, 2, 2, 4)))
    mu, log_sigma = part.mu + down.mu, part.log_sigma + down.log_sigma
    ratio = tf.exp(2 * (log_sigma - down.prior_log_sigma))
    distance = ((mu - down.prior_mu) / tf.exp(down.prior_log_sigma)) ** 2
    exact = tf.reduce_sum(0.5 * (ratio + distance - 1) - log_sigma + down.prior_log_sigma)
    sampled = bound(score_encoding(model, encoding, noise_of(model, 1, 50000), samples=50000)).kl.numpy()
    assert sampled.mean() == pytest.approx(float(exact), abs=4 * sampled.std() / 50000**0.5)


def test_a_flow_whose_networks_give_zeros_is_the_identity():
    flow, plain = make_model(), make_model(flow={"depth": 0})
    own = {variable.path: variable for variable in flow.trainable_variables}
    for path, variable in own.items():
        if "/flow/" in path and "/out/" in path:
            variable.assign(np.full(variable.shape, -50.0) if path.endswith("log_scale") else tf.zeros(variable.shape))
    eps = noise_of(flow, 2)
    z = tf.constant(np.random.default_rng(0).normal(size=(2, 4, 6, 3)))
    found, log_det = flow.blocks[0].flow(z, tf.zeros((2, 4, 6, 6), tf.float64))
    np.testing.assert_allclose(found, z, atol=1e-12)
    np.testing.assert_allclose(log_det, 0, atol=1e-12)
    assert score(plain, images_of(plain.image_shape), eps, None).kl.keys() == flow.noise.keys()
    assert not [path for path in (v.path for v in plain.variables) if "/flow/" in path]


def test_samples_share_the_encoding():
    model = make_model()
    spread(model, 0.1)
    images, eps = images_of(model.image_shape), noise_of(model, 2, 3)
    together = score(model, images, eps, None, samples=3)
    for k in range(3):
        alone = score(model, images, {name: values[:, k] for name, values in eps.items()}, None)
        np.testing.assert_allclose(together.log_px[:, k], alone.log_px, rtol=1e-12)
        for name, values in alone.kl.items():
            np.testing.assert_allclose(together.kl[name][:, k], values, rtol=1e-9, atol=1e-12)


def test_decoding_generation_and_given_layers():
    model = make_model()
    spread(model, 0.1)
    images, eps = images_of(model.image_shape), noise_of(model, 2)
    scored = score(model, images, eps, None)
    likelihood, raw = model.pixel_distribution(scored.latents)
    x = tf.reshape(model.observe(images), (2, -1))
    np.testing.assert_allclose(likelihood.log_prob(raw, x), scored.log_px, rtol=1e-12)
    np.testing.assert_array_equal(
        model.decode(scored.latents), model.generate(eps, given=scored.latents), "all layers are given"
    )
    top = next(iter(model.noise))
    some = model.generate(eps, given={top: scored.latents[top]})
    assert np.abs(some - model.generate(eps)).max() > 1e-6
    cool = model.generate({name: 0.5 * values for name, values in eps.items()})
    np.testing.assert_allclose(model.generate(eps, temperature=0.5), cool, rtol=1e-12)
    cold = [model.generate(noise_of(model, 2, seed=seed), temperature=0.0).numpy() for seed in (1, 2)]
    np.testing.assert_array_equal(*cold)


def test_initialisation_from_data_scales_every_convolution():
    model = make_model((16, 16, 3), dtype="float32", width=8)
    eps, images = noise_of(model, 64), images_of(model.image_shape, 64)
    seen = []
    call = Convolution.call
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Convolution, "call", lambda self, x: seen.append((self, call(self, x))) or seen[-1][1])
        model.initialise(images, eps)
    assert {layer.path for layer, _ in seen} == {
        layer.path for layer in model._flatten_layers() if isinstance(layer, Convolution)
    }
    for layer, outputs in seen:
        flat = outputs.numpy().reshape(-1, outputs.shape[-1])
        np.testing.assert_allclose(flat.mean(0), 0, atol=1e-5, err_msg=layer.path)
        live = flat.std(0) > 1e-4  # the first channel of a strict mask is constant at the last position only
        np.testing.assert_allclose(flat.std(0)[live], layer.deviation, rtol=1e-3, err_msg=layer.path)


def test_initialisation_does_not_scale_constant_outputs():
    model = make_model((16, 16, 3), dtype="float32", width=8, levels=4, blocks=1)
    model.initialise(images_of(model.image_shape, 64), noise_of(model, 64))
    top = model.blocks[-1].down_in  # its input is a learned vector at a single position
    np.testing.assert_array_equal(top.log_scale, 0.0)
    assert np.abs(model.blocks[0].down_in.log_scale).min() > 0


@pytest.mark.parametrize("scales", ["pixel", "channel", "shared"])
def test_log_scales(scales):
    model = make_model(scales=scales)
    images, eps = images_of(model.image_shape), noise_of(model, 2)
    _, raw = model.pixel_distribution(score(model, images, eps, None).latents)
    log_s = raw.numpy()[:, model.pixels :].reshape(2, *model.image_shape)
    if scales == "pixel":
        assert np.unique(log_s).size > model.pixels
        return
    values = [0.5, 0.6, 0.7] if scales == "channel" else [0.5]
    assert model.scales.shape == (len(values),)  # of rank 1: weight decay is for kernels
    model.scales.assign(values)
    _, raw = model.pixel_distribution(score(model, images, eps, None).latents)
    log_s = raw.numpy()[:, model.pixels :].reshape(2, *model.image_shape)
    np.testing.assert_allclose(log_s, np.broadcast_to(values, log_s.shape))


def test_gray_images_and_other_likelihoods():
    model = make_model((8, 8, 1), likelihood="bernoulli")
    scored = score(model, images_of(model.image_shape), noise_of(model, 2), None)
    assert np.isfinite(scored.log_px).all()
    assert model.decode(scored.latents).shape == (2, 8, 8, 1)


def test_sides_that_the_strides_do_not_divide_are_refused():
    with pytest.raises(ValueError, match=r"model.levels = 2: .* divisible by 4, and they are 6x8"):
        make_model((6, 8, 3))


def test_a_model_is_made_again_from_its_config():
    model = make_model()
    again = ResNetVAE.from_config(model.get_config())
    assert again.options == model.options
    for one, other in zip(model.variables, again.variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
