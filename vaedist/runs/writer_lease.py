"""Writer lease: only the newest worker group may write to a run's folder.

A worker that is cut off from the network keeps training, and may still reach the run's folder. Ray declares it dead and
restarts the group elsewhere, so that there are two first workers. Therefore a file in the run's folder names the group
that may write, and the first worker reads it before it writes metrics or a checkpoint. Check and write are not atomic,
as no file system offers that, but tens of seconds pass between the loss of a group and the start of the next one.
"""

import secrets
from dataclasses import dataclass

from vaedist.runs.folder import RunFolder

GROUP = "VAEDIST_GROUP"  # in a worker's environment


class Superseded(Exception):  # noqa: N818 - not an error of this worker
    """Another worker group has taken over the run."""


def new_group() -> str:
    """Returns a name for a new worker group."""
    return secrets.token_hex(8)


def grant_lease(run: RunFolder, group: str) -> None:
    """Grants the writer lease of a run to a worker group.

    Raises:
        StorageError: the run's folder cannot be written, or is on an object store that does not respond.
    """
    run.store.write(run.writer, group.encode())


@dataclass(frozen=True)
class WriterLease:
    """Writer lease as seen by a worker.

    Attributes:
        run: the run's folder.
        group: name of the worker's group.
    """

    run: RunFolder
    group: str

    def check(self) -> None:
        """Checks that this worker's group holds the lease.

        Raises:
            Superseded: another group holds it.
            StorageError: the run is on an object store that does not respond.
        """
        writer = self.run.store.read(self.run.writer).decode()
        if writer != self.group:
            raise Superseded(f"worker group {writer} has taken over the run; this one, {self.group}, ends")
