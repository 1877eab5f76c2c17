"""Checkpoints that are written while training goes on."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

from vaedist.runs.checkpoint_store import CheckpointStore


class AsyncCheckpointer:
    """Writes checkpoints in a thread of its own, one after another; what fails there is raised at the next call.

    Left as a context, it waits for the one that is being written.

    Args:
        store: where they go; while one is being written, nobody else may use it.
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
        """Have a checkpoint written, by `write`. The one before must be settled: never are two of them in memory."""
        assert self._writing is None
        self._writing = self._thread.submit(write)

    def check(self) -> None:
        """Raise what the last one failed with, if it is known by now; does not wait."""
        if self._writing is not None and self._writing.done():
            self.settle()

    def settle(self) -> None:
        """Wait until the last one is committed.

        Raises:
            CheckpointError, StorageError: it could not be.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def make_room(self) -> None:
        """Wait until the last one is committed and the one before is where it belongs, be that a store far away.

        Raises:
            CheckpointError, StorageError: that could not be.
        """
        self.settle()
        self._store.settle()
