import keras
import numpy as np
import pytest
import tensorflow as tf
from mlp_vae import vae as mlp

from vaedist.models import VAE
from vaedist.models.densities import log_normal
from vaedist.models.flow_vae import Encoding
from vaedist.objectives.elbo import bound

SHAPE = (2, 3, 3)
LIKELIHOODS = ["bernoulli", "gaussian"]
SIZES = {"hidden": 9, "latent": 4, "flow_width": 7}
MIDDLE = 0.5  # pixel noise, if the likelihood needs it


def vae(depth=3, *, spread=None, dtype="float64", shape=SHAPE, **kwargs):
    """Returns a small model; with `spread`, its weights are random and far from the initial ones."""
    model = mlp(shape, flow_depth=depth, dtype=dtype, **{**SIZES, **kwargs})
    if spread is not None:
        rng = np.random.default_rng(0)
        model.set_weights([rng.normal(0, spread, w.shape) for w in model.get_weights()])
    return model


def images(count, shape=SHAPE):
    return np.random.default_rng(1).integers(0, 256, (count, *shape), dtype=np.uint8)


def normal(*shape, seed=2, dtype=np.float64):
    return tf.constant(np.random.default_rng(seed).normal(size=shape).astype(dtype))


def noise(*shape, **options):
    """Returns the noise of a mini-batch, by stream."""
    return {"z": normal(*shape, **options)}


def total(x):
    return tf.reduce_sum(x, axis=-1).numpy()


def log_normal_density(x, mu, sigma):
    return -0.5 * ((x - mu) / sigma) ** 2 - np.log(sigma * np.sqrt(2 * np.pi))


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_at_depth_0_the_elbo_is_that_of_a_gaussian_vae(likelihood):
    model, x, eps = vae(0, spread=0.4, likelihood=likelihood), images(5), normal(5, 4)
    score, encoding = model(x, {"z": eps}, u=MIDDLE), model.encode(x, MIDDLE)
    posterior = model.posterior(encoding, {"z": eps})
    mu, sigma = encoding.mu.numpy(), np.exp(encoding.log_sigma)
    z = mu + sigma * eps.numpy()
    for found in (posterior.z, score.latents["z"]):
        np.testing.assert_allclose(found, z, atol=1e-12)
    np.testing.assert_allclose(posterior.log_q, log_normal_density(z, mu, sigma), atol=1e-10)
    expected_kl = log_normal_density(z, mu, sigma) - log_normal_density(z, 0.0, 1.0)
    pixels = model.preprocessing(x, MIDDLE).numpy().reshape(5, -1)
    expected_log_px = model.likelihood.log_prob(model.decoder(z), pixels.astype(np.float64)).numpy()
    np.testing.assert_allclose(score.kl["z"], expected_kl, atol=1e-10)
    np.testing.assert_allclose(score.log_px, expected_log_px, atol=1e-9)
    np.testing.assert_allclose(bound(score).elbo, expected_log_px - expected_kl.sum(axis=1), atol=1e-9)
    assert list(score.kl) == list(score.latents) == list(model.noise) == ["z"]


@pytest.mark.parametrize("depth", [0, 1, 2, 3, 5])
def test_log_q_is_the_density_of_the_noise_less_the_log_det_of_all_that_is_done_to_it(depth):
    model, eps = vae(depth, spread=0.4), normal(5, 4)
    encoding = model.encode(images(5))
    with tf.GradientTape() as tape:
        tape.watch(eps)
        posterior = model.posterior(encoding, {"z": eps})
    log_det = np.linalg.slogdet(tape.batch_jacobian(posterior.z, eps).numpy())[1]
    expected = log_normal_density(eps.numpy(), 0.0, 1.0).sum(axis=1) - log_det
    np.testing.assert_allclose(total(posterior.log_q), expected, atol=1e-10)
    score = model.score(encoding, {"z": eps})
    log_p = log_normal_density(posterior.z.numpy(), 0.0, 1.0)
    np.testing.assert_allclose(score.kl["z"], posterior.log_q - log_p, atol=1e-10)


