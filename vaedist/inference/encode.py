"""The job of encoding images: latents and scores of each image."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from vaedist.api import Run
from vaedist.data.manifest import SplitName
from vaedist.evaluation.encoding import SCORES, Kind, RowEncoder
from vaedist.inference.job import Job, rows_per_part
from vaedist.inference.parts import Part, Parts
from vaedist.inference.sources import FolderSource, PreparedSource, Source
from vaedist.storage.uri import absolute_location, local_path


@dataclass(frozen=True)
class EncodeJob(Job):
    """Latents and scores of all images of a source; see `encode_job`.

    Attributes:
        source: the images.
        kinds: the latents.
        seed: seed of the noise.
        shapes: shape of an image's latents by column; the columns hold them as flat lists.
    """

    kind = "encode"
    source: Source
    kinds: tuple[Kind, ...]
    seed: int
    shapes: dict[str, tuple[int, ...]]

    def options(self) -> dict[str, Any]:
        """Returns the data, the latents and the seed."""
        shapes = {name: list(shape) for name, shape in self.shapes.items()}
        return {**self.source.description, "latents": list(self.kinds), "seed": self.seed, "shapes": shapes}

    def open(self) -> Callable[[Part], pa.Table]:
        """Loads the model, and returns a function that reads and encodes the rows of a part."""
        encoder = RowEncoder(self.run.here().model, seed=self.seed, kinds=self.kinds)
        metadata = self.metadata()

        def table(part: Part) -> pa.Table:
            rows = self.source.read(part)
            found = encoder.encode(rows.images, rows.numbers)
            columns = rows.columns | {name: pa.array(found[name], pa.float32()) for name in SCORES}
            columns |= {name: _fixed_size(found[name]) for name in encoder.shapes}
            return pa.table(columns).replace_schema_metadata(metadata)

        return table


def encode_job(
    run: Run,
    *,
    split: SplitName | Sequence[SplitName] | None = None,
    data: str | None = None,
    folder: str | Path | None = None,
    latents: Kind | Sequence[Kind] | None = None,
    seed: int = 0,
    rows: int | None = None,
) -> EncodeJob:
    """Returns the job of encoding splits of a data set, or a folder of images.

    The table has a row for each image, with the columns:

    - `split`, `row` (its number in the split), `label` and `class`; of a folder's images, `row` and `file`;
    - `elbo`, `reconstruction` and `kl`, from one sample of z, in nats;
    - by layer, such as the only layer z: a sample of q(z|x) in `z`, and the mean and log_sigma of the base of the
      posterior in `z_mean` and `z_log_sigma`, as lists of fixed size.

    Row n of a split has the sample that `Run.encode(images, seed=seed)` returns for image n.

    Args:
        run: the run.
        split: one or several splits; None for all.
        data: any data set whose images have the run's shape; None for the run's own.
        folder: a folder of image files, instead of a data set.
        latents: "sample", "mean" and "log_sigma", or some of them; None for all that the model has.
        seed: seed of the noise.
        rows: rows of a part; None for a number that depends on the size of a row.

    Raises:
        DataError: there is no such data, its images have another shape than the run's, or the run's own data set has
            changed since the training.
        ConfigError: there are no such latents.
        ModelError: the model has no such latents.
    """
    shape, where = run.image_shape, absolute_location(data or run.experiment.data.path)
    splits = [split] if isinstance(split, str) else split
    source: Source
    if folder:
        source = FolderSource.at(local_path(str(folder)), shape)
    else:
        source = PreparedSource.at(where, splits, shape)
        if data is None:
            run.require_trained_on(source.manifest)
    encoder = RowEncoder(run.model, seed=seed, kinds=latents)
    size = rows or rows_per_part(4 * sum(encoder.sizes.values()) + int(np.prod(shape)))
    return EncodeJob(run.for_workers(), Parts(source.groups, size), source, encoder.kinds, seed, encoder.shapes)


def _fixed_size(values: np.ndarray) -> pa.Array:
    """Returns [n, size] as lists of a fixed size."""
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ravel(values), pa.float32()), values.shape[1])
