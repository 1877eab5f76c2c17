"""Options of the gated convolutional VAE, the section [model] with type = "conv"."""

from pydantic import Field

from vaedist.config import ModelOptions
from vaedist.models.flows.options import AnyFlowOptions, IAFOptions
from vaedist.models.options import LikelihoodOptions


class ConvOptions(LikelihoodOptions):
    """Options of the gated convolutional VAE."""

    type: str = Field(default="conv", description=ModelOptions.model_fields["type"].description)
    width: int = Field(
        default=32, ge=1, le=1024, description="Channels at the image's resolution; twice as many at lower ones."
    )
    hidden: int = Field(default=256, ge=1, description="Units of the dense layer between convolutions and posterior.")
    latent: int = Field(default=64, ge=1, description="Number of latents.")
    flow: AnyFlowOptions = IAFOptions()
