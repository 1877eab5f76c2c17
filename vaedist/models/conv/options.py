"""Options of the gated convolutional VAE, the section [model] with type = "conv"."""

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from vaedist.config import ModelOptions
from vaedist.models.flows.options import AnyFlowOptions, IAFOptions
from vaedist.models.options import FlowVAEOptions, check_divisible


class ConvOptions(FlowVAEOptions):
    """Options of the gated convolutional VAE."""

    factor: ClassVar[int] = 4  # ratio of the side of the image to that of the smallest feature maps

    type: str = Field(default="conv", description=ModelOptions.model_fields["type"].description)
    width: int = Field(
        default=32, ge=1, le=1024, description="Channels at the image's resolution; twice as many at lower ones."
    )
    hidden: int = Field(default=256, ge=1, description="Units of the dense layer between convolutions and posterior.")
    latent: int = Field(default=64, ge=1, description="Number of latents.")
    flow: AnyFlowOptions = IAFOptions()

    def check_shape(self, image_shape: Sequence[int]) -> None:
        """Checks that the resolution can be halved twice."""
        check_divisible(image_shape, self.factor, f"model.type = {self.type!r}")
