"""Masked networks whose output i depends on the inputs before i only (MADE, Germain et al. 2015)."""

from typing import Any

import keras
import numpy as np
from keras import ops

from vaedist.model import masks

BLOCKS = 2  # of each masked product, see `MaskedDense`; on two cores 2 was faster than 1 and 4


class MaskedDense(keras.layers.Layer):
    """A dense layer whose kernel is multiplied by a constant mask: y = x (W * mask) + b.

    The outputs are computed in blocks of neighbours, and a block's kernel ends at the last input that any of its
    outputs may see. For a mask that is about triangular, as those of `masks` are, B blocks hold (B + 1) / (2 B) of the
    kernel: what is left out needs no memory, no multiplication, no gradient and no optimizer state.

    Args:
        mask: [in, out], of zeros and ones.
        blocks: into how many blocks the outputs are cut; more leave out more, but make smaller products.
        scale: factor on the Glorot initialisation of the kernel.
        seed: of the initialisation.
    """

    def __init__(self, mask: np.ndarray, *, blocks: int = 1, scale: float = 1.0, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.limit = scale * float(np.sqrt(6 / sum(mask.shape)))
        self.seed, self.units = seed, mask.shape[1]
        self.masks = masks.column_blocks(mask, blocks)

    def build(self, input_shape: Any) -> None:
        """Make the kernels of the blocks and the bias."""
        seeds = np.random.SeedSequence(self.seed).generate_state(len(self.masks)).tolist()
        self.kernels = [
            self.add_weight(
                shape=mask.shape,
                initializer=keras.initializers.RandomUniform(-self.limit, self.limit, seed=seed),
                name=f"kernel_{i}",
            )
            for i, (mask, seed) in enumerate(zip(self.masks, seeds, strict=True))
        ]
        self.bias = self.add_weight(shape=(self.units,), initializer="zeros", name="bias")

    def call(self, x: Any) -> Any:
        """[..., in] -> [..., out]."""
        blocks = [
            ops.matmul(x[..., : mask.shape[0]], kernel * ops.convert_to_tensor(mask, self.compute_dtype))
            for kernel, mask in zip(self.kernels, self.masks, strict=True)
        ]
        return ops.concatenate(blocks, axis=-1) + self.bias


@keras.saving.register_keras_serializable("vaedist")
class AutoregressiveNetwork(keras.layers.Layer):
    """A masked MLP that gives each latent i some parameters, which depend on z_<i and on all of the context.

    The context is added to the first hidden layer, unmasked. The last layer starts at a tenth of Glorot's scale, so
    that its outputs start near 0.

    Args:
        latent: number of latents.
        width: units of each hidden layer, tanh.
        layers: number of hidden layers.
        parameters: how many each latent gets.
        seed: of the initialisation.
    """

    def __init__(
        self, latent: int, width: int, layers: int = 1, *, parameters: int = 2, seed: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.latent, self.parameters = latent, parameters
        seeds = np.random.SeedSequence(seed).generate_state(layers + 1).tolist()
        hidden = masks.hidden_degrees(width, latent)
        into = [masks.input_degrees(latent)] + [hidden] * (layers - 1)
        self.hidden = [
            MaskedDense(
                masks.hidden_mask(degrees, hidden),
                blocks=BLOCKS,
                seed=seed,
                name=f"hidden_{i}",
                dtype=self.dtype_policy,
            )
            for i, (degrees, seed) in enumerate(zip(into, seeds[:-1], strict=True))
        ]
        self.out = MaskedDense(
            np.tile(masks.output_mask(hidden, latent), (1, parameters)),
            blocks=parameters * BLOCKS,
            scale=0.1,
            seed=seeds[-1],
            name="out",
            dtype=self.dtype_policy,
        )

    def build(self, input_shape: Any) -> None:
        """Make the weights of every layer."""
        for layer in (*self.hidden, self.out):
            layer.build((None, self.latent))

    def call(self, z: Any, context: Any = None) -> tuple[Any, ...]:
        """From z [..., latent] and a context [..., width], if there is one, to the parameters, each [..., latent]."""
        y = self.hidden[0](z)
        y = ops.tanh(y if context is None else y + context)
        for layer in self.hidden[1:]:
            y = ops.tanh(layer(y))
        return tuple(ops.split(self.out(y), self.parameters, axis=-1))
