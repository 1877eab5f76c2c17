"""Construction of the model of an experiment."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

from vaedist.config import Experiment
from vaedist.config.model_options import MODELS
from vaedist.user_code import user_code


def build_model(experiment: Experiment, image_shape: tuple[int, int, int], dtype: str = "float32") -> Any:
    """Returns the model of an experiment, with its initial weights.

    Args:
        experiment: the model's type, options and seed.
        image_shape: (height, width, channels).
        dtype: Keras dtype policy, such as that of `training_policy`.

    Raises:
        ClassNameError, UserCodeError: the model is a user's and cannot be used, see `ClassChoice.load`.
    """
    options, binarize = experiment.model, experiment.data.binarize
    kind = MODELS.load(options.type)
    with user_code(f"model.type = {options.type!r}: the model cannot be created"):
        preprocessing = options.preprocessing(binarize)
        keras.utils.set_random_seed(experiment.seed)  # for initializers without a seed
        with layers_of(dtype):
            return kind(image_shape, options, preprocessing=preprocessing, seed=experiment.seed, dtype=dtype)


def training_policy(experiment: Experiment) -> str:
    """Returns the Keras dtype policy of the model in training."""
    return "mixed_bfloat16" if experiment.training.precision == "mixed_bfloat16" else "float32"


@contextmanager
def layers_of(dtype: str) -> Iterator[None]:
    """Sets the default dtype of Keras layers that are created in this context."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
