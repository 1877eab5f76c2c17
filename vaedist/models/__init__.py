"""The model: masks, flows, likelihoods and the VAE, in Keras 3 on TensorFlow.

It stands alone: no Ray, no files, no configuration.
"""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        f"vaedist needs Keras on TensorFlow, but KERAS_BACKEND is {keras.backend.backend()!r}: "
        "set KERAS_BACKEND=tensorflow or import vaedist before keras"
    )

from vaedist.models.mlp.model import VAE
from vaedist.models.model import Model, Score

__all__ = ["VAE", "Model", "Score"]