def test_the_posterior_density_over_the_whole_plane_integrates_to_1():
    """The inverse of the flow maps a grid of z_T to eps, at which log_q is evaluated."""
    model = vae(3, spread=0.5, latent=2)
    axis = np.linspace(-12, 12, 241)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    same = np.ones((len(grid), 1))
    encoding = Encoding(None, *(tf.constant(same * v) for v in ([0.3, -0.4], [-0.2, 0.3], [0.5, -1.0])))
    z = model.flow.inverse(tf.constant(grid), encoding.h)
    eps = (z.numpy() - encoding.mu.numpy()) / np.exp(encoding.log_sigma)
    posterior = model.posterior(encoding, {"z": tf.constant(eps)})
    np.testing.assert_allclose(posterior.z, grid, atol=1e-9)
    density = np.exp(total(posterior.log_q)).reshape(241, 241)
    assert density[[0, -1]].max() < 1e-8
    assert density[:, [0, -1]].max() < 1e-8
    assert density.sum() * (axis[1] - axis[0]) ** 2 == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_an_images_score_depends_on_no_other_image(likelihood):
    model, x, eps = vae(3, spread=0.4, likelihood=likelihood), images(4), normal(4, 4).numpy()
    together = tf.nest.flatten(model(x, {"z": eps}, u=MIDDLE))
    for i in range(4):
        alone = tf.nest.flatten(model(x[i : i + 1], {"z": eps[i : i + 1]}, u=MIDDLE))
        for whole, single in zip(together, alone, strict=True):
            np.testing.assert_allclose(whole[i : i + 1], single, atol=1e-9)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("depth", [0, 2])
def test_every_weight_has_a_gradient_from_the_elbo(depth, likelihood):
    model = vae(depth, spread=0.4, likelihood=likelihood)
    with tf.GradientTape() as tape:
        loss = -tf.reduce_sum(bound(model(images(6), noise(6, 4), u=MIDDLE)).elbo)
    weights = [w.value for w in model.trainable_variables]
    without = [
        w.path
        for w, gradient in zip(model.trainable_variables, tape.gradient(loss, weights), strict=True)
        if gradient is None or not np.any(gradient)
    ]
    assert without == []


def test_the_gradient_of_the_elbo_agrees_with_finite_differences():
    model, x, eps = vae(2, spread=0.4), images(3), noise(3, 4)

    def elbo():
        return tf.reduce_sum(bound(model(x, eps)).elbo)

    variables = [w.value for w in model.trainable_variables]
    with tf.GradientTape() as tape:
        value = elbo()
    gradients = tape.gradient(value, variables)
    directions = [normal(*w.shape, seed=i) for i, w in enumerate(variables)]
    slope = sum(tf.reduce_sum(g * d).numpy() for g, d in zip(gradients, directions, strict=True))
    change = []
    for sign in (1, -2):  # forward, then as far back
        for w, d in zip(variables, directions, strict=True):
            w.assign_add(sign * 1e-6 * d)
        change.append(elbo().numpy())
    assert (change[0] - change[1]) / 2e-6 == pytest.approx(slope, rel=1e-6)


