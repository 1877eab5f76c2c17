"""Inverse autoregressive flow on latents that are images, by masked convolutions (Kingma et al. 2016, appendix C).

The order of the latents runs over positions from the last to the first, row by row, and within a position over
channels. A kernel therefore reads positions in the row below, and to the right in its own row. At its own position it
reads earlier channels. Successive steps use opposite orders.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops

from vaedist.models.convolutions import Padding
from vaedist.models.flows.flow import Dependency, Flow, FlowOutput
from vaedist.models.flows.options import FlowOptions
from vaedist.models.flows.transforms import make_transform
from vaedist.models.resnet.options import ConvolutionalFlowOptions
from vaedist.models.seeds import derived_seeds
from vaedist.models.weight_normalization import Convolution

PARAMETER_SCALE = 0.1  # factor on the outputs of the networks, so that steps start near the identity


def channel_mask(inputs: int, outputs: int, *, strict: bool) -> np.ndarray:
    """Returns True where an output channel may depend on an input channel of its own position, [inputs, outputs].

    Channels are divided evenly into n groups of neighbours, with the smaller number of channels n. An output depends on
    the groups up to its own, or if `strict` before its own.
    """
    groups = min(inputs, outputs)
    of_input, of_output = np.arange(inputs) * groups // inputs, np.arange(outputs) * groups // outputs
    return of_input[:, None] < of_output if strict else of_input[:, None] <= of_output


def kernel_mask(inputs: int, outputs: int, *, strict: bool, reverse: bool = False) -> np.ndarray:
    """Returns the mask of a kernel, [2, 3, inputs, outputs], see above; `reverse` for the opposite order."""
    mask = np.ones((2, 3, inputs, outputs), bool)
    mask[0, 0] = False
    mask[0, 1] = channel_mask(inputs, outputs, strict=strict)
    return mask[::-1, ::-1, ::-1, ::-1].copy() if reverse else mask


class AutoregressiveConvolutions(keras.layers.Layer):
    """A masked convolutional network that computes the parameters of a step, each like z, [..., H, W, latent].

    The context is added to the outputs of the first hidden layer. Hidden layers have ELU activations. Without hidden
    layers the parameters are linear in z, and do not depend on the context.

    Args:
        latent: channels of z.
        width: channels of the hidden layers and of the context.
        layers: number of hidden layers.
        parameters: number of parameters per latent.
        reverse: reverse the order of the latents.
        seed: seed of the initial weights.
    """

    def __init__(
        self, latent: int, *, width: int, layers: int, parameters: int, reverse: bool, seed: int, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.latent, self.parameters, self.reverse = latent, parameters, reverse
        *seeds, last = derived_seeds(seed, layers + 1)
        rows = (1, 0) if reverse else (0, 1)
        padding: Padding = (rows, (1, 1))
        layer: dict[str, Any] = {"padding": padding, "deviation": 1.0, "dtype": self.dtype_policy}
        self.hidden = []
        for number, each in enumerate(seeds, 1):
            inputs = width if number > 1 else latent
            mask = kernel_mask(inputs, width, strict=False, reverse=reverse)
            self.hidden.append(
                Convolution(inputs, width, (2, 3), mask=mask, seed=each, name=f"hidden_{number}", **layer)
            )
        inputs = width if layers else latent
        mask = np.tile(kernel_mask(inputs, latent, strict=True, reverse=reverse), parameters)
        self.out = Convolution(inputs, parameters * latent, (2, 3), mask=mask, seed=last, name="out", **layer)

    def build(self, input_shape: Any = None) -> None:
        """Creates all weights."""
        for layer in (*self.hidden, self.out):
            layer.build()
        self.built = True

    def call(self, z: Any, context: Any) -> Sequence[Any]:
        """Returns the parameters for z [..., H, W, latent] and context [..., H, W, width]."""
        y = z
        for number, layer in enumerate(self.hidden):
            y = layer(y)
            y = ops.elu(y + context if number == 0 else y)
        parts = ops.split(self.out(y), self.parameters, axis=-1)
        return [PARAMETER_SCALE * ops.cast(part, self.variable_dtype) for part in parts]

    def order(self, height: int, width: int) -> Sequence[int]:
        """Returns the indices of the flattened latents [height * width * latent], each after those it depends on."""
        positions = np.arange(height * width * self.latent).reshape(-1, self.latent)
        ordered = positions[::-1].ravel() if not self.reverse else positions[:, ::-1].ravel()
        return [int(index) for index in ordered]


class ConvolutionalFlow(keras.layers.Layer):
    """A stack of steps, each an elementwise `Transform` with the parameters of `AutoregressiveConvolutions`.

    Args:
        latent: channels of z.
        width: channels of the hidden layers and of the context.
        options: number and formula of the steps.
        seed: seed of the initial weights.
    """

    def __init__(self, latent: int, width: int, options: ConvolutionalFlowOptions, *, seed: int, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)  # z keeps its dtype in mixed precision
        self.latent, self.transform = latent, make_transform(options.transform, options.gate_bias)
        self.networks = [
            AutoregressiveConvolutions(
                latent, width=width, layers=options.layers, parameters=self.transform.parameters,
                reverse=bool(step % 2), seed=each, name=f"step_{step}", dtype=self.dtype_policy,
            )
            for step, each in enumerate(derived_seeds(seed, options.depth))
        ]  # fmt: skip

    def build(self, input_shape: Any = None) -> None:
        """Creates all weights."""
        for network in self.networks:
            network.build()
        self.built = True

    def call(self, z: Any, context: Any) -> tuple[Any, Any]:
        """Returns z_T and the contributions of each latent to log |det dz_T/dz_0|, both [..., H, W, latent]."""
        log_det = ops.zeros_like(z)
        for network in self.networks:
            z, log_scale = self.transform.forward(z, *network(z, context))
            log_det += log_scale
        return z, log_det


class FlattenedFlow(Flow):
    """A `ConvolutionalFlow` on flattened latents and contexts, [..., H * W * channels], for `vaedist check`.

    Args:
        flow: the flow, whose weights this shares.
        height, width: H and W.
        context: channels of the context.
    """

    def __init__(self, flow: ConvolutionalFlow, height: int, width: int, context: int) -> None:
        positions = height * width
        super().__init__(positions * flow.latent, FlowOptions(), context=positions * context, dtype=flow.dtype_policy)
        self.flow, self.height, self.width = flow, height, width
        self.built = True

    def call(self, z: Any, h: Any) -> FlowOutput:
        """Maps z_0 [..., latent] to z_T, given h [..., context]."""
        z, log_det = self.flow(self._images(z), self._images(h))
        return FlowOutput(self._flat(z), self._flat(log_det))

    def inverse(self, z: Any, h: Any) -> Any:
        """Returns the z_0 that the flow maps to z_T = z, [B, latent], at `latent` times the cost of `call`."""
        context = self._images(h)
        for network in reversed(self.flow.networks):
            after, z = z, ops.zeros_like(z)
            for latent in network.order(self.height, self.width):
                before = self.flow.transform.inverse(after, *map(self._flat, network(self._images(z), context)))
                z = ops.where(ops.arange(self.latent) == latent, before, z)
        return z

    def dependencies(self, h: Any) -> Iterator[Dependency]:
        """Yields the autoregressive parameters of each step as functions of its input."""
        context = self._images(h)

        def parameter(network: AutoregressiveConvolutions, part: int, z: Any) -> Any:
            return self._flat(network(self._images(z), context)[part])

        for number, network in enumerate(self.flow.networks, 1):
            for part in range(network.parameters):
                name = f"mask of step {number}, parameter {part + 1}"
                yield Dependency(name, partial(parameter, network, part), network.order(self.height, self.width))

    def _images(self, x: Any) -> Any:
        return ops.reshape(x, (*x.shape[:-1], self.height, self.width, -1))

    def _flat(self, x: Any) -> Any:
        return ops.reshape(x, (*x.shape[:-3], -1))
