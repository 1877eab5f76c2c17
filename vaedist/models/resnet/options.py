"""Options of the ResNet VAE, the section [model] with type = "resnet"."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from vaedist.config import ModelOptions, Section
from vaedist.models.options import LikelihoodOptions, check_divisible


class ConvolutionalFlowOptions(Section):
    """Options of the inverse autoregressive flow of each stochastic layer, which consists of masked convolutions."""

    depth: int = Field(default=1, ge=0, le=16, description="Number of flow steps; 0 is a diagonal normal posterior.")
    layers: int = Field(default=2, ge=0, le=8, description="Hidden layers per step's autoregressive network.")
    transform: Literal["affine", "gated", "location"] = Field(
        default="affine",
        description="Formula of a step: affine, (z - m) / exp(s); gated, g z + (1 - g) m; or location, z + m, which "
        "preserves volume.",
    )
    gate_bias: float = Field(default=2.0, ge=-20, le=20, description="Bias of the gate logits of gated steps.")


class ResNetOptions(LikelihoodOptions):
    """Options of the ResNet VAE."""

    type: str = Field(default="resnet", description=ModelOptions.model_fields["type"].description)
    likelihood: str = Field(
        default="discretized_logistic", description=LikelihoodOptions.model_fields["likelihood"].description
    )
    levels: int = Field(
        default=1, ge=1, le=8, description="Resolutions; the first has half the side of the image, and so on."
    )
    blocks: int = Field(default=2, ge=1, le=128, description="Blocks per level, each with a stochastic layer.")
    width: int = Field(default=32, ge=1, le=4096, description="Channels of the residual path.")
    latent: int = Field(default=16, ge=1, le=1024, description="Channels of the latents of each stochastic layer.")
    residual_scale: float = Field(
        default=0.1, gt=0, le=1, description="Factor on a block's contribution to each path; larger for few blocks."
    )
    flow: ConvolutionalFlowOptions = ConvolutionalFlowOptions()
    scales: Literal["pixel", "channel", "shared"] = Field(
        default="pixel",
        description="Parameters of the likelihood besides the first, such as log-scales: computed by the decoder for "
        "each pixel value, or learned constants, one for each colour channel or a single one.",
    )

    def check_shape(self, image_shape: Sequence[int]) -> None:
        """Checks that each level can halve the resolution."""
        check_divisible(image_shape, 2**self.levels, f"model.levels = {self.levels}")
