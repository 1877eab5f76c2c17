"""The interface of flows: invertible maps of the latents, conditioned on a context."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import keras
from keras import ops

import vaedist.models.keras_backend  # noqa: F401 - refuses other backends
from vaedist.errors import ModelError
from vaedist.models.flows.options import FlowOptions
from vaedist.models.products import Product


class FlowOutput(NamedTuple):
    """Result of a flow.

    Attributes:
        z: z_T, [..., latent].
        log_det: contributions to log |det dz_T/dz_0|, whose sum over the last axis is the log-determinant, in nats:
            [..., latent] of an elementwise map, where each latent has its own, and [..., 1] where only their sum is
            known. `Flow.call` may also return the sum as [...].
        metrics: values to be logged, [...], by name.
    """

    z: Any
    log_det: Any
    metrics: Mapping[str, Any] = {}


class Flow(keras.layers.Layer, ABC):
    """An invertible map z_0 -> z_T with parameters that may depend on a context h.

    A subclass has `Options`, a subclass of `FlowOptions`, makes its weights in the constructor or in `build`, and
    computes in `compute_dtype`.

    Args:
        latent: number of latents.
        options: of the flow; `depth` is at least 1.
        context: width of h; 0 without one.
        seed: key of the initial weights.
    """

    def __init__(self, latent: int, options: FlowOptions, *, context: int = 0, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.latent, self.options, self.context_width, self.seed = latent, options, context, seed

    @abstractmethod
    def call(self, z: Any, h: Any) -> FlowOutput:
        """Maps z_0 [..., latent] to z_T, given h [..., context], [..., 0] without a context.

        Several samples of an image, z_0 [B, K, latent], share its h [B, 1, context].
        """

    def __call__(self, z: Any, h: Any) -> FlowOutput:
        """Returns what `call` returns, with log_det of shape [..., latent] or [..., 1].

        Raises:
            ModelError: it returned something else than `FlowOutput` says.
        """
        found = super().__call__(z, h)
        if not isinstance(found, FlowOutput):
            raise ModelError(f"flow {type(self).__name__}: call must return a FlowOutput, not {type(found).__name__}")
        shape = tuple(found.z.shape)
        if shape != tuple(z.shape):
            raise ModelError(f"flow {type(self).__name__}: call gives z of shape {shape} for z of {tuple(z.shape)}")
        sizes = tuple(found.log_det.shape)
        if sizes == shape[:-1]:
            return found._replace(log_det=ops.expand_dims(found.log_det, -1))
        if sizes not in (shape, (*shape[:-1], 1)):
            raise ModelError(
                f"flow {type(self).__name__}: call gives log_det of shape {sizes} for z of {shape}; it must be "
                f"{shape[:-1]}, {(*shape[:-1], 1)} or {shape}"
            )
        return found

    @property
    def products(self) -> Sequence[Product]:
        """Products with kernels whose gradients may be taken as `Factors`; none unless a subclass declares them."""
        return ()


class Identity(Flow):
    """The flow of no steps."""

    def call(self, z: Any, h: Any) -> FlowOutput:
        """Returns z_0."""
        return FlowOutput(z, ops.zeros_like(z))


@runtime_checkable
class Invertible(Protocol):
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
class Autoregressive(Protocol):
    """A flow whose steps have triangular Jacobians."""

    def dependencies(self, h: Any) -> Iterator[Dependency]:
        """Yields each autoregressive function of the flow, for a context h [B, context]."""
        ...


class FlowCase(NamedTuple):
    """A flow, and inputs to prove it at: z_0 [B, latent] and h [B, context]."""

    flow: Flow
    z: Any
    h: Any
