"""A local folder, and what keeps its copy on a store up to date while it is worked on.

Object stores know no append, no rename and no lock, and may not answer for minutes. So the work goes on in a local
folder, and one thread brings over what changed: every few seconds, and whenever a folder is to be committed.
"""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from vaedist.errors import StorageError, VaedistError
from vaedist.storage.transfer import Store

EVERY_SECONDS = 10.0  # between two looks at what changed
SHARE = 0.1  # of the time, at most, is spent in bringing over files that grow

State = tuple[int, int]


class Mirror:
    """Brings a local folder to a store, from a thread of its own.

    What it commits and removes is done in the order in which it was asked for; before each, all that changed until then
    is brought over. One error of the store ends it, and is raised by the next call of any method.

    Args:
        local: the folder.
        store: the folder's copy; how patient it is decides when an outage is an error.
        leave: says of a file's path, relative to the folder, whether it is brought only when it is committed.
        every: seconds between two looks for changes.
        may_write: asked before each; raises when others write to the store now, which ends the mirror.
    """

    def __init__(
        self,
        local: Path,
        store: Store,
        *,
        leave: Callable[[str], bool] = lambda _: False,
        every: float = EVERY_SECONDS,
        may_write: Callable[[], None] = lambda: None,
    ) -> None:
        self._local, self._store, self._leave, self._every = local, store, leave, every
        self._may_write = may_write
        self._brought: dict[str, State] = {}
        self._changed = threading.Condition()
        self._tasks: list[Callable[[], None]] = []
        self._busy = self._closing = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)
        self._thread.start()

    def settle(self) -> None:
        """Wait until all that was asked for is done.

        Raises:
            StorageError: the store refused, or did not answer for too long.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._error or not (self._tasks or self._busy))
            if self._error:
                raise self._error

    def commit(self, folder: str, *, last: str, done: Callable[[], None] = lambda: None) -> None:
        """Bring a folder over whose files do not change any more; does not wait.

        Args:
            folder: its path in the local folder.
            last: a file in it without which the others mean nothing: it is removed first and brought last.
            done: called from the mirror's thread when all is there.

        Raises:
            StorageError: the store refused, or did not answer for too long.
        """

        def task() -> None:
            self._store.remove(f"{folder}/{last}")
            names = sorted(path.name for path in (self._local / folder).iterdir() if path.name != last)
            for name in names:
                self._store.upload(self._local / folder / name, f"{folder}/{name}")
            self._may_write()
            self._store.upload(self._local / folder / last, f"{folder}/{last}")
            done()

        self._ask(task)

    def remove(self, folder: str, *, first: str | None = None) -> None:
        """Removes a folder from the store, the file `first` in it before the others; does not wait.

        Raises:
            StorageError: the store refused, or did not answer for too long.
        """

        def task() -> None:
            if first is not None:
                self._store.remove(f"{folder}/{first}")
            self._store.remove_folder(folder)

        self._ask(task)

    def close(self) -> None:
        """Bring over what is left, and end the thread.

        Raises:
            StorageError: it could not be brought over.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        if self._error:
            raise self._error

    def _ask(self, task: Callable[[], None]) -> None:
        with self._changed:
            if self._error:
                raise self._error
            self._tasks.append(task)
            self._changed.notify_all()

    def _work(self) -> None:
        """The thread: tasks as they come, and what changed every so often."""
        pause, closing = self._every, False
        while not closing:
            with self._changed:
                self._changed.wait_for(lambda: self._tasks or self._closing, timeout=pause)
                task = self._tasks.pop(0) if self._tasks else None
                closing = self._closing and task is None
                self._busy = True
            begin = time.monotonic()
            try:
                self._may_write()
            except Exception as error:  # noqa: BLE001 - for whoever asks next
                self._end(error)
                return
            try:
                self._bring()
                if task is not None:
                    task()
            except VaedistError as error:
                self._end(error)
                return
            except Exception as error:  # noqa: BLE001 - nothing may be lost because a thread died unseen
                self._end(StorageError(f"cannot bring {self._local} to {self._store.uri}: {error}"))
                return
            pause = max(self._every, (time.monotonic() - begin) / SHARE)
            with self._changed:
                self._busy = False
                self._changed.notify_all()

    def _end(self, error: Exception) -> None:
        with self._changed:
            self._error, self._busy = error, False
            self._changed.notify_all()

    def _found(self) -> list[Path]:
        """All files in the local folder, by name."""
        folders = os.walk(self._local)  # which passes over those that are removed meanwhile
        return sorted(Path(folder, name) for folder, _, names in folders for name in names)

    def _bring(self) -> None:
        """Upload the files that changed since they were last looked at."""
        for path in self._found():
            name = path.relative_to(self._local).as_posix()
            if path.name.startswith(".") or self._leave(name):
                continue
            try:
                status = path.stat()
                if not path.is_file():
                    continue
                state = status.st_size, status.st_mtime_ns
                if self._brought.get(name) != state:
                    self._store.upload(path, name)
                    self._brought[name] = state
            except FileNotFoundError:  # removed since
                continue
