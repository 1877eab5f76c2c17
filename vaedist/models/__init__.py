"""Models, flows, likelihoods and preprocessing, in Keras 3 on TensorFlow.

Importing this package loads neither: the names below are imported on demand, so that options and preprocessing can
be used without Keras.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")  # see keras_backend.py

if TYPE_CHECKING:
    from vaedist.models.mlp.model import VAE
    from vaedist.models.model import Model, Score

__all__ = ["VAE", "Model", "Score"]

_HOMES = {"VAE": "vaedist.models.mlp.model", "Model": "vaedist.models.model", "Score": "vaedist.models.model"}


def __getattr__(name: str) -> Any:
    """Imports a public name on demand."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
