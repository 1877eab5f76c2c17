"""Inverse autoregressive flow: steps z -> (z', log_det), each the inverse direction of an autoregressive map.

Kingma, Salimans, Jozefowicz, Chen, Sutskever and Welling, "Improved Variational Inference with Inverse
Autoregressive Flow", 2016, algorithm 1 and section 4. log_det = log |det dz'/dz| per image, in nats.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops

from vaedist.models.flows.autoregressive import AutoregressiveNetwork
from vaedist.models.flows.flow import Dependency, Flow, FlowOutput
from vaedist.models.flows.options import IAFOptions
from vaedist.models.flows.transforms import make_transform
from vaedist.models.products import Dense, Product
from vaedist.models.seeds import derived_seeds


class InverseAutoregressiveFlow(Flow):
    """A stack of steps, each a `Transform` with the parameters of an `AutoregressiveNetwork`.

    Successive steps use opposite orders of the latents. The masks of their networks implement this, so that a latent
    keeps its index from z_0 to z_T. One product computes the contributions of the context h to all steps.

    Args:
        latent: number of latents.
        options: sizes and formula of the steps.
        context: width of h; 0 if the flow has no context.
        seed: seed of the initial weights.
    """

    Options = IAFOptions
    mixed_precision = True

    def __init__(self, latent: int, options: IAFOptions, *, context: int = 0, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(latent, options, context=context, seed=seed, **kwargs)
        depth, width = options.depth, options.width
        self.transform = make_transform(options.transform, options.gate_bias)
        *seeds, last = derived_seeds(seed, depth + 1)
        self.context = None
        if context and depth:
            limit = float(np.sqrt(6 / (context + width)))  # Glorot's limit for one step
            self.context = Dense(
                depth * width,
                use_bias=False,
                kernel_initializer=keras.initializers.RandomUniform(-limit, limit, seed=last),
                name="context",
                dtype=self.dtype_policy,
            )
        self.networks = [
            AutoregressiveNetwork(
                latent,
                width,
                options.layers,
                parameters=self.transform.parameters,
                reverse=bool(i % 2),
                seed=seed,
                name=f"step_{i}",
                dtype=self.dtype_policy,
            )
            for i, seed in enumerate(seeds)
        ]

    def build(self, input_shape: Any) -> None:
        """Creates the weights of all steps."""
        if self.context is not None:
            self.context.build((None, self.context_width))
        for network in self.networks:
            network.build((None, self.latent))
        self.built = True

    @property
    def products(self) -> list[Product]:
        """Products of the context and of all steps."""
        own = [] if self.context is None else [self.context.product]
        return own + [product for network in self.networks for product in network.products]

    def call(self, z: Any, h: Any) -> FlowOutput:
        """Maps z_0 [..., latent] to z_T, given h [..., context].

        K samples per image, z_0 [B, K, latent], may share the h of their image, [B, 1, context].

        The metrics are the log-determinant of each step, log_det_t, and the mean over latents of |dz'_i/dz_i|, named
        gate_t for gated steps and scale_t for others.
        """
        log_det, log_scales = ops.zeros_like(z), []
        for network, context in zip(self.networks, self.contexts(h), strict=True):
            z, log_scale = self.transform.forward(z, *network(z, context))
            log_scales.append(log_scale)
            log_det += log_scale
        scale = self.transform.scale_name
        dets = {f"log_det_{t}": ops.sum(log_scale, axis=-1) for t, log_scale in enumerate(log_scales, 1)}
        scales = {f"{scale}_{t}": ops.mean(ops.exp(log_scale), axis=-1) for t, log_scale in enumerate(log_scales, 1)}
        return FlowOutput(z, log_det, {**dets, **scales})

    def inverse(self, z: Any, h: Any) -> Any:
        """Returns the z_0 that the flow maps to z_T = z, [B, latent], at `latent` times the cost of `call`."""
        for network, context in reversed(list(zip(self.networks, self.contexts(h), strict=True))):
            after, z = z, ops.zeros_like(z)
            for latent in network.order:  # its parameters depend only on latents that are already known
                before = self.transform.inverse(after, *network(z, context))
                z = ops.where(ops.arange(self.latent) == latent, before, z)
        return z

    def contexts(self, h: Any) -> list[Any]:
        """Returns the contribution of h to the first hidden layer of each step, [..., width], or None for each."""
        if self.context is None:
            return [None] * len(self.networks)
        return ops.split(self.context(h), len(self.networks), axis=-1)

    def dependencies(self, h: Any) -> Iterator[Dependency]:
        """Yields the autoregressive parameters of each step as functions of its input."""

        def parameter(network: AutoregressiveNetwork, context: Any, part: int, z: Any) -> Any:
            return network(z, context)[part]

        for number, (network, context) in enumerate(zip(self.networks, self.contexts(h), strict=True), 1):
            for part in range(network.parameters):
                name = f"mask of step {number}, parameter {part + 1}"
                yield Dependency(name, partial(parameter, network, context, part), network.order)
