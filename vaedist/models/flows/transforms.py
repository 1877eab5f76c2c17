"""Elementwise, invertible transforms of the latents in a flow step, given the step's autoregressive parameters.

The parameters of latent i depend on z_<i only, so the Jacobian of a step is triangular, and its log-determinant is
sum_i log |dz'_i / dz_i| (Kingma et al. 2016, section 4).
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from keras import ops


class Transform(Protocol):
    """An elementwise map z -> z'.

    Attributes:
        parameters: number of parameters per latent.
        scale_name: name of exp(log_scale) in metrics.
    """

    parameters: ClassVar[int]
    scale_name: ClassVar[str]

    def forward(self, z: Any, *parameters: Any) -> tuple[Any, Any]:
        """Returns z' and log_scale = log |dz'/dz|, both shaped like z, [..., latent]."""
        ...

    def inverse(self, z: Any, *parameters: Any) -> Any:
        """Returns the z that `forward` maps to the given z'."""
        ...


@dataclass(frozen=True)
class Gated:
    """z' = g z + (1 - g) m with the gate g = sigmoid(s + bias); log_scale = log g (Kingma et al. 2016, algorithm 1).

    A bias of about +2 starts a step near the identity.
    """

    bias: float = 2.0

    parameters: ClassVar[int] = 2
    scale_name: ClassVar[str] = "gate"

    def forward(self, z: Any, *parameters: Any) -> tuple[Any, Any]:
        """Returns z' and log g for the proposal m and the gate's logit s."""
        m, s = parameters
        s = s + self.bias
        return m + ops.sigmoid(s) * (z - m), ops.log_sigmoid(s)

    def inverse(self, z: Any, *parameters: Any) -> Any:
        """Returns z = m + (z' - m) / g."""
        m, s = parameters
        return m + (z - m) / ops.sigmoid(s + self.bias)


@dataclass(frozen=True)
class Affine:
    """z' = (z - m) / exp(s); log_scale = -s, as in the code published with Kingma et al. 2016."""

    parameters: ClassVar[int] = 2
    scale_name: ClassVar[str] = "scale"

    def forward(self, z: Any, *parameters: Any) -> tuple[Any, Any]:
        """Returns z' and -s."""
        m, s = parameters
        return (z - m) * ops.exp(-s), -s

    def inverse(self, z: Any, *parameters: Any) -> Any:
        """Returns z = z' exp(s) + m."""
        m, s = parameters
        return z * ops.exp(s) + m


@dataclass(frozen=True)
class Location:
    """z' = z + m, which preserves volume: log_scale = 0 (the location-only flow of Kingma et al. 2016, appendix)."""

    parameters: ClassVar[int] = 1
    scale_name: ClassVar[str] = "scale"

    def forward(self, z: Any, *parameters: Any) -> tuple[Any, Any]:
        """Returns z' and 0."""
        (m,) = parameters
        return z + m, ops.zeros_like(z)

    def inverse(self, z: Any, *parameters: Any) -> Any:
        """Returns z = z' - m."""
        (m,) = parameters
        return z - m


def make_transform(name: str, gate_bias: float = 2.0) -> Transform:
    """Returns the transform with a name, "gated", "affine" or "location"."""
    transforms: dict[str, Transform] = {"gated": Gated(gate_bias), "affine": Affine(), "location": Location()}
    return transforms[name]
