"""The hierarchical ResNet VAE with bidirectional inference (Kingma et al. 2016, section 6.2 and appendix C).

The bottom-up path computes features of the image from the lowest block to the top. The top-down path starts from a
learned vector. At each block, it computes the prior p(z_l | z above) and, together with the bottom-up path, the
posterior q(z_l | x, z above), and adds a sample z_l. Below the last block, it computes the parameters of p(x|z).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
from keras import ops

from vaedist.models.flows.flow import FlowCase
from vaedist.models.likelihood_model import LikelihoodModel
from vaedist.models.likelihoods import Likelihood
from vaedist.models.model import Score
from vaedist.models.resnet.block import Block, BottomUp, TopDown
from vaedist.models.resnet.flow import FlattenedFlow
from vaedist.models.resnet.options import ResNetOptions
from vaedist.models.seeds import derived_seeds
from vaedist.models.weight_normalization import Convolution, data_dependent_initialisation

CHECKED = 4  # height and width of the latents at which `vaedist check` examines a flow
INITIAL_ROWS = 128


class Encoding(NamedTuple):
    """The scored pixels x, [B, D], and the bottom-up path's contributions to each posterior, from the lowest block."""

    x: Any
    blocks: tuple[BottomUp, ...]


class ResNetVAE(LikelihoodModel):
    """A VAE with levels x blocks stochastic layers, each with a convolutional IAF posterior.

    Layer z_i_j belongs to block j of level i; z_1_1 is the lowest, next to the image. Its latents are
    [H / 2^i, W / 2^i, latent], and its KL divergence is by channel, summed over positions, so that free bits apply to
    channels. The options are `ResNetOptions`; see `LikelihoodModel` for the arguments.

    Raises:
        ValueError: the height or width of the images is not divisible by 2^levels.
    """

    Options = ResNetOptions
    default_name = "resnet"
    broadcasts = True
    initial_rows = INITIAL_ROWS

    def create_layers(self) -> None:
        """Creates the convolutions at the image, and the blocks."""
        channels, options, outputs = self.image_shape[-1], self.options, self.likelihood.outputs
        first, last, *seeds = derived_seeds(self.seed, 2 + options.levels * options.blocks)
        layer: dict[str, Any] = {"dtype": self.dtype_policy}
        self.stem = Convolution(channels, options.width, (5, 5), resize="half", seed=first, name="stem", **layer)
        self.blocks = []
        for number, each in enumerate(seeds):
            level, block = divmod(number, options.blocks)
            made = Block(
                options, halves=level > 0 and block == 0, top=number == len(seeds) - 1, seed=each,
                name=f"block_{level + 1}_{block + 1}", **layer,
            )  # fmt: skip
            self.blocks.append(made)
        self.constants = 0 if options.scales == "pixel" else outputs - 1  # parameters that the decoder does not compute
        outputs = channels * (outputs - self.constants)
        self.head = Convolution(options.width, outputs, (5, 5), resize="double", seed=last, name="head", **layer)

    def build(self, input_shape: Any) -> None:
        """Creates all weights, so that they exist before the first call."""
        self.stem.build()
        for block in self.blocks:
            block.build()
        self.head.build()
        initializer = keras.initializers.RandomNormal(stddev=0.1, seed=self.seed)
        self.top = self.add_weight(name="top", shape=(self.options.width,), initializer=initializer)
        if self.constants:
            channels = self.image_shape[-1] if self.options.scales == "channel" else 1
            # of rank 1, as weight decay applies to kernels only
            self.scales = self.add_weight(name="scales", shape=(self.constants * channels,), initializer="zeros")
        self.built = True

    @property
    def noise(self) -> Mapping[str, tuple[int, ...]]:  # type: ignore[override]
        """Shape of the noise of each stochastic layer, from the top; it is the shape of its latents."""
        height, width, _ = self.image_shape
        shapes = {}
        for number, block in enumerate(self.blocks):
            factor = 2 ** (1 + number // self.options.blocks)
            shapes[layer_of(block)] = (height // factor, width // factor, self.options.latent)
        return dict(reversed(shapes.items()))

    @property
    def sample_bytes(self) -> int:
        """Bytes of the outputs of the first level's widest convolution, or of the decoder, for one sample."""
        height, width, channels = self.image_shape
        inside = height * width // 4 * max(sum(block.down_sizes) for block in self.blocks)
        return 4 * max(inside, self.likelihood.outputs * height * width * channels)

    def encode(self, images: Any, u: Any = None, *, training: bool = False) -> Encoding:
        """Returns x and the bottom-up path's contributions to the posteriors.

        Raises:
            NoiseError: `preprocessing` needs noise, and `u` is None.
        """
        x = self.observe(images, u)
        h, parts = ops.cast(self.stem(x - 0.5), self.variable_dtype), []
        for block in self.blocks:
            h, part = block.up(h)
            parts.append(part)
        return Encoding(ops.reshape(x, (-1, self.pixels)), tuple(parts))

    def score(self, encoding: Encoding, eps: Mapping[str, Any], *, training: bool = False) -> Score:
        """Returns log p(x|z) and the KL divergence by layer and channel, for noise [B, ...] or [B, K, ...]."""
        kl, latents = {}, {}

        def sample(block: Block, part: BottomUp, down: TopDown) -> Any:
            name = layer_of(block)
            latents[name], log_ratio = block.posterior(part, down, eps[name])
            kl[name] = ops.sum(log_ratio, axis=(-3, -2))
            return latents[name]

        raw = self._top_down(sample, encoding.blocks)
        return Score(self.likelihood.log_prob(raw, encoding.x), kl, latents)

    def decode(self, latents: Mapping[str, Any], u: Any = None) -> Any:
        """Returns the mean images E[x|z], [B, H, W, C], in [0, 1], or samples of p(x|z) if `u` is given."""
        return self.pixel_values(self.pixel_distribution(latents)[1], u)

    def generate(
        self,
        eps: Mapping[str, Any],
        u: Any = None,
        temperature: float = 1.0,
        given: Mapping[str, Any] | None = None,
    ) -> Any:
        """Returns new images in [0, 1], [B, H, W, C], from latents drawn from the prior, the top layer first.

        Args:
            eps: standard normal noise by stream.
            u: as in `decode`.
            temperature: factor on the standard deviations of the prior.
            given: latents of some layers; the other layers are drawn given those above.
        """
        known = given or {}

        def draw(block: Block, _: Any, down: TopDown) -> Any:
            name = layer_of(block)
            if name in known:
                return known[name]
            return down.sample(eps[name], temperature)

        return self.pixel_values(self._top_down(draw), u)

    def initialise(self, images: Any, eps: Mapping[str, Any], u: Any = None) -> None:
        """Sets scales and biases of all convolutions from the data (Kingma et al. 2016, appendix C), eagerly.

        The top-down path uses latents drawn from the prior.

        Args:
            images: uint8, [B, H, W, C].
            eps: standard normal noise by stream.
            u: pixel noise, if `preprocessing` needs it.
        """

        def draw(block: Block, part: BottomUp, down: TopDown) -> Any:
            block.posterior(part, down, eps[layer_of(block)])  # initialises the flow
            return down.sample(eps[layer_of(block)])

        with data_dependent_initialisation():
            self._top_down(draw, self.encode(images, u).blocks)

    def flow_cases(self, images: Any, eps: Mapping[str, Any], u: Any = None) -> Sequence[FlowCase]:
        """Returns the flow of each layer at a part of its latents of at most 4x4 positions; empty without flows."""
        if not self.options.flow.depth:
            return ()
        cases = []

        def sample(block: Block, part: BottomUp, down: TopDown) -> Any:
            z, _, context = block.base(part, down, eps[layer_of(block)])
            inner, outer = (values[:, :CHECKED, :CHECKED] for values in (z, context))
            height, width = inner.shape[1:3]
            flow = FlattenedFlow(block.flow, height, width, block.context)
            flat = [ops.reshape(values, (values.shape[0], -1)) for values in (inner, outer)]
            cases.append(FlowCase(flow, *flat))
            return block.flow(z, context)[0]

        self._top_down(sample, self.encode(images, u).blocks)
        return cases

    def pixel_distribution(self, latents: Mapping[str, Any]) -> tuple[Likelihood, Any]:
        """Returns the likelihood and its raw parameters, [B, outputs * D]."""
        return self.likelihood, self._top_down(lambda block, _, __: latents[layer_of(block)])

    def _top_down(self, choose: Callable[[Block, Any, TopDown], Any], parts: Sequence[Any] = ()) -> Any:
        """Returns the raw parameters of the likelihood, [..., outputs * D].

        Args:
            choose: returns z_l, [..., H, W, latent], from a block, its part, and the top-down path's outputs there.
            parts: the bottom-up path's contributions, from the lowest block; if empty, `choose` gets None.
        """
        height, width, _ = next(iter(self.noise.values()))
        h = ops.broadcast_to(self.top, (1, height, width, self.options.width))
        parts = parts or [None] * len(self.blocks)
        for block, part in zip(reversed(self.blocks), reversed(parts), strict=True):
            down = block.prior(h)
            h = block.down(h, down, choose(block, part, down))
        parameters = ops.cast(self.head(ops.elu(h)), self.variable_dtype)
        if self.constants:
            constants = ops.reshape(self.scales, (self.constants, -1))
            constants = ops.broadcast_to(constants, (self.constants, self.image_shape[-1]))
            shape = (*ops.shape(parameters)[:-1], self.constants * self.image_shape[-1])
            constants = ops.broadcast_to(ops.reshape(constants, (-1,)), shape)
            parameters = ops.concatenate([parameters, constants], axis=-1)
        return self.raw_of(parameters)


def layer_of(block: Block) -> str:
    """Returns the name of a block's stochastic layer, such as z_1_2."""
    return block.name.replace("block", "z")
