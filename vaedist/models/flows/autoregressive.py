"""Masked networks whose output i depends only on the inputs before i (MADE, Germain et al. 2015)."""

from typing import Any

import keras
import numpy as np
from keras import ops

from vaedist.models.flows import masks
from vaedist.models.products import Product
from vaedist.models.seeds import derived_seeds

BLOCKS = 2  # per masked product, see `MaskedDense`; on two cores, 2 was faster than 1 and 4


class MaskedDense(keras.layers.Layer):
    """A dense layer with a masked kernel, y = x (W * mask) + b, for each of several parameters per output.

    The outputs are computed in blocks of adjacent columns, and the kernel of a block has rows only for inputs that its
    outputs may depend on. For roughly triangular masks such as those of `masks`, B blocks hold (B + 1) / (2 B) of the
    kernel. The rest needs no memory, multiplications, gradients or optimizer state.

    Args:
        mask: True where an output may depend on an input, [in, out].
        parameters: number of parameters per output, which share the mask.
        blocks: number of blocks; more blocks leave out more of the kernel, but their products are smaller.
        scale: factor on the Glorot initialisation of the kernel.
        seed: seed of the initialisation.
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
        """Creates the kernel of each block, with its parameters side by side, and the bias of each parameter."""
        seeds = derived_seeds(self.seed, len(self.blocks))
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
        """Maps [..., in] to each parameter, [..., out]."""
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
    """A masked MLP that computes parameters for each latent i, which depend on z_<i and on the whole context.

    With `reverse` they depend on z_>i.

    The context is added to the first hidden layer, unmasked. The last layer is initialised at a tenth of Glorot's
    scale, so that its outputs start near 0.

    Args:
        latent: number of latents.
        width: units per hidden layer, with tanh activation.
        layers: number of hidden layers.
        parameters: number of parameters per latent.
        reverse: reverse the order of the latents.
        seed: seed of the initialisation.
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
        self.order = range(latent)[::-1] if reverse else range(latent)  # each latent depends on those before it
        seeds = derived_seeds(seed, layers + 1)
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
        """Creates the weights of all layers."""
        for layer in (*self.hidden, self.out):
            layer.build((None, self.latent))

    @property
    def products(self) -> list[Product]:
        """Products of all layers."""
        return [product for layer in (*self.hidden, self.out) for product in layer.products]

    def call(self, z: Any, context: Any = None) -> tuple[Any, ...]:
        """Maps z [..., latent] and an optional context [..., width] to the parameters, each [..., latent].

        In mixed precision, the parameters have the dtype of the weights.
        """
        (y,) = self.hidden[0](z)
        y = ops.tanh(y if context is None else y + context)
        for layer in self.hidden[1:]:
            (y,) = layer(y)
            y = ops.tanh(y)
        return tuple(ops.cast(parameter, self.variable_dtype) for parameter in self.out(y))
