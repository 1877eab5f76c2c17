"""Encoded rows, against encoding and scoring of images in memory."""

import numpy as np
import pytest
from mlp_vae import vae
from tiny import TinyHierarchy

from vaedist.errors import ConfigError, ModelError
from vaedist.evaluation import encoding, inspection
from vaedist.evaluation.encoding import RowEncoder

SHAPE = (4, 6, 1)


def images(count=23):
    return np.random.default_rng(0).integers(0, 256, (count, *SHAPE), dtype=np.uint8)


@pytest.mark.parametrize("likelihood", ["bernoulli", "discretized_logistic", "gaussian"])
@pytest.mark.parametrize("rows", [7, 256])
def test_rows_in_any_order_are_encoded_as_the_images_of_a_split(likelihood, rows, monkeypatch):
    monkeypatch.setattr(encoding, "MOST_ROWS", rows)
    model, every = vae(SHAPE, hidden=9, latent=5, flow_depth=2, likelihood=likelihood), images()
    numbers = np.random.default_rng(1).permutation(23)[:17]
    found = RowEncoder(model, seed=3).encode(every[numbers], numbers)
    np.testing.assert_allclose(found["z"], inspection.encode(model, every, seed=3)[numbers], rtol=2e-4, atol=2e-5)
    scores = inspection.score(model, every, seed=3)
    for name in ("elbo", "reconstruction", "kl"):
        np.testing.assert_allclose(found[name], getattr(scores, name)[numbers], rtol=2e-4)
    mean, log_sigma = model.posterior_base(model.encode(every, inspection.pixel_noise(model, 23)))["z"]
    np.testing.assert_allclose(found["z_mean"], mean.numpy()[numbers], rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(found["z_log_sigma"], log_sigma.numpy()[numbers], rtol=2e-4, atol=2e-5)


def test_an_encoded_row_has_the_same_bits_in_every_call():
    model, every = vae(SHAPE, hidden=9, latent=5, flow_depth=2), images()
    one, other = RowEncoder(model, seed=3), RowEncoder(model, seed=4)
    first, again = (one.encode(every, np.arange(23)) for _ in range(2))
    for name, values in first.items():
        np.testing.assert_array_equal(values, again[name])
    assert np.abs(other.encode(every, np.arange(23))["z"] - first["z"]).min(axis=0).max() > 0


def test_a_hierarchy_has_a_column_for_each_layer():
    model, every = TinyHierarchy(SHAPE), images()
    encoder = RowEncoder(model, seed=3)
    assert encoder.kinds == ("sample",)
    assert encoder.shapes == {"z_2": (2,), "z_1": (2, 3)}
    assert encoder.sizes == {"z_2": 2, "z_1": 6}
    found = encoder.encode(every, np.arange(23))
    both = np.concatenate([found["z_2"], found["z_1"]], axis=1)
    np.testing.assert_allclose(both, inspection.encode(model, every, seed=3), rtol=2e-4, atol=2e-5)


def test_only_the_wanted_latents_are_returned():
    model = vae(SHAPE, hidden=9, latent=5)
    encoder = RowEncoder(model, kinds=["log_sigma", "mean"])
    assert list(encoder.encode(images(), np.arange(23))) == ["elbo", "reconstruction", "kl", "z_mean", "z_log_sigma"]
    with pytest.raises(ModelError, match="TinyHierarchy has no mean: it does not define posterior_base"):
        RowEncoder(TinyHierarchy(SHAPE), kinds=["mean", "sample"])


@pytest.mark.parametrize("kinds", [["means"], [], ["sample", "scale"], "means"])
def test_latents_that_do_not_exist_are_refused(kinds):
    with pytest.raises(ConfigError, match=r"^latents = \[.*\]: must be one or several of sample, mean, log_sigma$"):
        RowEncoder(vae(SHAPE, hidden=9, latent=5), kinds=kinds)


def test_a_single_kind_needs_no_list():
    assert RowEncoder(vae(SHAPE, hidden=9, latent=5), kinds="mean").kinds == ("mean",)


def test_a_base_of_another_shape_is_refused():
    class Wrong(TinyHierarchy):
        def posterior_base(self, encoding):
            return {"z_2": (encoding["top"], encoding["top"])}

    with pytest.raises(ModelError, match=r"posterior_base gives 'z_2' with shapes \[\[2, 4\], \[2, 4\]\] for 2 images"):
        RowEncoder(Wrong(SHAPE))
