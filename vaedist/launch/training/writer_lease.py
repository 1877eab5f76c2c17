"""Which group of workers may write into a run's folder: the one that was started last.

A machine that is cut off from the others computes on, and may still reach the file system. Ray gives it up and starts
the group again elsewhere, and then there are two first workers. So a file in the run's folder names the group that
may write, and a worker looks before each row and each checkpoint. Between looking and writing it is alone for a
moment, as no file system offers to do both at once; but a group is given up tens of seconds before the next one begins.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from vaedist.errors import StorageError
from vaedist.files import replace_file
from vaedist.runs.folder import RunFolder
from vaedist.storage.retry import RUN_SECONDS
from vaedist.storage.transfer import Store

FENCE = ".writer"
GROUP = "VAEDIST_GROUP"  # in a worker's environment


class Superseded(Exception):  # noqa: N818 - it is no fault of this worker's
    """Another group of workers goes on with the run."""


def new_group() -> str:
    """A name for a group that begins."""
    return secrets.token_hex(8)


def let_write(run: RunFolder, group: str) -> None:
    """Make a group the only one that may write into a run from now on.

    Raises:
        StorageError: the run's folder cannot be written, or is on a store that does not answer.
    """
    if run.uri:
        Store(run.uri, seconds=RUN_SECONDS).write(FENCE, group.encode())
        return
    try:
        replace_file(run.path / FENCE, group)
    except OSError as error:
        raise StorageError(f"cannot write {run.path / FENCE}: {error.strerror or error}") from error


@dataclass(frozen=True)
class WriterLease:
    """A worker's side.

    Attributes:
        run: the run's folder.
        group: that the worker belongs to.
        notify: told when a store does not answer.
    """

    run: RunFolder
    group: str
    notify: Callable[[str], None] = lambda _: None

    @cached_property
    def _store(self) -> Store:
        return Store(self.run.uri, seconds=RUN_SECONDS, notify=self.notify)

    def check(self) -> None:
        """Return if this worker's group may write.

        Raises:
            Superseded: another one may.
            StorageError: the run is on a store that does not answer.
        """
        writer = self._store.read(FENCE).decode() if self.run.uri else (self.run.path / FENCE).read_text()
        if writer != self.group:
            raise Superseded(f"the run goes on with another group of workers, {writer}: this one, {self.group}, ends")
