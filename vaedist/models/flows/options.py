"""Options of flows, the section [model.flow] of models with a flow, and the built-in flows."""

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
    """Base class for the options of a flow. A subclass adds keys, each with a type, default, range and description."""

    choice: ClassVar[ClassChoice] = FLOWS

    type: str = Field(default="", description="A built-in flow, or your own class, written 'package.module:Class'.")
    depth: int = Field(default=3, ge=0, le=64, description="Number of flow steps; 0 is a VAE without a flow.")

    def context_width(self, latent: int) -> int:
        """Returns the width of the context h, which the encoder computes for the flow besides q(z_0|x).

        The default is the number of latents; 0 means no context.
        """
        return latent


class IAFOptions(FlowOptions):
    """Options of the inverse autoregressive flow (Kingma et al. 2016)."""

    type: str = Field(default="iaf", description=FlowOptions.model_fields["type"].description)
    width: int = Field(default=500, ge=1, description="Units per hidden layer of a step's autoregressive network.")
    layers: int = Field(default=1, ge=1, le=16, description="Hidden layers per step's autoregressive network.")
    transform: Literal["gated", "affine", "location"] = Field(
        default="gated",
        description="Formula of a step: gated, g z + (1 - g) m; affine, (z - m) / exp(s); or location, z + m, which "
        "preserves volume.",
    )
    context: bool = Field(default=True, description="Condition each step on a context h, computed by the encoder.")
    gate_bias: float = Field(
        default=2.0,
        ge=-20,
        le=20,
        description="Bias of the gate logits of gated steps; at large values, steps start near the identity.",
    )

    def context_width(self, latent: int) -> int:
        """Returns the number of latents if the flow has a context, else 0."""
        return latent if self.context else 0


AnyFlowOptions = Annotated[SerializeAsAny[FlowOptions], BeforeValidator(of_its_type(FlowOptions))]
