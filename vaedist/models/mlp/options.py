"""Options of the MLP, the section [model] with type = "mlp"."""

from pydantic import Field

from vaedist.config import ModelOptions
from vaedist.models.flows.options import AnyFlowOptions, IAFOptions
from vaedist.models.options import FlowVAEOptions


class MLPOptions(FlowVAEOptions):
    """Options of the VAE with MLP encoder and decoder."""

    type: str = Field(default="mlp", description=ModelOptions.model_fields["type"].description)
    hidden: int = Field(default=500, ge=1, description="Units per hidden layer of the encoder and of the decoder.")
    layers: int = Field(default=1, ge=1, le=16, description="Hidden layers of the encoder, and of the decoder.")
    latent: int = Field(default=500, ge=1, description="Number of latents.")
    flow: AnyFlowOptions = IAFOptions()
