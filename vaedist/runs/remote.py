"""Runs that are kept on a store: worked on in a scratch folder that is mirrored, and read through a local copy."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from vaedist.errors import CheckpointError, StorageError
from vaedist.monitor.events import Event, Notice
from vaedist.runs.checkpoint import MARKER, STATE, Checkpoint, Position, open_checkpoint
from vaedist.runs.checkpoint_store import CheckpointStore
from vaedist.runs.folder import RunFolder
from vaedist.storage.mirror import Mirror
from vaedist.storage.retry import COMMAND_SECONDS, MISSING, RUN_SECONDS
from vaedist.storage.scratch import scratch_folder
from vaedist.storage.transfer import Remote, Store


@contextmanager
def workspace(
    run: RunFolder,
    keep: int,
    *,
    first: bool,
    notify: Callable[[Event], None],
    may_write: Callable[[], None] = lambda: None,
) -> Iterator[tuple[RunFolder, CheckpointStore]]:
    """Where a worker writes a run, and its checkpoints: the run's folder, or a scratch folder for one on a store.

    When it is left, all that the first worker wrote is on the store, and the scratch folder is gone.

    Args:
        run: the run.
        keep: newest checkpoints to keep.
        first: whether it is the first worker, which writes.
        notify: told when the store does not answer.
        may_write: asked before anything is written where others see it; raises when others write there now.

    Raises:
        StorageError: the store refused, or did not answer for `RUN_SECONDS`.
    """
    if not run.uri:
        yield run, CheckpointStore(run.checkpoints, keep, may_write=may_write)
        return
    store = Store(run.uri, seconds=RUN_SECONDS, notify=lambda text: notify(Notice(text)))
    with scratch_folder() as scratch:
        local = RunFolder(scratch, run.uri)
        if not first:
            yield local, RemoteCheckpoints(local, store, keep)
            return
        may_write()
        with suppress(*MISSING):
            store.download(local.metrics.name, local.metrics)
        mirror = Mirror(
            local.path, store, leave=lambda name: name.startswith(f"{local.checkpoints.name}/"), may_write=may_write
        )
        try:
            checkpoints = RemoteCheckpoints(local, store, keep, mirror)
            checkpoints.take_over()
            yield local, checkpoints
        except BaseException:
            with suppress(StorageError):
                mirror.close()
            raise
        mirror.close()


class RemoteCheckpoints(CheckpointStore):
    """The checkpoints of a run that is kept on a store, with local copies of those that are needed.

    Args:
        run: the local folder, and the store's.
        store: the run's folder on the store.
        keep: newest ones to keep.
        mirror: brings new ones to the store; None where none are written.
    """

    def __init__(self, run: RunFolder, store: Store, keep: int = 2, mirror: Mirror | None = None) -> None:
        super().__init__(run.checkpoints, keep)
        self._root, self._store, self._mirror = run.path, store, mirror
        self._listed: dict[str, Remote] = {}

    def refresh(self) -> None:
        """Look which ones are committed on the store, and fetch what tells how far they are and what they scored."""
        self._listed = self._store.files(self.folder.name)
        committed = {name for name in self._names() if self._file(name, MARKER) in self._listed}
        for path in self.folder.glob("step-*"):
            if path.name not in committed:
                shutil.rmtree(path, ignore_errors=True)
        for name in committed:
            with suppress(*MISSING):  # removed meanwhile
                files = [self._file(name, file) for file in (STATE, MARKER)]
                self._store.pull(self._root, [file for file in files if file in self._listed], self._listed)

    def take_over(self) -> None:
        """Be the one who writes: remove what writers before left half-written, and look what there is."""
        self._listed = self._store.files(self.folder.name)
        for name in self._names():
            if self._file(name, MARKER) not in self._listed:
                self._store.remove_folder(f"{self.folder.name}/{name}")
        self.refresh()

    def open(self, path: Path) -> Checkpoint:
        """A checkpoint, fetched unless it is here.

        Raises:
            CheckpointError: it is not committed, or not intact.
        """
        try:
            self._store.pull(self._root, self._files(path), self._listed)
            return open_checkpoint(path)
        except MISSING as error:
            raise CheckpointError(f"checkpoint {self._place_of(path)} was removed meanwhile") from error
        except CheckpointError as error:
            raise CheckpointError(str(error).replace(str(path), self._place_of(path))) from error

    def fetch(self, name: str) -> bool:
        """Whether there is a checkpoint of that name, to be opened."""
        if not super().fetch(name):
            self._listed |= self._store.files(f"{self.folder.name}/{name}")
        return super().fetch(name) or self._file(name, MARKER) in self._listed

    def save(
        self,
        position: Position,
        weights: Mapping[str, np.ndarray],
        optimizer: Mapping[str, np.ndarray],
        experiment: str,
        *,
        committed: Callable[[str], None] = lambda _: None,
    ) -> Path:
        """Commit a checkpoint here, once the one before is on the store; it gets there while training goes on.

        Raises:
            CheckpointError: a weight or a slot is NaN or infinite; nothing is written.
            StorageError: it cannot be written, or the store did not take what came before.
        """
        assert self._mirror is not None
        self.settle()
        before = self.committed()
        path = super().save(position, weights, optimizer, experiment)
        for name in self._files(path):
            del self._listed[name]
        self._mirror.commit(
            f"{self.folder.name}/{path.name}", last=MARKER, done=lambda: committed(self._place_of(path))
        )
        for pruned in {*before} - {*self.committed()}:
            self._mirror.remove(f"{self.folder.name}/{pruned.name}", first=MARKER)
        return path

    def settle(self) -> None:
        """Wait until what was saved is on the store."""
        if self._mirror is not None:
            self._mirror.settle()

    def drop_after(self, step: int) -> None:
        """Set aside what lies beyond the step that a run goes on from, on the store and here."""
        before = self.committed()
        super().drop_after(step)
        for path in {*before} - {*self.committed()}:
            for name in sorted(self._files(path), key=lambda name: not name.endswith(f"/{MARKER}")):
                self._store.rename(name, name.replace(f"/{path.name}/", f"/damaged-{path.name}/"))
                del self._listed[name]

    def _names(self) -> set[str]:
        """The names of the checkpoints on the store."""
        parts = (name.split("/") for name in self._listed)
        return {part[1] for part in parts if len(part) == 3 and part[1].startswith("step-")}

    def _files(self, path: Path) -> list[str]:
        """A checkpoint's files on the store."""
        return [name for name in self._listed if name.startswith(self._file(path.name, ""))]

    def _file(self, name: str, file: str) -> str:
        """A checkpoint's file, as the store names it."""
        return f"{self.folder.name}/{name}/{file}"

    def _place_of(self, path: Path) -> str:
        return self._store.place(f"{self.folder.name}/{path.name}")


