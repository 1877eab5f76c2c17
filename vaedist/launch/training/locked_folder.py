"""A run's or a sweep's folder while a command works on it: claimed, with Ray's chatter kept in its log."""

import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from vaedist.launch.logs import added_on_store, output_to
from vaedist.launch.training.run_lock import Claim, claimed, claimed_on_store
from vaedist.runs.folder import RunFolder
from vaedist.storage.retry import RUN_SECONDS
from vaedist.storage.scratch import scratch_folder
from vaedist.storage.transfer import Store
from vaedist.sweeps import SweepFolder

RAY_LOG = "ray.log"

Folder = RunFolder | SweepFolder


@contextmanager
def owned(
    folder: Folder,
    record: Path,
    text: str,
    *,
    busy: str,
    ray: AbstractContextManager[None],
    quiet: bool,
    notify: Callable[[str], None],
) -> Iterator[Claim]:
    """Own a folder, and be connected to Ray.

    Args:
        folder: what is owned.
        record: the file in it that says what it is.
        text: of the record, which is written at once where there is none.
        busy: said of a folder that somebody else owns.
        ray: connects to Ray, without which a folder on a store cannot be claimed.
        quiet: send what Ray prints to the folder's log.
        notify: told when a store does not answer.

    Yields:
        the claim, to be told when the work is begun, until when a new folder is removed again, and when it is
        accepted, until when an older record stays.

    Raises:
        RunError: somebody else owns the folder.
        StorageError: it cannot be written.
        ClusterError: Ray cannot be reached.
    """
    with ExitStack() as stack:
        if not folder.uri:
            claim = stack.enter_context(claimed(folder.path, record, text, busy))
            if quiet:
                stack.enter_context(output_to(folder.logs / RAY_LOG))
            stack.enter_context(ray)
        else:
            log = stack.enter_context(scratch_folder()) / RAY_LOG
            if quiet:
                stack.enter_context(output_to(log))
            stack.enter_context(ray)
            store = Store(folder.uri, seconds=RUN_SECONDS, notify=notify)
            claim = stack.enter_context(claimed_on_store(store, record.name, text, busy))
            stack.enter_context(added_on_store(log, store, f"{folder.logs.name}/{RAY_LOG}"))
        yield claim


def record_name() -> str:
    """Returns a name for one of Ray's records that none had before: Ray would take up the one of the same name.

    The time is for people. It, and the process's number, come again: in containers, and where the clock was set back.
    """
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-{secrets.token_hex(4)}"


@contextmanager
def records_of_ray(folder: Folder) -> Iterator[Path]:
    """Where Ray keeps its own records; nobody reads them again, so that they are not worth a store."""
    if folder.uri:
        with scratch_folder() as scratch:
            yield scratch
    else:
        yield folder.path / "ray"
