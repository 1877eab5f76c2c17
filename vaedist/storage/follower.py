"""Copies growing files from an object store, for a program that watches local files."""

from collections.abc import Callable
from pathlib import Path

from vaedist.errors import StorageError
from vaedist.storage.retry import MISSING
from vaedist.storage.transfer import FileState, Store


class Follower:
    """Keeps a local copy of a folder on an object store, which each call of `update` updates.

    Args:
        store: the folder on the object store.
        local: folder of the copy.
        wanted: returns True for the names of files, relative to the folder, to copy.
        grows: returns True for the names of files that only grow. New content is appended to their copies, so that a
            program that has one open can continue to read. Other files are replaced as a whole.
    """

    def __init__(
        self, store: Store, local: Path, *, wanted: Callable[[str], bool], grows: Callable[[str], bool]
    ) -> None:
        self._store, self._local, self._wanted, self._grows = store, local, wanted, grows
        self._seen: dict[str, FileState] = {}

    def update(self) -> int:
        """Copies changes, and returns the number of files that changed.

        Raises:
            StorageError: the object store does not respond; copied files are kept, and the next call continues.
        """
        found = {name: state for name, state in self._store.files().items() if self._wanted(name)}
        changed = [name for name, state in found.items() if self._seen.get(name) != state]
        for name in changed:
            target = self._local / name
            try:
                if self._grows(name) and target.exists() and target.stat().st_size <= found[name].size:
                    self._append(name, target)
                else:
                    self._store.download(name, target, found[name].written)
            except MISSING:  # removed since it was listed
                continue
            self._seen[name] = found[name]
        for name in self._seen.keys() - found.keys():
            (self._local / name).unlink(missing_ok=True)
            del self._seen[name]
        return len(changed)

    def _append(self, name: str, target: Path) -> None:
        more = self._store.read_from(name, target.stat().st_size)
        try:
            with target.open("ab") as file:
                file.write(more)
        except OSError as error:
            raise StorageError(f"cannot write {target}: {error.strerror or error}") from error