def checkpoints_of(run: RunFolder) -> CheckpointStore:
    """A run's checkpoints, to be read; those on a store are fetched when they are opened.

    Raises:
        StorageError: the store does not answer.
    """
    if not run.uri:
        return CheckpointStore(run.checkpoints)
    found = RemoteCheckpoints(run, Store(run.uri))
    found.refresh()
    return found


def pulled(run: RunFolder, *, seconds: float = COMMAND_SECONDS) -> RunFolder:
    """The run, with its experiment and its metrics as they are now; all of a local one is there anyway.

    Raises:
        StorageError: the store does not answer.
    """
    if run.uri:
        store = Store(run.uri, seconds=seconds)
        for path in (run.experiment, run.metrics):
            try:
                store.download(path.name, path)
            except MISSING:
                path.unlink(missing_ok=True)
    return run


def event_files(run: RunFolder, *, seconds: float = RUN_SECONDS) -> list[str]:
    """Returns the names of the event files that a run's TensorBoard folder has on a store; none of a local run.

    Raises:
        StorageError: the store does not answer.
    """
    if not run.uri:
        return []
    names = (name.split("/") for name in Store(run.uri, seconds=seconds).files(run.tensorboard.name))
    return [parts[1] for parts in names if len(parts) == 2]


def places_of(run: RunFolder, folder: Path, pattern: str) -> list[str]:
    """The places of the files in a folder of a run whose names match a pattern, by name.

    Raises:
        StorageError: the store does not answer.
    """
    if not run.uri:
        return sorted(map(str, folder.glob(pattern)))
    store = Store(run.uri)
    names = (name for name in store.files(folder.name) if fnmatchcase(name, f"{folder.name}/{pattern}"))
    return sorted(store.place(name) for name in names)
