"""The images with the lowest and the highest ELBO, found while parts of encoded images pass by."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from vaedist.inference.parts import Part
from vaedist.inference.sources import Source
from vaedist.monitor.pictures import captioned, titled

COUNT = 32  # images of each kind
COLUMNS = 8


class Scored(NamedTuple):
    """An image and its score; the order is that of the scores."""

    elbo: float
    group: str
    place: int
    caption: str


class Extremes:
    """Keeps the images with the lowest and the highest ELBO; memory does not depend on the number of images.

    Args:
        source: the images.
        count: number of images of each kind.

    Attributes:
        wanted: names of the columns that `add` needs.
        lowest: images by increasing ELBO.
        highest: images by decreasing ELBO.
    """

    def __init__(self, source: Source, count: int = COUNT) -> None:
        self._source, self._count = source, count
        self.wanted = ["elbo", *source.captions]
        self.lowest: list[Scored] = []
        self.highest: list[Scored] = []

    def add(self, part: Part, table: pa.Table) -> None:
        """Considers the images of a part; the result does not depend on the order of the parts."""
        elbo = np.nan_to_num(table["elbo"].to_numpy(), nan=-np.inf)  # a score that is not a number is the worst
        order = np.argsort(elbo, kind="stable")
        for index in {*order[: self._count].tolist(), *order[-self._count :].tolist()}:
            names = [str(table[name][index]) for name in self._source.captions]
            caption = "\n".join([f"{elbo[index]:.1f}", *names])
            scored = Scored(float(elbo[index]), part.group, part.start + index, caption)
            self.lowest.append(scored)
            self.highest.append(scored)
        self.lowest = sorted(self.lowest)[: self._count]
        self.highest = sorted(self.highest, reverse=True)[: self._count]

    def sheet(self) -> np.ndarray:
        """Returns a sheet of the images, uint8, [H', W', C]: first the lowest, then the highest, each with a title.

        Each caption has the ELBO in nats, and the values of the source's captions.

        Raises:
            DataError: an image cannot be read.
        """
        kinds = {"Lowest ELBO, in nats per image": self.lowest, "Highest ELBO": self.highest}
        return np.concatenate([titled(captioned(*self._read(kind), COLUMNS), title) for title, kind in kinds.items()])

    def _read(self, kind: list[Scored]) -> tuple[np.ndarray, list[str]]:
        parts = [Part(one.caption, one.group, one.place, one.place + 1) for one in kind]
        return np.concatenate([self._source.read(part).images for part in parts]), [one.caption for one in kind]
