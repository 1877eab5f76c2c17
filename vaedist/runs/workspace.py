"""Working in a run's folder as one of its workers."""

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
    """Gives the run and its checkpoints as a worker uses them: the first worker writes, the others read.

    When the context ends, all that the first worker wrote is where the run is kept.

    Args:
        run: the run.
        keep: newest checkpoints to keep.
        first: this is the first worker. Checkpoints that a killed one left half-written are removed.
        notify: told when an object store does not answer.
        may_write: called before anything is written where others see it; raises if others write there now.

    Raises:
        StorageError: an object store refused, or did not answer for `RUN_SECONDS`.
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
