"""A hierarchical VAE of two stochastic layers, as small as possible, for tests of code that supports any model."""

import math

from vaedist.models import Model, Score  # isort: skip - chooses Keras's backend

import keras
from keras import ops

from vaedist.models.densities import log_normal, log_standard_normal
from vaedist.models.likelihoods import Bernoulli
from vaedist.models.preprocessing import Scaled
from vaedist.models.reparameterization import sample_normal

TOP, BOTTOM, CHANNELS = 2, (2, 3), 3  # shapes of z_2 and z_1; the KL of z_1 is by channel


class TinyHierarchy(Model):
    """p(z_2) p(z_1|z_2) p(x|z_1) and q(z_2|x) q(z_1|x, z_2), with a learned p(z_1|z_2); all are diagonal normal.

    The streams of noise are in a different order than the layers of the score, as the interface allows. The metric is
    the distance of z_1 from the prior's mean.
    """

    broadcasts = True
    noise = {"bottom": BOTTOM, "top": (TOP,)}  # noqa: RUF012 - never changed

    def __init__(self, image_shape, *, preprocessing=None, hidden=7, seed=0, **kwargs):
        super().__init__(image_shape, preprocessing=preprocessing or Scaled(), seed=seed, **kwargs)
        self.pixels, self.likelihood = math.prod(image_shape), Bernoulli()
        bottom = math.prod(BOTTOM)
        sizes = {
            "body": (self.pixels, hidden), "q_top": (hidden, 2 * TOP), "prior": (TOP, 2 * bottom),
            "q_bottom": (hidden, 2 * bottom), "q_from_top": (TOP, 2 * bottom), "out": (bottom, self.pixels),
        }  # fmt: skip
        for number, (name, (inputs, units)) in enumerate(sizes.items()):
            start = keras.initializers.GlorotUniform(100 * seed + number)
            layer = keras.layers.Dense(units, kernel_initializer=start, name=name, dtype=self.dtype_policy)
            layer.build((None, inputs))
            setattr(self, name, layer)

    def encode(self, images, u=None, *, training=False):
        """Returns x, its contribution to the parameters of q(z_1|x, z_2), and the parameters of q(z_2|x)."""
        x = ops.reshape(ops.cast(self.preprocessing(images, u), self.compute_dtype), (-1, self.pixels))
        h = ops.tanh(self.body(x))
        return {"x": x, "h": self.q_bottom(h), "top": self.q_top(h)}

    def score(self, encoding, eps, *, training=False):
        """Returns the score at a sample of both layers."""
        mu_2, log_sigma_2 = ops.split(encoding["top"], 2, axis=-1)
        z_2, log_q_2 = sample_normal(mu_2, log_sigma_2, eps["top"])
        mu_1, log_sigma_1 = self._bottom(encoding["h"] + self.q_from_top(z_2))
        z_1, log_q_1 = sample_normal(mu_1, log_sigma_1, eps["bottom"])
        mu_p, log_sigma_p = self._bottom(self.prior(z_2))
        kl = {
            "z_2": log_q_2 - log_standard_normal(z_2),
            "z_1": ops.sum(log_q_1 - log_normal(z_1, mu_p, log_sigma_p), axis=-2),
        }
        latents = {"z_2": z_2, "z_1": z_1}
        away = ops.sqrt(ops.sum(ops.square(z_1 - mu_p), axis=(-2, -1)))
        return Score(self.likelihood.log_prob(self._raw(latents), encoding["x"]), kl, latents, {"away": away})

    def decode(self, latents, u=None):
        """Returns the mean image, or a sample."""
        raw = self._raw(latents)
        x = self.likelihood.mean(raw) if u is None else self.likelihood.sample(raw, ops.reshape(u, (-1, self.pixels)))
        return ops.reshape(x, (-1, *self.image_shape))

    def generate(self, eps, u=None, temperature=1.0, given=None):
        """Returns images from z_2 ~ N(0, I) and z_1 ~ p(z_1|z_2), unless they are given."""
        given = given or {}
        z_2 = given.get("z_2", temperature * eps["top"])
        mu, log_sigma = self._bottom(self.prior(z_2))
        z_1 = given.get("z_1", mu + temperature * ops.exp(log_sigma) * eps["bottom"])
        return self.decode({"z_2": z_2, "z_1": z_1}, u)

    def pixel_distribution(self, latents):
        """Returns the Bernoulli distribution and its logits."""
        return self.likelihood, self._raw(latents)

    def _raw(self, latents):
        z_1 = latents["z_1"]
        return self.out(ops.reshape(z_1, (*ops.shape(z_1)[:-2], math.prod(BOTTOM))))

    def _bottom(self, parameters):
        """Returns mean and log_sigma of z_1 from raw parameters; sigma is near 1, so that the KL stays small."""
        mu, log_sigma = ops.split(parameters, 2, axis=-1)
        shape = (*ops.shape(mu)[:-1], *BOTTOM)
        return ops.reshape(mu, shape), ops.reshape(0.5 * ops.tanh(log_sigma), shape)
