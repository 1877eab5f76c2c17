"""The data set."""

from typing import Literal

from pydantic import Field

from vaedist.config.sections.base import Location, Section


class DataSection(Section):
    """Data set and preprocessing of its pixels."""

    path: Location = Field(
        default="data/cifar10",
        min_length=1,
        description="Data set made by `vaedist data prepare`: a folder or a pyarrow filesystem URI.",
    )
    verify: bool = Field(default=True, description="Check every shard's SHA-256 before the run starts.")
    binarize: Literal["none", "threshold", "dynamic", "fixed"] = Field(
        default="none",
        description="Binarise grey images, for models that score binary pixels: threshold sets pixels above one half "
        "to 1; dynamic sets a pixel to 1 with probability pixel / 255, drawn again in each training epoch; fixed draws "
        "once per image. Evaluation always draws once per image, by a seed that is independent of the run's.",
    )
