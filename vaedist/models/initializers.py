"""Initial weights."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

SeededInitializer = Callable[[int], keras.initializers.Initializer]  # makes an initializer from a seed


class PosteriorInitializer(keras.initializers.Initializer):
    """Kernel [inputs, outputs] of the layer that computes mu, log_sigma, and a context h if there are more outputs.

    The columns of log_sigma are 0, so that at first q(z_0|x) has the same standard deviation for every image; the
    others are Glorot's.

    Args:
        latent: number of latents.
        seed: seed of the columns of mu and h.
    """

    def __init__(self, latent: int, seed: int) -> None:
        self.latent, self.seed = latent, seed

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        """Returns the kernel."""
        kernel = keras.initializers.GlorotUniform(self.seed)(shape, dtype)
        mu, log_sigma, h = ops.split(kernel, [self.latent, 2 * self.latent], axis=-1)
        return ops.concatenate([mu, ops.zeros_like(log_sigma), h], axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        return {"latent": self.latent, "seed": self.seed}
