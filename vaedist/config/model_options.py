"""Base class of the options of models, the [model] section of an experiment, and the built-in models."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any, ClassVar

from pydantic import Field

from vaedist.config.class_choice import ClassChoice
from vaedist.config.class_options import ClassOptions

MODELS = ClassChoice(
    noun="model",
    key="model.type",
    base="vaedist.models.model:Model",
    public="vaedist.models.Model",
    built_in={
        "mlp": "vaedist.models.mlp.model:VAE",
        "conv": "vaedist.models.conv.model:ConvVAE",
        "resnet": "vaedist.models.resnet.model:ResNetVAE",
    },
    built_in_options={
        "mlp": "vaedist.models.mlp.options:MLPOptions",
        "conv": "vaedist.models.conv.options:ConvOptions",
        "resnet": "vaedist.models.resnet.options:ResNetOptions",
    },
    options=("vaedist.config.model_options:ModelOptions", "vaedist.ModelOptions"),
)


class ModelOptions(ClassOptions):
    """Base class for the options of a model. A subclass adds keys, each with a type, default, range and description."""

    choice: ClassVar[ClassChoice] = MODELS

    type: str = Field(default="", description="A built-in model, or your own class, written 'package.module:Class'.")

    def check_shape(self, image_shape: Sequence[int]) -> None:
        """Checks that the model can process images of a shape; the default accepts all.

        Args:
            image_shape: (height, width, channels).

        Raises:
            ValueError: it cannot; the message says why in one line.
        """

    def preprocessing(self, binarize: str) -> Any:
        """Returns the mapping of pixels to the x that the model scores, a `vaedist.models.preprocessing.Preprocessing`.

        The default is the 256 levels of a pixel, or binary pixels.

        Args:
            binarize: the experiment's `data.binarize`.

        Raises:
            ValueError: the model cannot score pixels that are binarised in this way; the message says why in one line.
        """
        preprocessing = import_module("vaedist.models.preprocessing")  # a layer above config/
        return preprocessing.BINARIZE[binarize] or preprocessing.Binned()
