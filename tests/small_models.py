"""Small models for tests; each has a property that the MLP lacks."""

import math

import vaedist.models  # noqa: F401 - chooses Keras's backend
from vaedist.models.densities import log_standard_normal
from vaedist.models.likelihoods import Bernoulli
from vaedist.models.model import Model, Score
from vaedist.models.preprocessing import PREPROCESSING
from vaedist.models.reparameterization import sample_normal

import keras  # isort: skip
from keras import ops  # isort: skip

LATENT = 3


class Plain(Model):
    """Dense layers of Keras with automatic names, and one sample of the latents at a time."""

    bias, activation = True, "tanh"

    def __init__(self, image_shape=(4, 4, 1), seed=0):
        super().__init__(image_shape, preprocessing=PREPROCESSING["bernoulli"], seed=seed)
        self.noise = {"z": (LATENT,)}
        self.pixels = math.prod(self.image_shape)
        self.likelihood = Bernoulli()
        self.made = 0
        self.make()

    def dense(self, inputs, outputs, **options):
        self.made += 1
        start = keras.initializers.GlorotUniform(seed=1000 * self.seed + self.made)
        layer = keras.layers.Dense(outputs, use_bias=self.bias, kernel_initializer=start, **options)
        layer.build((None, inputs))
        return layer

    def make(self):
        self.hidden = self.dense(self.pixels, 6, activation=self.activation)
        self.out = self.dense(6, 2 * LATENT)
        self.pixels_of = self.dense(LATENT, self.pixels)

    def features(self, x, training):
        return self.hidden(x)

    def encode(self, images, u=None, *, training=False):
        x = ops.reshape(self.preprocessing(images, u), (-1, self.pixels))
        return x, *ops.split(self.out(self.features(x, training)), 2, axis=-1)

    def score(self, encoding, eps, *, training=False):
        x, mu, log_sigma = encoding
        z, log_q = sample_normal(mu, log_sigma, eps["z"])
        return Score(self.likelihood.log_prob(self.logits(z), x), {"z": log_q - log_standard_normal(z)}, {"z": z})

    def logits(self, z):
        return self.pixels_of(z)

    def decode(self, latents, u=None):
        return ops.reshape(self.likelihood.mean(self.logits(latents["z"])), (-1, *self.image_shape))


class BiasFree(Plain):
    """No layer has a bias."""

    bias = False


class Normalised(Plain):
    """The encoder has batch normalization, with moving statistics."""

    activation = None

    def make(self):
        super().make()
        self.norm = keras.layers.BatchNormalization(momentum=0.8)
        self.norm.build((None, 6))

    def features(self, x, training):
        return ops.tanh(self.norm(self.hidden(x), training=training))


class Convolutional(Plain):
    """A strided convolution, and a transposed one; neither has a bias."""

    def make(self):
        channels = self.image_shape[-1]
        self.conv = keras.layers.Conv2D(
            2, 3, 2, "same", activation="tanh", use_bias=False, kernel_initializer=keras.initializers.GlorotUniform(1)
        )
        self.conv.build((None, *self.image_shape))
        self.out = self.dense(self.pixels // channels // 2, 2 * LATENT)
        self.into = self.dense(LATENT, self.pixels // channels // 4)
        self.deconv = keras.layers.Conv2DTranspose(
            channels, 3, 2, "same", use_bias=False, kernel_initializer=keras.initializers.GlorotUniform(2)
        )
        self.deconv.build((None, *(size // 2 for size in self.image_shape[:2]), 1))

    def features(self, x, training):
        y = self.conv(ops.reshape(x, (-1, *self.image_shape)))
        return ops.reshape(y, (-1, math.prod(y.shape[1:])))

    def logits(self, z):
        height, width, _ = self.image_shape
        y = ops.reshape(self.into(z), (-1, height // 2, width // 2, 1))
        return ops.reshape(self.deconv(y), (-1, self.pixels))


class Layered(Plain):
    """Two stochastic layers, z_2 above z_1, whose priors are N(0, I) and N(its mean given z_2, I)."""

    def make(self):
        super().make()
        self.noise = {"z2": (2,), "z1": (LATENT,)}
        self.top = self.dense(6, 4)
        self.prior = self.dense(2, LATENT)

    def encode(self, images, u=None, *, training=False):
        x = ops.reshape(self.preprocessing(images, u), (-1, self.pixels))
        h = self.features(x, training)
        return x, *ops.split(self.out(h), 2, axis=-1), *ops.split(self.top(h), 2, axis=-1)

    def score(self, encoding, eps, *, training=False):
        x, mu1, log_sigma1, mu2, log_sigma2 = encoding
        z2, log_q2 = sample_normal(mu2, log_sigma2, eps["z2"])
        z1, log_q1 = sample_normal(mu1, log_sigma1, eps["z1"])
        kl = {"z2": log_q2 - log_standard_normal(z2), "z1": log_q1 - log_standard_normal(z1 - self.prior(z2))}
        return Score(self.likelihood.log_prob(self.logits(z1), x), kl, {"z2": z2, "z1": z1})


class OwnSample(Plain):
    """Samples its latents without `sample_normal`."""

    def score(self, encoding, eps, *, training=False):
        x, mu, log_sigma = encoding
        z = mu + ops.exp(log_sigma) * eps["z"]
        kl = log_standard_normal(eps["z"]) - log_sigma - log_standard_normal(z)
        return Score(self.likelihood.log_prob(self.logits(z), x), {"z": kl}, {"z": z})


class Dropped(Plain):
    """Draws random numbers itself, by dropout."""

    def make(self):
        super().make()
        self.drop = keras.layers.Dropout(0.5, seed=0)

    def features(self, x, training):
        return self.drop(super().features(x, training), training=training)
