"""A model as a SavedModel, which plain TensorFlow and TensorFlow Serving load without vaedist.

The functions are graphs of TensorFlow's own operations, not compiled by XLA, for batches of any size. They are both
signatures, for TensorFlow Serving, and attributes of the loaded object, for Python.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from vaedist.errors import StorageError
from vaedist.evaluation import row_functions
from vaedist.evaluation.inspection import Pixels, sample_rows
from vaedist.evaluation.scoring import score_layout
from vaedist.models.model import Model
from vaedist.storage.filesystem import first_line
from vaedist.user_code import user_code

Outputs = dict[str, Any]

SIGNATURES = (
    "encode", "encode_float", "decode", "reconstruct", "reconstruct_float", "score", "score_float",
    "generate", "generate_pixels",
)  # fmt: skip

SEED = tf.TensorSpec((), tf.int64, "seed")
FIRST_ROW = tf.TensorSpec((), tf.int64, "first_row")
COUNT = tf.TensorSpec((), tf.int64, "count")
TEMPERATURE = tf.TensorSpec((), tf.float32, "temperature")


class Servable(tf.Module):
    """The functions of a model that are exported, each from tensors to tensors by name.

    Scalar inputs have defaults: 0 for `seed` and `first_row`, 1 for `temperature`.

    Args:
        model: the model.

    Attributes:
        encode: images [n, H, W, C] to a sample z of q(z|x), [n, latents], and to `mean` and `log_sigma` of
            `Model.posterior_base` if the model has it; with several stochastic layers, of each layer by name.
        score: images to `elbo`, `reconstruction` and `kl`, [n] each, in nats; with several stochastic layers, also the
            KL divergence of each layer by name.
        reconstruct: images to the `images` E[x|z], [n, H, W, C], at one sample of q(z|x).
        encode_float, score_float, reconstruct_float: the same for float32 images in [0, 1], which are rounded to the
            nearest of the 256 levels.
        decode: latents z, [n, latents], to the `images` E[x|z].
        generate: `count` to the new `images` E[x|z] with z from the prior.
        generate_pixels: `count` to new `images` whose pixels are drawn from p(x|z).
    """

    def __init__(self, model: Model) -> None:
        super().__init__("vaedist")
        self.parameters = [variable.value for variable in model.variables]  # so that they are saved
        layout = score_layout(model)
        several = len(layout.layers) > 1

        def encode(images: Any, seed: Any, first_row: Any) -> Outputs:
            encoded = row_functions.encode(model, images, seed, first_row)
            outputs = {"z": encoded.z}
            for layer, (mean, log_sigma) in (encoded.base or {}).items():
                suffix = f"_{layer}" if several else ""
                outputs |= {f"mean{suffix}": mean, f"log_sigma{suffix}": log_sigma}
            return outputs

        def score(images: Any, seed: Any, first_row: Any) -> Outputs:
            bound = row_functions.score(model, images, seed, first_row)
            outputs = {"elbo": bound.elbo, "reconstruction": bound.reconstruction, "kl": bound.kl}
            return outputs | ({f"kl_{layer}": kl for layer, kl in bound.by_layer.items()} if several else {})

        def decode(z: Any) -> Outputs:
            return {"images": row_functions.decode(model, layout, z)}

        def reconstruct(images: Any, seed: Any, first_row: Any) -> Outputs:
            found: Outputs = self.decode(self.encode(images, seed, first_row)["z"])
            return found

        images = tf.TensorSpec((None, *model.image_shape), tf.uint8, "images")
        self.encode = _of_images(encode, images)
        self.score = _of_images(score, images)
        self.decode = _graph(decode, tf.TensorSpec((None, layout.size), tf.float32, "z"))
        self.reconstruct = _of_images(reconstruct, images)
        self.encode_float, self.score_float, self.reconstruct_float = (
            _of_images(_of_levels(function), tf.TensorSpec(images.shape, tf.float32, "images"))
            for function in (self.encode, self.score, self.reconstruct)  # calls, which do not copy the graphs
        )
        self.generate, self.generate_pixels = _generator(model, "mean"), _generator(model, "sample")

    @property
    def signatures(self) -> Mapping[str, Any]:
        """All functions by name."""
        return {name: getattr(self, name) for name in SIGNATURES}


def save_servable(model: Model, path: Path) -> None:
    """Writes a model as a SavedModel into a new folder.

    Raises:
        StorageError: a file cannot be written.
        UserCodeError: a user's model raises an exception for batches of unknown size.
    """
    with user_code(f"model {type(model).__name__}: it cannot be traced for batches of any size", mixed=True):
        servable = Servable(model)
        for function in servable.signatures.values():
            function.get_concrete_function()
    try:
        tf.saved_model.save(servable, str(path), signatures=servable.signatures)
    except tf.errors.OpError as error:
        raise StorageError(f"cannot write {path}: {first_line(error)}") from error


def _of_images(function: Callable[..., Outputs], images: Any) -> Any:
    """Returns the graph of a function of images of a type, a seed and the number of the first row."""

    def of_images(
        images: Any,
        seed: Any = tf.constant(0, tf.int64),  # noqa: B008 - only tensors become defaults of signatures
        first_row: Any = tf.constant(0, tf.int64),  # noqa: B008
    ) -> Outputs:
        return function(images, seed, first_row)

    return _graph(of_images, images, SEED, FIRST_ROW)


def _of_levels(function: Callable[..., Outputs]) -> Callable[..., Outputs]:
    """Returns a function of images in [0, 1], which it rounds to the nearest levels, from one of uint8 images."""

    def of_levels(images: Any, seed: Any, first_row: Any) -> Outputs:
        levels = tf.round(255.0 * tf.clip_by_value(images, 0.0, 1.0))
        return function(tf.cast(levels, tf.uint8), seed, first_row)

    return of_levels


def _generator(model: Model, pixels: Pixels) -> Any:
    """Returns the graph that generates images."""

    def generate(
        count: Any,
        seed: Any = tf.constant(0, tf.int64),  # noqa: B008 - only tensors become defaults of signatures
        first_row: Any = tf.constant(0, tf.int64),  # noqa: B008
        temperature: Any = tf.constant(1.0),  # noqa: B008
    ) -> Outputs:
        return {"images": sample_rows(model, first_row, count, seed=seed, pixels=pixels, temperature=temperature)}

    return _graph(generate, COUNT, SEED, FIRST_ROW, TEMPERATURE)


def _graph(function: Callable[..., Outputs], *inputs: Any) -> Any:
    return tf.function(function, input_signature=inputs, autograph=False)
