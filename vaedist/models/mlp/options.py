"""Options of the MLP, [model] with type = "mlp"."""

from typing import Literal

from pydantic import Field

from vaedist.config import ModelOptions, Section
from vaedist.models.options import LikelihoodOptions


class MLPFlowOptions(Section):
    """The inverse autoregressive flow of the posterior (Kingma et al. 2016)."""

    depth: int = Field(default=3, ge=0, le=64, description="Number of flow steps; 0 is the plain VAE.")
    width: int = Field(default=500, ge=1, description="Units of each hidden layer of a step's autoregressive network.")
    layers: int = Field(default=1, ge=1, le=16, description="Hidden layers of a step's autoregressive network.")
    transform: Literal["gated", "affine", "location"] = Field(
        default="gated",
        description="Formula of a step: g z + (1 - g) m, (z - m) / exp(s), or z + m, which keeps volumes.",
    )
    context: bool = Field(default=True, description="Feed each step the encoder's third output, h, beside z.")
    gate_bias: float = Field(
        default=2.0,
        ge=-20,
        le=20,
        description="Added to the logits of a gated step's gates, so that it starts near the identity.",
    )


class MLPOptions(LikelihoodOptions):
    """Sizes of the VAE with MLP encoder and decoder."""

    type: str = Field(default="mlp", description=ModelOptions.model_fields["type"].description)
    hidden: int = Field(default=500, ge=1, description="Units of each hidden layer of the encoder and of the decoder.")
    layers: int = Field(default=1, ge=1, le=16, description="Hidden layers of the encoder, and of the decoder.")
    latent: int = Field(default=500, ge=1, description="Number of latents.")
    flow: MLPFlowOptions = MLPFlowOptions()
