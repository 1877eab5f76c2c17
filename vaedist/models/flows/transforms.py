"""What a flow step does to each latent, given its autoregressive parameters: elementwise, and so easily undone.

The parameters of latent i depend on z_<i only, so the Jacobian of a step is triangular, and log |dz'_i / dz_i|, which
each transform gives, sums up to its log-determinant (Kingma et al. 2016, section 4).
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from keras import ops


class Transform(Protocol):
    """z -> z', latent by latent.

    `parameters` is how many numbers a latent needs, `scale_name` what exp(log_scale) is called.
    """

    parameters: ClassVar[int]
    scale_name: ClassVar[str]

    def forward(self, z: Any, *parameters: Any) -> tuple[Any, Any]:
        """Z' and log_scale = log |dz'/dz|, both shaped like z, [..., latent]."""
        ...

    def inverse(self, z: Any, *parameters: Any) -> Any:
        """The z that `forward` takes to z'."""
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
        """Z' and log g, at the proposal m and the gate's logit s."""
        m, s = parameters
        s = s + self.bias
        return m + ops.sigmoid(s) * (z - m), ops.log_sigmoid(s)

    def inverse(self, z: Any, *parameters: Any) -> Any:
        """Z = m + (z' - m) / g."""
        m, s = parameters
        return m + (z - m) / ops.sigmoid(s + self.bias)


@dataclass(frozen=True)
class Affine:
    """z' = (z - m) / exp(s); log_scale = -s (the form of the code that was released with Kingma et al. 2016)."""

    parameters: ClassVar[int] = 2
    scale_name: ClassVar[str] = "scale"

    def forward(self, z: Any, *parameters: Any) -> tuple[Any, Any]:
        """Z' and -s."""
        m, s = parameters
        return (z - m) * ops.exp(-s), -s

    def inverse(self, z: Any, *parameters: Any) -> Any:
        """Z' exp(s) + m."""
        m, s = parameters
        return z * ops.exp(s) + m


@dataclass(frozen=True)
class Location:
    """z' = z + m, which keeps volumes: log_scale = 0 (the location-only flow of Kingma et al. 2016, appendix)."""

    parameters: ClassVar[int] = 1
    scale_name: ClassVar[str] = "scale"

    def forward(self, z: Any, *parameters: Any) -> tuple[Any, Any]:
        """Z' and 0."""
        (m,) = parameters
        return z + m, ops.zeros_like(z)

    def inverse(self, z: Any, *parameters: Any) -> Any:
        """Z' - m."""
        (m,) = parameters
        return z - m


def make_transform(name: str, gate_bias: float = 2.0) -> Transform:
    """The transform of a flow by its name: "gated", "affine" or "location"."""
    transforms: dict[str, Transform] = {"gated": Gated(gate_bias), "affine": Affine(), "location": Location()}
    return transforms[name]
