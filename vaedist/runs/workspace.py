"""A worker's access to the folder of its run."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vaedist.monitor.events import Event, Notice
from vaedist.runs.checkpoint_store import CheckpointStore
from vaedist.runs.folder import RunFolder


@contextmanager
def workspace(
    run: RunFolder,
    keep: int,
    *,
    first: bool,
    notify: Callable[[Event], None],
    may_write: Callable[[], None] = lambda: None,
) -> Iterator[tuple[RunFolder, CheckpointStore]]:
    """Yields the run's folder and checkpoints for use by a worker: the first worker writes, the others read.

    For a run on an object store, all changes by the first worker are uploaded when the context ends.

    Args:
        run: the run.
        keep: number of newest checkpoints to keep.
        first: True for the first worker, which also removes incomplete checkpoints of a killed predecessor.
        notify: called when an object store does not respond.
        may_write: called before each write that others can see; raises an error if another worker group writes now.

    Raises:
        StorageError: an object store refused a request, or did not respond for `RUN_SECONDS`.
    """
    patient = run.patient(lambda text: notify(Notice(text))).store
    with patient.workspace(
        writes=first, may_write=may_write, leave=lambda name: name.startswith(f"{run.checkpoints.name}/")
    ) as store:
        working = RunFolder(store)
        checkpoints = CheckpointStore(working, keep)
        if first:
            may_write()
            store.refresh(working.metrics)
            checkpoints.clean()
        yield working, checkpoints
