"""Construction of a flow from its options."""

from typing import Any

import keras

from vaedist.models.flows.flow import Flow, Identity
from vaedist.models.flows.options import FLOWS, FlowOptions
from vaedist.user_code import user_code


def make_flow(options: FlowOptions, latent: int, *, context: int, seed: int, **kwargs: Any) -> Flow:
    """Returns the flow with the given options; the model must build it.

    Args:
        options: options of the flow; a depth of 0 gives the identity.
        latent: number of latents.
        context: width of h.
        seed: seed of the initial weights.
        kwargs: name and dtype of the layer.

    Raises:
        ClassNameError, UserCodeError: the flow is a user's and cannot be used, see `ClassChoice.load`.
    """
    if not options.depth:
        return Identity(latent, options, context=context, seed=seed, **kwargs)
    kind = FLOWS.load(options.type)
    if not kind.mixed_precision:
        kwargs["dtype"] = keras.dtype_policies.get(kwargs.get("dtype")).variable_dtype
    with user_code(f"{FLOWS.key} = {options.type!r}: the flow cannot be created"):
        flow: Flow = kind(latent, options, context=context, seed=seed, **kwargs)
        return flow