def test_chapter_fault_the_gaussian_decoder_does_not_take_the_encoders_place():
    model = vae(1, likelihood="gaussian")
    pixels = 18
    assert model.encoder is not model.decoder
    assert [w.shape for w in model.encoder.weights] == [(pixels, 9), (9,), (9, 3 * 4), (3 * 4,)]
    assert [w.shape for w in model.decoder.weights] == [(4, 9), (9,), (9, 2 * pixels), (2 * pixels,)]
    paths = [w.path for w in model.weights]
    assert len(set(paths)) == len(paths) == 4 + len(model.flow.weights) + 4
    # The names in checkpoints, in the order of summation of norms, which affects rounding.
    assert [*dict.fromkeys("/".join(path.split("/")[:2]) for path in paths)] == [
        "vae/encoder",
        "vae/flow",
        "vae/decoder",
    ]

    before, raw = model.encode(images(3), MIDDLE), model.decoder(normal(3, 4))
    for w in model.decoder.weights:
        w.assign(w + 1.0)
    for a, b in zip(before, model.encode(images(3), MIDDLE), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (model.decoder(normal(3, 4)).numpy() != raw.numpy()).any()


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_chapter_fault_new_images_can_be_sampled_for_every_likelihood(likelihood):
    """The chapter's sample() calls a method that does not exist."""
    pictures = vae(likelihood=likelihood, dtype="float32").decode(noise(6, 4, dtype=np.float32)).numpy()
    assert pictures.shape == (6, *SHAPE)
    assert pictures.min() >= 0
    assert pictures.max() <= 1


def test_chapter_fault_new_images_need_z_alone_and_do_not_go_through_the_posteriors_flow():
    model, z = vae(3, spread=0.4), normal(6, 4)
    before = model.decode({"z": z}).numpy()
    np.testing.assert_array_equal(model.generate({"z": z}), before)
    np.testing.assert_array_equal(model.generate({"z": z}, temperature=0.7), model.decode({"z": 0.7 * z}))
    for w in (*model.flow.weights, *model.encoder.weights):
        w.assign(w + 1.0)
    np.testing.assert_array_equal(model.decode({"z": z}), before)
    expected = 1 / (1 + np.exp(-model.decoder(z).numpy()))
    np.testing.assert_allclose(before.reshape(6, -1), expected, atol=1e-12)


def test_pixels_keep_their_place_from_image_to_x_and_from_decoder_to_picture():
    model, x = vae(0), images(4)
    np.testing.assert_allclose(model.preprocessing(x) * 255, x, atol=1e-4)
    np.testing.assert_allclose(model.encode(x).x.numpy().reshape(4, *SHAPE) * 255, x, atol=1e-4)
    wanted = np.linspace(-3, 3, 18)
    model.decoder.out.kernel.assign(np.zeros((9, 18)))
    model.decoder.out.bias.assign(wanted)
    picture = model.decode(noise(1, 4)).numpy()[0]
    np.testing.assert_allclose(picture.ravel(), 1 / (1 + np.exp(-wanted)), atol=1e-12)


@pytest.mark.parametrize(("depth", "context"), [(0, True), (0, False), (2, False)])
def test_without_context_in_the_flow_the_encoder_computes_none(depth, context):
    model = vae(depth, flow_context=context)
    encoding = model.encode(images(3))
    assert encoding.h.shape == (3, 0)
    assert model.encoder.out.units == 2 * 4


@pytest.mark.parametrize("depth", [0, 2])
def test_samples_of_an_image_may_share_its_encoding(depth):
    model, eps = vae(depth, spread=0.4), normal(3, 6, 4)
    encoding = model.encode(images(3))
    shared = Encoding(*(part[:, None] for part in encoding))
    for each in (model.posterior, model.score):
        together = tf.nest.flatten(each(shared, {"z": eps}))
        for k in range(6):
            for whole, alone in zip(together, tf.nest.flatten(each(encoding, {"z": eps[:, k]})), strict=True):
                np.testing.assert_allclose(whole[:, k], alone, atol=1e-11)


def test_an_image_of_any_shape_is_scored():
    for shape in ((1, 1, 1), (5, 2, 1), (3, 4, 3)):
        score = vae(2, shape=shape)(images(3, shape), noise(3, 4))
        assert score.log_px.shape == (3,)
        assert score.latents["z"].shape == score.kl["z"].shape == (3, 4)


def test_noise_is_drawn_again_if_none_is_given():
    model, x = vae(2, dtype="float32"), images(3)
    a, b = (model(x).latents["z"].numpy() for _ in range(2))
    assert np.isfinite(a).all()
    assert (a != b).all()


def test_dequantisation_noise_moves_x_within_its_bin_and_moves_only_a_density():
    x, u = images(3), np.full((3, *SHAPE), 0.999)
    gaussian, bernoulli = (vae(0, likelihood=name) for name in ("gaussian", "bernoulli"))
    np.testing.assert_array_equal(np.floor(gaussian.encode(x, u).x.numpy() * 256), x.reshape(3, -1))
    np.testing.assert_array_equal(bernoulli.encode(x, u).x, bernoulli.encode(x).x)
    eps = noise(3, 4)
    assert (gaussian(x, eps, u=u).log_px.numpy() != gaussian(x, eps, u=MIDDLE).log_px.numpy()).all()


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("log_sigma", [-20.0, 20.0])
@pytest.mark.parametrize("raw", [-1e4, 1e4])
def test_extreme_encodings_and_logits_give_finite_scores_and_gradients(likelihood, log_sigma, raw):
    model = vae(2, likelihood=likelihood, dtype="float32")
    bias = model.encoder.out.bias.numpy()
    bias[4:8] = log_sigma
    model.encoder.out.bias.assign(bias)
    bias = model.decoder.out.bias.numpy()
    bias[:18] = raw  # logits, or mu
    model.decoder.out.bias.assign(bias)
    model.decoder.out.kernel.assign(model.decoder.out.kernel * 0.01)  # otherwise log sigma of pixels grows with z
    with tf.GradientTape() as tape:
        score = model(images(3), noise(3, 4, dtype=np.float32), u=MIDDLE)
        loss = tf.reduce_sum(bound(score).elbo)
    for part in tf.nest.flatten((score, bound(score))):
        assert np.isfinite(part).all()
    for gradient in tape.gradient(loss, [w.value for w in model.trainable_variables]):
        assert np.isfinite(gradient).all()


def weights_of(model):
    return {w.path: w.numpy() for w in model.weights}


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    a, b, c = (weights_of(vae(2, seed=seed)) for seed in (7, 7, 8))
    assert a.keys() == b.keys() == c.keys()
    for path, value in a.items():
        np.testing.assert_array_equal(value, b[path])
        assert value.ndim == 1 or (value != c[path]).any()


def test_weights_do_not_depend_on_earlier_draws():
    first = weights_of(vae(2, seed=7))
    keras.random.normal((3,))
    np.random.default_rng().normal()
    tf.random.set_seed(123)
    for path, value in weights_of(vae(2, seed=7)).items():
        np.testing.assert_array_equal(value, first[path])


def test_encoder_and_decoder_start_with_different_weights():
    model = mlp((1, 2, 3), hidden=6, latent=6, flow_depth=0)
    assert (model.encoder.hidden[0].kernel.numpy() != model.decoder.hidden[0].kernel.numpy()).any()
    assert (model.encoder.hidden[0].kernel.numpy() != model.decoder.out.kernel.numpy()).any()


@pytest.mark.parametrize("options", [{}, {"initial_log_sigma": -2.0}])
def test_at_first_log_sigma_is_the_same_for_every_image(options):
    encoding = vae(2, **options).encode(images(5))
    np.testing.assert_array_equal(encoding.log_sigma, np.full((5, 4), options.get("initial_log_sigma", 0.0)))
    for others in (encoding.mu, encoding.h):
        assert (np.ptp(others, axis=0) > 0).all()


def test_every_weight_exists_before_the_first_call():
    model = vae(3, flow_layers=2)
    before = [w.path for w in model.weights]
    assert sum(path.endswith("bias") for path in before) == 2 + 2 + 3 * (2 + 1)
    model(images(2))
    assert [w.path for w in model.weights] == before


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_model_made_from_its_config_is_the_same_model(dtype):
    model = vae(2, dtype=dtype, likelihood="gaussian", flow_layers=2, flow_transform="affine", seed=5)
    twin = VAE.from_config(model.get_config())
    assert twin.get_config() == model.get_config()
    for path, value in weights_of(model).items():
        np.testing.assert_array_equal(weights_of(twin)[path], value)
        assert value.dtype == dtype


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_model_that_keras_saved_scores_images_as_before(tmp_path, dtype):
    model = vae(3, dtype=dtype, spread=0.3, flow_layers=2)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    x, eps = images(3), noise(3, 4)
    assert model(x, eps).log_px.dtype == dtype
    np.testing.assert_array_equal(bound(loaded(x, eps)).elbo, bound(model(x, eps)).elbo)


def test_one_program_of_xla_gives_the_same_score():
    model, x, eps = vae(3, spread=0.4), images(4), noise(4, 4)
    compiled = tf.function(lambda x, eps: bound(model(x, eps)).elbo, jit_compile=True)
    np.testing.assert_allclose(compiled(x, eps), bound(model(x, eps)).elbo, rtol=1e-6)


def test_log_normal_is_the_density_of_a_normal_distribution_with_standard_deviation_sigma():
    x, mu, log_sigma = (normal(3, 4, seed=seed) for seed in (1, 2, 3))
    expected = log_normal_density(x.numpy(), mu.numpy(), np.exp(log_sigma.numpy()))
    np.testing.assert_allclose(log_normal(x, mu, log_sigma), expected, atol=1e-12)
