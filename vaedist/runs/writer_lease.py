"""Writer lease: only the newest worker group may write to a run's folder.

A machine that is cut off from the others computes on, and may still reach the run's folder. Ray gives it up and starts
the group again elsewhere, and then there are two first workers. So a file in the run's folder names the group that
may write, and a worker reads it before it writes a row or a checkpoint. No file system offers to read and write at
once, so there is a moment between the two; but a group is given up tens of seconds before the next one begins.
"""

import secrets
from dataclasses import dataclass

from vaedist.runs.folder import RunFolder

GROUP = "VAEDIST_GROUP"  # in a worker's environment


class Superseded(Exception):  # noqa: N818 - it is no fault of this worker's
    """Another worker group has taken over the run."""


def new_group() -> str:
    """Returns a name for a worker group that begins."""
    return secrets.token_hex(8)


def grant_lease(run: RunFolder, group: str) -> None:
    """Makes a worker group the only one that may write to a run from now on.

    Raises:
        StorageError: the run's folder cannot be written, or is on an object store that does not answer.
    """
    run.store.write(run.writer, group.encode())


@dataclass(frozen=True)
class WriterLease:
    """A worker's side of the lease.

    Attributes:
        run: the run's folder.
        group: the worker's group.
    """

    run: RunFolder
    group: str

    def check(self) -> None:
        """Returns if this worker's group holds the lease.

        Raises:
            Superseded: another group does.
            StorageError: the run is on an object store that does not answer.
        """
        writer = self.run.store.read(self.run.writer).decode()
        if writer != self.group:
            raise Superseded(f"the run goes on with another group of workers, {writer}: this one, {self.group}, ends")
