"""Which group of workers may write into a run's folder: the one that was started last.

A machine that is cut off from the others computes on, and may still reach the file system. Ray gives it up and starts
the group again elsewhere, and then there are two first workers. So a file in the run's folder names the group that
may write, and a worker looks before each row and each checkpoint. Between looking and writing it is alone for a
moment, as no file system offers to do both at once; but a group is given up tens of seconds before the next one begins.
"""

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from vaedist.files import replace_file

FENCE = ".writer"
GROUP = "VAEDIST_GROUP"  # in a worker's environment


class Superseded(Exception):  # noqa: N818 - it is no fault of this worker's
    """Another group of workers goes on with the run."""


def new_group(run: str) -> str:
    """The name of a new group, the only one that may write from now on.

    Args:
        run: the run's folder.
    """
    group = secrets.token_hex(8)
    replace_file(Path(run) / FENCE, group)
    return group


@dataclass(frozen=True)
class Fence:
    """A worker's side.

    Attributes:
        run: the run's folder.
        group: that the worker belongs to.
    """

    run: Path
    group: str

    @classmethod
    def of_this_worker(cls, run: Path) -> "Fence":
        """In a process that Ray Train has started."""
        return cls(run, os.environ[GROUP])

    def check(self) -> None:
        """Return if this worker's group may write.

        Raises:
            Superseded: another one may.
        """
        writer = (self.run / FENCE).read_text()
        if writer != self.group:
            raise Superseded(f"the run goes on with another group of workers, {writer}: this one, {self.group}, ends")
