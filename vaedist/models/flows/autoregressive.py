"""Masked networks whose output i depends on the inputs before i only (MADE, Germain et al. 2015)."""

from typing import Any

import keras
import numpy as np
from keras import ops

from vaedist.models.flows import masks
from vaedist.models.products import Product

BLOCKS = 2  # of each masked product, see `MaskedDense`; on two cores 2 was faster than 1 and 4


class MaskedDense(keras.layers.Layer):
    """A dense layer whose kernel is 0 where a mask is False: y = x (W * mask) + b, once for each parameter.

    The outputs are computed in blocks of neighbours, and a block's kernel spans just the inputs that its outputs may
    see. For a mask that is about triangular, as those of `masks` are, B blocks hold (B + 1) / (2 B) of the
    kernel: what is left out needs no memory, no multiplication, no gradient and no optimizer state.

    Args:
        mask: whether an output may see an input, [in, out].
        parameters: how many numbers each output has; all of them go by its mask.
        blocks: into how many blocks the outputs are cut; more leave out more, but make smaller products.
        scale: factor on the Glorot initialisation of the kernel.
        seed: of the initialisation.
    """

    def __init__(
        self, mask: np.ndarray, *, parameters: int = 1, blocks: int = BLOCKS, scale: float = 1.0, seed: int = 0,
        **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(**kwargs)
        self.parameters, self.units, self.seed = parameters, mask.shape[1], seed
        self.limit = scale * float(np.sqrt(6 / (len(mask) + parameters * self.units)))
        self.blocks = masks.column_blocks(mask, blocks)

    def build(self, input_shape: Any) -> None:
        """Make the kernel of each block, its parameters side by side, and the bias of each parameter."""
        seeds = np.random.SeedSequence(self.seed).generate_state(len(self.blocks)).tolist()
        self.kernels = [
            self.add_weight(
                shape=(len(block.mask), self.parameters * block.mask.shape[1]),
                initializer=keras.initializers.RandomUniform(-self.limit, self.limit, seed=seed),
                name=f"kernel_{i}",
            )
            for i, (block, seed) in enumerate(zip(self.blocks, seeds, strict=True))
        ]
        self.bias = self.add_weight(shape=(self.parameters * self.units,), initializer="zeros", name="bias")
        self.products = [
            Product(kernel, np.tile(block.mask, (1, self.parameters)))
            for kernel, block in zip(self.kernels, self.blocks, strict=True)
        ]
        for product in self.products:
            product.clear_masked()

    def call(self, x: Any) -> tuple[Any, ...]:
        """[..., in] -> each parameter, [..., out]."""
        by_block = []
        for product, (first, mask) in zip(self.products, self.blocks, strict=True):
            y = product(x[..., first : first + len(mask)])
            by_block.append(ops.split(y, self.parameters, axis=-1))
        biases = ops.split(self.bias, self.parameters)
        return tuple(
            ops.concatenate(blocks, axis=-1) + bias
            for blocks, bias in zip(zip(*by_block, strict=True), biases, strict=True)
        )


@keras.saving.register_keras_serializable("vaedist")
class AutoregressiveNetwork(keras.layers.Layer):
    """A masked MLP that gives each latent i some parameters, which depend on z_<i and on all of the context.

    With `reverse` they depend on z_>i.

    The context is added to the first hidden layer, unmasked. The last layer starts at a tenth of Glorot's scale, so
    that its outputs start near 0.

    Args:
        latent: number of latents.
        width: units of each hidden layer, tanh.
        layers: number of hidden layers.
        parameters: how many each latent gets.
        reverse: the order of the latents.
        seed: of the initialisation.
    """

    def __init__(
        self,
        latent: int,
        width: int,
        layers: int = 1,
        *,
        parameters: int = 2,
        reverse: bool = False,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.latent, self.parameters = latent, parameters
        self.order = range(latent)[::-1] if reverse else range(latent)  # each depends on those before it
        seeds = np.random.SeedSequence(seed).generate_state(layers + 1).tolist()
        inputs, hidden = masks.input_degrees(latent, reverse=reverse), masks.hidden_degrees(width, latent)
        into = [inputs] + [hidden] * (layers - 1)
        self.hidden = [
            MaskedDense(
                masks.hidden_mask(degrees, hidden),
                seed=seed,
                name=f"hidden_{i}",
                dtype=self.dtype_policy,
            )
            for i, (degrees, seed) in enumerate(zip(into, seeds[:-1], strict=True))
        ]
        self.out = MaskedDense(
            masks.output_mask(hidden, inputs),
            parameters=parameters,
            scale=0.1,
            seed=seeds[-1],
            name="out",
            dtype=self.dtype_policy,
        )

    def build(self, input_shape: Any) -> None:
        """Make the weights of every layer."""
        for layer in (*self.hidden, self.out):
            layer.build((None, self.latent))

    @property
    def products(self) -> list[Product]:
        """Those of its layers."""
        return [product for layer in (*self.hidden, self.out) for product in layer.products]

    def call(self, z: Any, context: Any = None) -> tuple[Any, ...]:
        """From z [..., latent] and a context [..., width], if there is one, to the parameters, each [..., latent]."""
        (y,) = self.hidden[0](z)
        y = ops.tanh(y if context is None else y + context)
        for layer in self.hidden[1:]:
            (y,) = layer(y)
            y = ops.tanh(y)
        return self.out(y)
