"""The interface of flows: invertible maps of the latents, conditioned on a context."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable


class FlowOutput(NamedTuple):
    """Result of a flow.

    Attributes:
        z: z_T, [..., latent].
        log_det: contributions to log |det dz_T/dz_0|, whose sum over the last axis is the log-determinant, in nats:
            [..., latent] of an elementwise map, where each latent has its own, and [..., 1] where only their sum is
            known.
        metrics: values to be logged, [...], by name.
    """

    z: Any
    log_det: Any
    metrics: Mapping[str, Any]


class Flow(Protocol):
    """An invertible map z_0 -> z_T with parameters that may depend on a context h."""

    def __call__(self, z: Any, h: Any) -> FlowOutput:
        """Maps z_0 [..., latent] to z_T; h is [..., context], [..., 0] where there is no context."""
        ...


@runtime_checkable
class Invertible(Flow, Protocol):
    """A flow whose inverse can be computed."""

    def inverse(self, z: Any, h: Any) -> Any:
        """Returns the z_0 that the flow maps to z_T, [B, latent]."""
        ...


class Dependency(NamedTuple):
    """A claim that output i of a function depends on the latents before i only, in some order.

    Attributes:
        name: of the function, for messages.
        function: z [B, latent] to values [B, latent].
        order: numbers of the latents, each after those that it may depend on.
    """

    name: str
    function: Callable[[Any], Any]
    order: Sequence[int]


@runtime_checkable
class Autoregressive(Flow, Protocol):
    """A flow whose steps have triangular Jacobians."""

    def dependencies(self, h: Any) -> Iterator[Dependency]:
        """Yields each autoregressive function of the flow, for a context h [B, context]."""
        ...


class FlowCase(NamedTuple):
    """A flow, and inputs to prove it at: z_0 [B, latent] and h [B, context]."""

    flow: Any
    z: Any
    h: Any
