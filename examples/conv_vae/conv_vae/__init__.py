"""A small convolutional VAE with a diagonal normal posterior and a discretised logistic likelihood."""

import math

import keras
from keras import layers, ops
from pydantic import Field

from vaedist import Model, ModelOptions, Score
from vaedist.models.densities import log_standard_normal
from vaedist.models.likelihoods import DiscretizedLogistic
from vaedist.models.reparameterization import sample_normal


class Options(ModelOptions):
    """Keys of [model] in a job file."""

    latent: int = Field(default=64, ge=1, le=4096, description="Number of latents.")
    width: int = Field(default=32, ge=1, le=1024, description="Channels of the first convolution.")


class ConvVAE(Model):
    """Encoder with two strided convolutions, decoder with two transposed ones; image sides are multiples of 4."""

    Options = Options

    def __init__(self, image_shape, options, **kwargs):
        super().__init__(image_shape, **kwargs)
        height, width, channels = image_shape
        self.latent, self.likelihood = options.latent, DiscretizedLogistic()
        convolution = {"kernel_size": 4, "strides": 2, "padding": "same"}
        self.encoder = keras.Sequential(
            [
                layers.Conv2D(options.width, activation="elu", **convolution),
                layers.Conv2D(2 * options.width, activation="elu", **convolution),
                layers.Flatten(),
                layers.Dense(2 * options.latent),
            ],
            name="encoder",
        )
        quarter = (height // 4, width // 4, 2 * options.width)
        self.decoder = keras.Sequential(
            [
                layers.Dense(math.prod(quarter), activation="elu"),
                layers.Reshape(quarter),
                layers.Conv2DTranspose(options.width, activation="elu", **convolution),
                layers.Conv2DTranspose(2 * channels, **convolution),
            ],
            name="decoder",
        )
        self.encoder.build((None, height, width, channels))
        self.decoder.build((None, options.latent))

    @property
    def noise(self):
        """Shape of the only noise stream, that of the latents."""
        return {"z": (self.latent,)}

    def encode(self, images, u=None, *, training=False):
        """Returns x, and the mean and log standard deviation of q(z|x)."""
        x = self.observe(images, u)
        encoded = ops.cast(self.encoder(x - 0.5), self.variable_dtype)  # bfloat16 in mixed precision
        return x, *ops.split(encoded, 2, axis=-1)

    def score(self, encoding, eps, *, training=False):
        """Returns log p(x|z) and the KL divergence by latent."""
        x, mu, log_sigma = encoding
        z, log_q = sample_normal(mu, log_sigma, eps["z"])
        log_px = self.likelihood.log_prob(self.parameters(z), flat(x))
        return Score(
            log_px, {"z": log_q - log_standard_normal(z)}, {"z": z}, {"sigma": ops.mean(ops.exp(log_sigma), -1)}
        )

    def decode(self, latents, u=None):
        """Returns mean images, or images whose pixels are drawn with the noise u."""
        raw = self.parameters(latents["z"])
        x = self.likelihood.mean(raw) if u is None else self.likelihood.sample(raw, flat(u))
        return ops.reshape(x, (-1, *self.image_shape))

    def parameters(self, z):
        """Returns the means, then the log-scales, of all pixel values, [B, 2 D]."""
        decoded = ops.cast(self.decoder(z), self.variable_dtype)
        mean, log_scale = ops.split(decoded, 2, axis=-1)
        return ops.concatenate([flat(mean), flat(log_scale)], axis=-1)

    def pixel_distribution(self, latents):
        """Returns the likelihood and its raw parameters, for `vaedist check`."""
        return self.likelihood, self.parameters(latents["z"])


def flat(x):
    """Flattens all axes but the first."""
    return ops.reshape(x, (-1, math.prod(x.shape[1:])))
