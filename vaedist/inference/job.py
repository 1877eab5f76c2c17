"""The interface of jobs: tables that are computed part by part."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa

from vaedist.api import Run
from vaedist.inference.parts import Part, Parts
from vaedist.version import __version__

PART_BYTES = 32 << 20  # of a part's table, which a worker holds in memory
MOST_ROWS = 8192  # of a part, so that progress is visible
METADATA = "vaedist"  # key of the job's record in the metadata of a schema


@dataclass(frozen=True)
class Job(ABC):
    """A table that is computed with a run; a job can be sent to other processes.

    A part's table depends only on the job and the part, so that any process can compute it, at any time.

    Attributes:
        run: the run.
        parts: the parts of the table.
    """

    kind: ClassVar[str]
    run: Run
    parts: Parts

    @abstractmethod
    def open(self) -> Callable[[Part], pa.Table]:
        """Loads the model, and returns a function that computes the table of a part.

        Raises:
            VaedistError: the run or its data cannot be read.
        """

    @abstractmethod
    def options(self) -> Mapping[str, Any]:
        """Returns all options that determine the table, besides the run and the parts."""

    def record(self) -> dict[str, Any]:
        """Returns a description of the job, which is the same for two jobs only if their tables are."""
        position = self.run.checkpoint.position
        return {
            "kind": self.kind,
            "vaedist": __version__,
            "run": self.run.folder.location,
            "step": position.step,
            "checkpoint": self.run.checkpoint.digest,
            "ema": self.run.ema,
            **self.options(),
            "rows": dict(self.parts.groups),
            "rows_per_part": self.parts.size,
        }

    def metadata(self) -> dict[str, str]:
        """Returns the metadata of the tables' schemas: the record as JSON."""
        return {METADATA: json.dumps(self.record(), sort_keys=True)}


def rows_per_part(row_bytes: int) -> int:
    """Returns the number of rows of a part, from the size of a row in bytes."""
    return max(1, min(MOST_ROWS, PART_BYTES // row_bytes))
