"""Copies files that grow on an object store, for a program that watches local files."""

from collections.abc import Callable
from pathlib import Path

from vaedist.errors import StorageError
from vaedist.storage.retry import MISSING
from vaedist.storage.transfer import FileState, Store


class Follower:
    """Downloads what changed in a folder on an object store whenever `update` is called.

    Args:
        store: the folder on the object store.
        local: the copy.
        wanted: says of a file's name, relative to the folder, whether it is copied.
        grows: says of a file's name whether it only ever grows, so that what is new is appended to the copy: a program
            that has it open then reads on. Other files are replaced as a whole.
    """

    def __init__(
        self, store: Store, local: Path, *, wanted: Callable[[str], bool], grows: Callable[[str], bool]
    ) -> None:
        self._store, self._local, self._wanted, self._grows = store, local, wanted, grows
        self._seen: dict[str, FileState] = {}

    def update(self) -> int:
        """Copies what is new and returns the number of files that changed.

        Raises:
            StorageError: the object store does not answer; what was copied stays, and the next call continues.
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
