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
            [..., latent] if they are known by latent, as for elementwise maps, else [..., 1]. `Flow.call` may also
            return the total as [...].
        metrics: values to log, [...], by name.
    """

    z: Any
    log_det: Any
    metrics: Mapping[str, Any] = {}


class Flow(keras.layers.Layer, ABC):
    """An invertible map z_0 -> z_T with parameters that may depend on a context h.

    A subclass has an attribute `Options`, a subclass of `FlowOptions`, and creates its weights in the constructor or in
    `build`. z, h and the result have the dtype of the weights, `variable_dtype`.

    Args:
        latent: number of latents.
        options: options of the flow; `depth` is at least 1.
        context: width of h; 0 if the flow has no context.
        seed: seed of the initial weights.

    Attributes:
        mixed_precision: True if the flow's layers may compute in bfloat16 while its weights, z and log_det are float32.
            If False, the whole flow computes in float32 in mixed precision, too.
    """

    mixed_precision: bool = False

    def __init__(self, latent: int, options: FlowOptions, *, context: int = 0, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)  # z keeps its dtype in mixed precision
        self.latent, self.options, self.context_width, self.seed = latent, options, context, seed

    @abstractmethod
    def call(self, z: Any, h: Any) -> FlowOutput:
        """Maps z_0 [..., latent] to z_T, given h [..., context].

        K samples per image, z_0 [B, K, latent], share the h of their image, [B, 1, context].
        """

    def __call__(self, z: Any, h: Any) -> FlowOutput:
        """Returns the result of `call`, with log_det of shape [..., latent] or [..., 1].

        Raises:
            ModelError: the result does not have the type or the shapes of a `FlowOutput`.
        """
        found = super().__call__(z, h)
        if not isinstance(found, FlowOutput):
            raise ModelError(f"flow {type(self).__name__}: call must return a FlowOutput, not {type(found).__name__}")
        shape = tuple(found.z.shape)
        if shape != tuple(z.shape):
            raise ModelError(f"flow {type(self).__name__}: call returns z of shape {shape} for z of {tuple(z.shape)}")
        sizes = tuple(found.log_det.shape)
        if sizes == shape[:-1]:
            return found._replace(log_det=ops.expand_dims(found.log_det, -1))
        if sizes not in (shape, (*shape[:-1], 1)):
            raise ModelError(
                f"flow {type(self).__name__}: call returns log_det of shape {sizes} for z of {shape}; it must be "
                f"{shape[:-1]}, {(*shape[:-1], 1)} or {shape}"
            )
        return found

    @property
    def products(self) -> Sequence[Product]:
        """Products with kernels whose gradients can be computed as `Factors`; empty by default."""
        return ()


class Identity(Flow):
    """The identity, a flow without steps."""

    def call(self, z: Any, h: Any) -> FlowOutput:
        """Returns z_0."""
        return FlowOutput(z, ops.zeros_like(z))


@runtime_checkable
class Invertible(Protocol):
    """A flow whose inverse can be computed."""

    def inverse(self, z: Any, h: Any) -> Any:
        """Returns the z_0 that the flow maps to z_T = z, [B, latent]."""
        ...


class Dependency(NamedTuple):
    """A function whose output i depends only on the latents before i, in some order.

    Attributes:
        name: name of the function in messages.
        function: maps z [B, latent] to values [B, latent].
        order: indices of the latents; the output of each may depend on those before it.
    """

    name: str
    function: Callable[[Any], Any]
    order: Sequence[int]


@runtime_checkable
class Autoregressive(Protocol):
    """A flow whose steps have triangular Jacobians."""

    def dependencies(self, h: Any) -> Iterator[Dependency]:
        """Yields the autoregressive functions of the flow for a context h [B, context]."""
        ...


class FlowCase(NamedTuple):
    """A flow and inputs at which to check it: z_0 [B, latent] and h [B, context]."""

    flow: Flow
    z: Any
    h: Any
