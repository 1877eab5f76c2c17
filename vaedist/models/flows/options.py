"""Options of flows, the [model.flow] part of a model with one, and the flows that it may name."""

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny

from vaedist.config import ClassChoice, ClassOptions, of_its_type

FLOWS = ClassChoice(
    noun="flow",
    key="model.flow.type",
    base="vaedist.models.flows.flow:Flow",
    public="vaedist.Flow",
    built_in={"iaf": "vaedist.models.flows.inverse_autoregressive:InverseAutoregressiveFlow"},
    built_in_options={"iaf": "vaedist.models.flows.options:IAFOptions"},
    options=("vaedist.models.flows.options:FlowOptions", "vaedist.FlowOptions"),
)


class FlowOptions(ClassOptions):
    """Options of a flow: a subclass adds its keys, each with a type, a default, a range and a description."""

    choice: ClassVar[ClassChoice] = FLOWS

    type: str = Field(
        default="", description="A built-in flow, or a class of one's own, written 'package.module:Class'."
    )
    depth: int = Field(default=3, ge=0, le=64, description="Number of flow steps; 0 is the plain VAE.")

    def context_width(self, latent: int) -> int:
        """Returns the width of the context h that the encoder computes for the flow beside the parameters of q(z_0|x).

        As many as there are latents, unless a subclass says otherwise; 0 does without.
        """
        return latent


class IAFOptions(FlowOptions):
    """The inverse autoregressive flow of the posterior (Kingma et al. 2016)."""

    type: str = Field(default="iaf", description=FlowOptions.model_fields["type"].description)
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

    def context_width(self, latent: int) -> int:
        """Returns the number of latents, or 0 without a context."""
        return latent if self.context else 0


AnyFlowOptions = Annotated[SerializeAsAny[FlowOptions], BeforeValidator(of_its_type(FlowOptions))]
