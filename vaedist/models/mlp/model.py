"""The VAE with MLP encoder and decoder, see `FlowVAE`."""

from typing import Any

import keras

from vaedist.models.flow_vae import FlowVAE
from vaedist.models.initializers import SeededInitializer
from vaedist.models.mlp.options import MLPOptions
from vaedist.models.products import Dense, Product
from vaedist.models.seeds import derived_seeds


class MLP(keras.layers.Layer):
    """Tanh hidden layers of one width and a linear output: [..., inputs] -> [..., outputs].

    Args:
        inputs: number of inputs.
        hidden: units per hidden layer.
        layers: number of hidden layers.
        outputs: number of outputs.
        seed: seed of the initial weights.
        out_initializer: returns the initializer of the output's kernel for a seed.
    """

    def __init__(
        self,
        inputs: int,
        *,
        hidden: int,
        layers: int,
        outputs: int,
        seed: int,
        out_initializer: SeededInitializer = keras.initializers.GlorotUniform,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.inputs, dtype = inputs, self.dtype_policy
        *seeds, last = derived_seeds(seed, layers + 1)
        self.hidden = [
            Dense(
                hidden,
                activation="tanh",
                kernel_initializer=keras.initializers.GlorotUniform(seed),
                name="hidden" if number == 1 else f"hidden_{number}",
                dtype=dtype,
            )
            for number, seed in enumerate(seeds, 1)
        ]
        self.out = Dense(outputs, kernel_initializer=out_initializer(last), name="out", dtype=dtype)

    def build(self, input_shape: Any) -> None:
        """Creates the weights of all layers."""
        width = self.inputs
        for layer in (*self.hidden, self.out):
            layer.build((None, width))
            width = layer.units

    @property
    def products(self) -> list[Product]:
        """Products of all layers."""
        return [layer.product for layer in (*self.hidden, self.out)]

    def call(self, x: Any) -> Any:
        """Maps [..., inputs] to [..., outputs]."""
        for layer in self.hidden:
            x = layer(x)
        return self.out(x)


class VAE(FlowVAE):
    """A VAE with MLP encoder and decoder, which can be used on its own: `VAE((32, 32, 3))(images)` scores uint8 images.

    The options are `MLPOptions`; see `LikelihoodModel` for the arguments.
    """

    Options = MLPOptions

    def make_encoder(self, outputs: int, seed: int) -> MLP:
        """Returns the encoder."""
        initializer = self.posterior_initializer
        return MLP(self.pixels, outputs=outputs, seed=seed, out_initializer=initializer, name="encoder", **self._sizes)

    def make_decoder(self, seed: int) -> MLP:
        """Returns the decoder."""
        outputs = self.likelihood.outputs * self.pixels
        return MLP(self.latent, outputs=outputs, seed=seed, name="decoder", **self._sizes)

    @property
    def _sizes(self) -> dict[str, Any]:
        return {"hidden": self.options.hidden, "layers": self.options.layers, "dtype": self.dtype_policy}
