"""Inverse autoregressive flow: steps z -> (z', log_det), each the inverse direction of an autoregressive map.

Kingma, Salimans, Jozefowicz, Chen, Sutskever and Welling, "Improved Variational Inference with Inverse
Autoregressive Flow", 2016, algorithm 1 and section 4. log_det = log |det dz'/dz| of each image, in nats.
"""

from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from vaedist.model import masks

BLOCKS = 2  # of each masked product, see `MaskedDense`; on two cores 2 was faster than 1 and 4


class FlowOutput(NamedTuple):
    """What a flow gives back.

    z: z_T, [B, latent].
    log_det: what each unit adds to log |det dz_T/dz_0|, [B, latent], in nats, in the order of z_T.
    log_gates: log g of each step, [B, latent], in the order of the step's input; their sum over the latents
        is the step's log_det.
    """

    z: Any
    log_det: Any
    log_gates: tuple[Any, ...]


def gated_step(z: Any, m: Any, s: Any) -> tuple[Any, Any]:
    """Blend a latent with its autoregressive proposal: z' = g z + (1 - g) m with g = sigmoid(s).

    The Jacobian is triangular when m_i and s_i depend on z_<i only, so log_det = sum_i log g_i
    (Kingma et al. 2016, section 4).

    Args:
        z: latent sample, [B, latent].
        m: proposal, shaped like z.
        s: gate logits, shaped like z.

    Returns:
        z' and log g, shaped like z.
    """
    return ops.sigmoid(s) * z + ops.sigmoid(-s) * m, ops.log_sigmoid(s)


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
        """[B, in] -> [B, out]."""
        blocks = [
            ops.matmul(x[:, : mask.shape[0]], kernel * ops.convert_to_tensor(mask, self.compute_dtype))
            for kernel, mask in zip(self.kernels, self.masks, strict=True)
        ]
        return ops.concatenate(blocks, axis=-1) + self.bias


@keras.saving.register_keras_serializable("vaedist")
class AutoregressiveNetwork(keras.layers.Layer):
    """A masked MLP that maps (z, h) to (m, s), where m_i and s_i depend on z_<i and on all of the context h.

    The context enters the first hidden layer unmasked. The last layer starts at a tenth of Glorot's scale, so
    that a new flow is near the identity.

    Args:
        latent: number of latents.
        width: units of each hidden layer.
        layers: number of hidden layers.
        seed: of the initialisation.
    """

    def __init__(self, latent: int, width: int, layers: int = 1, *, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        seeds = np.random.SeedSequence(seed).generate_state(layers + 2).tolist()
        hidden = masks.hidden_degrees(width, latent)
        into = [masks.input_degrees(latent)] + [hidden] * (layers - 1)
        self.latent = latent
        self.context = keras.layers.Dense(
            width,
            use_bias=False,
            kernel_initializer=keras.initializers.GlorotUniform(seeds[0]),
            name="context",
            dtype=self.dtype_policy,
        )
        self.hidden = [
            MaskedDense(
                masks.hidden_mask(degrees, hidden),
                blocks=BLOCKS,
                seed=seed,
                name=f"hidden_{i}",
                dtype=self.dtype_policy,
            )
            for i, (degrees, seed) in enumerate(zip(into, seeds[1:-1], strict=True))
        ]
        out = np.tile(masks.output_mask(hidden, latent), (1, 2))
        self.out = MaskedDense(out, blocks=2 * BLOCKS, scale=0.1, seed=seeds[-1], name="out", dtype=self.dtype_policy)

    def build(self, input_shape: Any) -> None:
        """Make the weights of every layer."""
        for layer in (self.context, *self.hidden, self.out):
            layer.build((None, self.latent))

    def call(self, z: Any, h: Any) -> tuple[Any, Any]:
        """From z [B, latent] and h [B, latent] to proposal m and gate logits s, each [B, latent]."""
        y = ops.tanh(self.hidden[0](z) + self.context(h))
        for layer in self.hidden[1:]:
            y = ops.tanh(layer(y))
        m, s = ops.split(self.out(y), 2, axis=-1)
        return m, s


@keras.saving.register_keras_serializable("vaedist")
class InverseAutoregressiveFlow(keras.layers.Layer):
    """A stack of gated steps; the order of the latents is reversed after each.

    Args:
        latent: number of latents.
        depth: number of steps; 0 is the identity.
        width, layers: sizes of each step's `AutoregressiveNetwork`.
        gate_bias: added to the gate logits; about +2 starts a step near the identity.
        seed: of the initialisation.
    """

    def __init__(
        self,
        latent: int,
        depth: int,
        width: int,
        layers: int = 1,
        *,
        gate_bias: float = 2.0,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.gate_bias = gate_bias
        self.networks = [
            AutoregressiveNetwork(latent, width, layers, seed=int(s), name=f"step_{i}", dtype=self.dtype_policy)
            for i, s in enumerate(np.random.SeedSequence(seed).generate_state(depth))
        ]

    def build(self, input_shape: Any) -> None:
        """Make the weights of every step."""
        for network in self.networks:
            network.build(input_shape)

    def call(self, z: Any, h: Any) -> FlowOutput:
        """z_0 [B, latent] and context h [B, latent] -> z_T, its log_det and each step's gates."""
        log_det, log_gates = ops.zeros_like(z), []
        for network in self.networks:
            m, s = network(z, h)
            z, log_gate = gated_step(z, m, s + self.gate_bias)
            log_gates.append(log_gate)
            z, log_det = self._reverse(z), self._reverse(log_det + log_gate)
        return FlowOutput(z, log_det, tuple(log_gates))

    def reorder(self, x: Any) -> Any:
        """Numbers that belong to the units of z_0, [B, latent], in the order that these units have in z_T."""
        return self._reverse(x) if len(self.networks) % 2 else x

    @staticmethod
    def _reverse(x: Any) -> Any:
        """A permutation: its own log_det is 0."""
        return ops.flip(x, axis=-1)
