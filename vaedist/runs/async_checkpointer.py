"""Writes checkpoints in the background of training."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

from vaedist.runs.checkpoint_store import CheckpointStore


class AsyncCheckpointer:
    """Writes checkpoints in a background thread, one after another; errors are raised by the next call.

    At the end of the context, it waits for the checkpoint that is being written.

    Args:
        store: the run's checkpoints, which must not be used otherwise while one is being written.
    """

    def __init__(self, store: CheckpointStore) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[object] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def begin(self, write: Callable[[], object]) -> None:
        """Starts `write`, which writes a checkpoint; the previous one must be settled, so only one is in memory."""
        assert self._writing is None
        self._writing = self._thread.submit(write)

    def check(self) -> None:
        """Raises the error of the last checkpoint, if it has failed by now; does not wait."""
        if self._writing is not None and self._writing.done():
            self.settle()

    def settle(self) -> None:
        """Waits until the last checkpoint is committed.

        Raises:
            CheckpointError, StorageError: it could not be committed.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def make_room(self) -> None:
        """Waits until the last checkpoint is committed, and uploaded if the run is on an object store.

        Raises:
            CheckpointError, StorageError: it could not be committed or uploaded.
        """
        self.settle()
        self._store.settle()
