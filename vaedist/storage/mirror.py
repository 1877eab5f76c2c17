"""Mirrors a local folder to an object store while files in it are written.

Object stores have no append, rename or locks, and may not respond for minutes. Therefore a process works in a local
folder, and a thread uploads changes: every few seconds, and whenever a folder is committed.
"""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from vaedist.errors import StorageError, VaedistError
from vaedist.storage.transfer import Store

EVERY_SECONDS = 10.0  # between two searches for changes
SHARE = 0.1  # maximum fraction of the time spent on uploading growing files

State = tuple[int, int]


class Mirror:
    """Uploads a local folder in a background thread.

    Commits and removals are carried out in the order of their requests. Before each, all changed files are uploaded. An
    error of the object store ends the mirror, and is raised by the next call of any method.

    Args:
        local: the folder.
        store: its copy on the object store; its `seconds` limit the duration of an outage.
        leave: returns True for the names of files, relative to the folder, that only `commit` uploads.
        every: seconds between two searches for changes.
        may_write: called before each upload; raises an error if another process writes to the object store now, which
            ends the mirror.
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
        self._uploaded: dict[str, State] = {}
        self._changed = threading.Condition()
        self._tasks: list[Callable[[], None]] = []
        self._busy = self._closing = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)
        self._thread.start()

    def settle(self) -> None:
        """Waits until all requested commits and removals are completed.

        Raises:
            StorageError: the object store refused a request, or did not respond for too long.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._error or not (self._tasks or self._busy))
            if self._error:
                raise self._error

    def commit(self, folder: str, *, last: str, done: Callable[[], None] = lambda: None) -> None:
        """Requests the upload of a folder whose files are final; does not wait.

        Args:
            folder: path of the folder, relative to the local folder.
            last: a file in it without which the others do not count: it is removed first and uploaded last.
            done: called in the mirror's thread once the folder is uploaded.

        Raises:
            StorageError: the object store refused a request, or did not respond for too long.
        """

        def task() -> None:
            self._store.remove(f"{folder}/{last}")
            names = sorted(path.name for path in (self._local / folder).iterdir() if path.name != last)
            for name in names:
                self._store.upload(self._local / folder / name, f"{folder}/{name}")
            self._may_write()
            self._store.upload(self._local / folder / last, f"{folder}/{last}")
            done()

        self._request(task)

    def remove(self, folder: str, *, first: str | None = None) -> None:
        """Requests the removal of a folder, beginning with the file `first` in it; does not wait.

        Raises:
            StorageError: the object store refused a request, or did not respond for too long.
        """

        def task() -> None:
            if first is not None:
                self._store.remove(f"{folder}/{first}")
            self._store.remove_folder(folder)

        self._request(task)

    def close(self) -> None:
        """Uploads the remaining changes, and ends the thread.

        Raises:
            StorageError: a file could not be uploaded.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        if self._error:
            raise self._error

    def _request(self, task: Callable[[], None]) -> None:
        with self._changed:
            if self._error:
                raise self._error
            self._tasks.append(task)
            self._changed.notify_all()

    def _work(self) -> None:
        """Runs in the thread: carries out requests, and uploads changes periodically."""
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
            except Exception as error:  # noqa: BLE001 - raised by the next call
                self._end(error)
                return
            try:
                self._upload()
                if task is not None:
                    task()
            except VaedistError as error:
                self._end(error)
                return
            except Exception as error:  # noqa: BLE001 - the thread must not die silently
                self._end(StorageError(f"cannot upload {self._local} to {self._store.uri}: {error}"))
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
        """Returns all files in the local folder, sorted."""
        folders = os.walk(self._local)  # ignores folders that are removed in the meantime
        return sorted(Path(folder, name) for folder, _, names in folders for name in names)

    def _upload(self) -> None:
        """Uploads the files that changed since they were last uploaded."""
        for path in self._found():
            name = path.relative_to(self._local).as_posix()
            if path.name.startswith(".") or self._leave(name):
                continue
            try:
                status = path.stat()
                if not path.is_file():
                    continue
                state = status.st_size, status.st_mtime_ns
                if self._uploaded.get(name) != state:
                    self._store.upload(path, name)
                    self._uploaded[name] = state
            except FileNotFoundError:  # removed in the meantime
                continue
