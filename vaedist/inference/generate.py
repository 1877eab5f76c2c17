"""The job of generating images."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import tensorflow as tf

from vaedist.api import Run
from vaedist.devices.compilation import compiled
from vaedist.errors import ConfigError
from vaedist.evaluation.encoding import block_rows
from vaedist.evaluation.inspection import Pixels, sample_rows
from vaedist.evaluation.scoring import score_layout
from vaedist.inference.job import Job, rows_per_part
from vaedist.inference.parts import Part, Parts
from vaedist.monitor.pictures import encode_png, to_uint8
from vaedist.user_code import user_code

Content = Literal["png", "array"]
CONTENTS: tuple[Content, ...] = get_args(Content)


@dataclass(frozen=True)
class GenerateJob(Job):
    """Images from the prior; see `generate_job`.

    Attributes:
        seed, pixels, temperature: as in `Run.sample`.
        content: form of the images in the table.
    """

    kind = "generate"
    seed: int
    pixels: Pixels
    temperature: float
    content: Content

    def options(self) -> dict[str, Any]:
        """Returns the seed, and how images are drawn and stored."""
        return {
            "seed": self.seed,
            "pixels": self.pixels,
            "temperature": self.temperature,
            "content": self.content,
        }

    def open(self) -> Callable[[Part], pa.Table]:
        """Loads the model, and returns a function that generates the images of a part."""
        model, metadata = self.run.here().model, self.metadata()
        rows = block_rows(model)

        @compiled
        def draw(first: Any) -> Any:
            return sample_rows(model, first, rows, seed=self.seed, pixels=self.pixels, temperature=self.temperature)

        def table(part: Part) -> pa.Table:
            with user_code(f"model {type(model).__name__}: it cannot generate images", mixed=True):
                blocks = [
                    to_uint8(draw(tf.constant(first, tf.int64)).numpy())[: part.stop - first]
                    for first in range(part.start, part.stop, rows)
                ]
            images = np.concatenate(blocks)
            columns = {"index": pa.array(np.arange(part.start, part.stop)), "image": self._column(images)}
            return pa.table(columns).replace_schema_metadata(metadata)

        return table

    def _column(self, images: np.ndarray) -> pa.Array:
        if self.content == "array":
            return pa.FixedShapeTensorArray.from_numpy_ndarray(images)
        return pa.array([encode_png(image) for image in images], pa.binary())


def generate_job(
    run: Run,
    count: int,
    *,
    seed: int = 0,
    pixels: Pixels = "mean",
    temperature: float = 1.0,
    content: Content = "png",
    rows: int | None = None,
) -> GenerateJob:
    """Returns the job of generating images; the table has the columns `index` and `image`.

    Image i is that of `Run.sample` with the same options, rounded to 8 bits; it depends only on the seed and i.

    Args:
        run: the run.
        count: number of images.
        seed: seed of the noise.
        pixels: "mean" for E[x|z], or "sample" for samples of p(x|z).
        temperature: factor on the standard deviations of the prior.
        content: "png" for the bytes of a PNG file, or "array" for a tensor of uint8 of the shape [H, W, C].
        rows: rows of a part; None for a number that depends on the size of an image.

    Raises:
        ConfigError: the images have neither 1 nor 3 channels, so that they cannot be PNG.
    """
    if content == "png" and run.image_shape[2] not in (1, 3):
        raise ConfigError(
            f"images of {run.image_shape[2]} channels cannot be PNG, which has 1 or 3; content must be 'array'"
        )
    score_layout(run.model)  # refuses models that violate the interface
    size = rows or rows_per_part(int(np.prod(run.image_shape)))
    return GenerateJob(run.for_workers(), Parts({"images": count}, size), seed, pixels, temperature, content)
