"""Claiming a run's or a sweep's folder for a command that works on it on Ray."""

import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from vaedist.errors import RunError
from vaedist.launch.logs import output_to
from vaedist.runs.folder import RunFolder
from vaedist.storage.claim import Claim
from vaedist.sweeps import SweepFolder

RAY_LOG = "ray.log"
NAMESPACE = "vaedist"
GIVEN_UP_SECONDS = 5.0  # for Ray to notice that the owner of a lock is gone


@contextmanager
def owned(
    folder: RunFolder | SweepFolder,
    record: Path,
    text: str,
    *,
    busy: str,
    ray: AbstractContextManager[None],
    quiet: bool,
    notify: Callable[[str], None],
) -> Iterator[Claim]:
    """Claims a folder and connects to Ray.

    Args:
        folder: what is claimed.
        record: file in it that says what it is.
        text: content of the record, which is written at once where there is none.
        busy: error message if another process has claimed the folder.
        ray: connects to Ray, whose lock a folder on an object store needs.
        quiet: send what Ray prints to the folder's log.
        notify: told when an object store does not answer.

    Yields:
        the claim, to be told when the work is begun, until when a new folder is removed again, and when it is
        accepted, until when an older record stays.

    Raises:
        RunError: another process has claimed the folder.
        StorageError: it cannot be written.
        ClusterError: Ray cannot be reached.
    """
    store = folder.store.patient(notify)
    with store.claim(record, text, busy=busy, log=folder.logs / RAY_LOG, session=RaySession(ray, quiet)) as claim:
        yield claim


@dataclass(frozen=True)
class RaySession:
    """Connection to Ray for a folder that is being claimed.

    Attributes:
        ray: connects to Ray.
        quiet: send what Ray prints to the log.
    """

    ray: AbstractContextManager[None]
    quiet: bool

    @contextmanager
    def connect(self, log: Path) -> Iterator[None]:
        """Connects to Ray.

        Args:
            log: local file that takes what is printed meanwhile.
        """
        with ExitStack() as stack:
            if self.quiet:
                stack.enter_context(output_to(log))
            stack.enter_context(self.ray)
            yield

    @contextmanager
    def lock(self, name: str, busy: str) -> Iterator[None]:
        """Holds the one lock of a name on the cluster: a named actor, which ends with the process that made it.

        Raises:
            RunError: another process holds it; the message is `busy`.
        """
        owner = _owner(name, busy)
        try:
            yield
        finally:
            ray.kill(owner)


def _owner(name: str, busy: str) -> Any:
    """Starts the actor of a name, which only one process on the cluster can have."""
    deadline = time.monotonic() + GIVEN_UP_SECONDS
    while True:
        try:
            return ray.remote(_Owner).options(name=name, namespace=NAMESPACE, num_cpus=0).remote()
        except ValueError as error:
            if time.monotonic() > deadline:
                raise RunError(busy) from error
            time.sleep(0.5)


class _Owner:
    """Is alive as long as the process that made it."""


def record_name() -> str:
    """Returns a name for one of Ray's records that none had before: Ray would take up the one of the same name.

    The time is for people. It, and the process's number, come again: in containers, and where the clock was set back.
    """
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-{secrets.token_hex(4)}"


def records_of_ray(folder: RunFolder | SweepFolder) -> AbstractContextManager[Path]:
    """Returns a context that gives a local folder for Ray's own records, which nobody reads again."""
    return folder.store.temporary(folder.path / "ray")
