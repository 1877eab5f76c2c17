"""Locking of a run's or a sweep's folder by the command that runs it on Ray."""

import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ray

from vaedist.errors import RunError
from vaedist.launch.logs import RESUMABLE, output_to
from vaedist.runs.folder import RunFolder
from vaedist.storage.claim import Claim
from vaedist.storage.folder_store import FolderStore
from vaedist.sweeps import SweepFolder

RAY_LOG = "ray.log"
NAMESPACE = "vaedist"
GIVEN_UP_SECONDS = 5.0  # for Ray to notice that the process that held a lock has ended


class ClaimedFolder(Protocol):
    """A folder that a command claims: that of a run, a sweep or another output."""

    @property
    def store(self) -> FolderStore:
        """Access to the files."""

    @property
    def logs(self) -> Path:
        """Folder in it for the output of Ray and TensorFlow."""


@contextmanager
def owned(
    folder: ClaimedFolder,
    record: Path,
    text: str,
    *,
    busy: str,
    ray: AbstractContextManager[None],
    quiet: bool,
    notify: Callable[[str], None],
    advice: str = RESUMABLE,
) -> Iterator[Claim]:
    """Claims a folder and connects to Ray.

    Args:
        folder: the folder to claim.
        record: the file in it that describes the run, the sweep or the output.
        text: content of the record, which is written at once if there is none.
        busy: error message if another process has claimed the folder.
        ray: context that connects to Ray, which locks folders on object stores.
        quiet: send Ray's output to the folder's log.
        notify: called with a notice if an object store does not answer.
        advice: what to do if this process is ended, see `output_to`.

    Yields:
        The claim. Call `begin` when the work begins; until then a new folder is removed again on an error. Call
        `accept` when the work is accepted; until then an older record stays.

    Raises:
        RunError: another process has claimed the folder.
        StorageError: the folder cannot be written.
        ClusterError: Ray cannot be reached.
    """
    store = folder.store.patient(notify)
    session = RaySession(ray, quiet, advice)
    with store.claim(record, text, busy=busy, log=folder.logs / RAY_LOG, session=session) as claim:
        yield claim


@dataclass(frozen=True)
class RaySession:
    """Connection to Ray that is used to claim a folder.

    Attributes:
        ray: context that connects to Ray.
        quiet: send Ray's output to the log.
        advice: what to do if this process is ended, see `output_to`.
    """

    ray: AbstractContextManager[None]
    quiet: bool
    advice: str

    @contextmanager
    def connect(self, log: Path) -> Iterator[None]:
        """Connects to Ray.

        Args:
            log: local file for the output within the context.
        """
        with ExitStack() as stack:
            if self.quiet:
                stack.enter_context(output_to(log, advice=f"see {log}; {self.advice}"))
            stack.enter_context(self.ray)
            yield

    @contextmanager
    def lock(self, name: str, busy: str) -> Iterator[None]:
        """Holds a lock on the cluster within the context: a named actor, which ends with the process that started it.

        Raises:
            RunError: another process holds the lock; the message is `busy`.
        """
        owner = _owner(name, busy)
        try:
            yield
        finally:
            ray.kill(owner)


def _owner(name: str, busy: str) -> Any:
    """Starts the named actor of a lock, of which the cluster can have only one."""
    deadline = time.monotonic() + GIVEN_UP_SECONDS
    while True:
        try:
            return ray.remote(_Owner).options(name=name, namespace=NAMESPACE, num_cpus=0).remote()
        except ValueError as error:
            if time.monotonic() > deadline:
                raise RunError(busy) from error
            time.sleep(0.5)


class _Owner:
    """Actor that lives as long as the process that started it."""


def record_name() -> str:
    """Returns a new unique name for Ray's records of a run; Ray would continue from records of the same name.

    The time is for people. It is not unique, and neither is the process number: in containers, or if the clock is set
    back.
    """
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-{secrets.token_hex(4)}"


def records_of_ray(folder: RunFolder | SweepFolder) -> AbstractContextManager[Path]:
    """Returns a context with a temporary local folder for Ray's own records, which are not used again."""
    return folder.store.temporary(folder.path / "ray")
