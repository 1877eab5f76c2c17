"""A run's checkpoints: saving, pruning, and finding the newest and the best."""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from safetensors import SafetensorError

from vaedist.errors import CheckpointError, StorageError
from vaedist.files import new_folder
from vaedist.runs.checkpoint import (
    MARKER,
    STATE,
    Checkpoint,
    Position,
    commit_checkpoint,
    open_checkpoint,
    read_elbo,
    read_position,
    write_checkpoint,
)
from vaedist.runs.folder import RunFolder
from vaedist.storage.retry import MISSING
from vaedist.storage.transfer import FileState


class CheckpointStore:
    """The checkpoints of a run.

    Checkpoints are written, read and selected in the working copy of the run's folder. For a run on an object store,
    `refresh` downloads the position and the score of each checkpoint, and `open` the other files of one checkpoint.

    Args:
        run: the run's folder, whose checkpoints are folders named after their steps.
        keep: number of newest checkpoints to keep, in addition to the one with the best ELBO after an epoch.
    """

    def __init__(self, run: RunFolder, keep: int = 2) -> None:
        self.folder, self.keep, self._store = run.checkpoints, keep, run.store
        self._listed: dict[Path, FileState] = {}  # last listing of the store, without those saved here

    def refresh(self) -> None:
        """Lists the committed checkpoints, and downloads their positions and scores.

        Raises:
            StorageError: the object store does not respond.
        """
        self._listed = self._store.files(self.folder)
        committed = {path for path in self._folders() if path / MARKER in self._listed}
        for path in self.folder.glob("step-*"):
            if path not in committed:
                self._store.forget(path)
        for path in committed:
            with suppress(*MISSING):  # removed meanwhile
                self._fetch(path / name for name in (STATE, MARKER))

    def clean(self) -> None:
        """Removes incomplete checkpoints that killed writers left; only for the writer, when it starts.

        Raises:
            StorageError: the object store does not respond.
        """
        self._listed = self._store.files(self.folder)
        here = set(self.folder.iterdir()) if self.folder.is_dir() else set()
        for path in here | self._folders():
            half_written = path.name.startswith("step-") and path / MARKER not in self._listed
            if half_written or path.name.endswith(".tmp"):
                self._store.remove_folder(path)
        self.refresh()

    def save(
        self,
        position: Position,
        weights: Mapping[str, np.ndarray],
        optimizer: Mapping[str, np.ndarray],
        experiment: str,
        *,
        committed: Callable[[str], None] = lambda _: None,
    ) -> Path:
        """Commits a checkpoint, then removes older ones.

        For a run on an object store, the checkpoint is committed in the working copy once the previous one has been
        uploaded, and is uploaded in the background.

        Args:
            position: position of the run.
            weights: the model's weights, by Keras path.
            optimizer: the optimizer's slots, by slot/path.
            experiment: the experiment's TOML text.
            committed: called with the checkpoint's path or URI once it is committed there.

        Raises:
            CheckpointError: a weight or a slot is NaN or infinite; nothing is written.
            StorageError: the checkpoint cannot be written, which leaves older ones unchanged; or the previous one could
                not be uploaded.
        """
        _check_finite(position.step, {**weights, **optimizer})
        self.settle()
        target = self._path_of(position.step)
        with _write_errors(target):
            self._write(target, position, weights, optimizer, experiment)
        self._forget_listing(target)
        location = self._store.location_of(target)
        self._store.commit_folder(target, last=MARKER, done=lambda: committed(location))
        with _write_errors(target):
            self._prune()
        return target

    def _write(
        self,
        target: Path,
        position: Position,
        weights: Mapping[str, np.ndarray],
        optimizer: Mapping[str, np.ndarray],
        experiment: str,
    ) -> None:
        """Writes a checkpoint to a temporary folder, renames that, and commits it."""
        self._store.check_writer()
        with new_folder(target) as beside:
            write_checkpoint(beside, position, weights, optimizer, experiment)
            self._store.check_writer()
            if target.exists():  # of an earlier attempt at the same step
                shutil.rmtree(target)
        commit_checkpoint(target)

    def settle(self) -> None:
        """Waits until all saved checkpoints are uploaded, if the run is on an object store.

        Raises:
            StorageError: a checkpoint could not be uploaded.
        """
        self._store.settle()

    def find(self, name: str) -> bool:
        """Returns True if there is a checkpoint with that name, which `open` can open.

        Raises:
            StorageError: the object store does not respond.
        """
        path = self.folder / name
        if not path.is_dir():
            self._listed |= self._store.files(path)
        return path.is_dir() or path / MARKER in self._listed

    def open(self, path: Path) -> Checkpoint:
        """Opens a checkpoint, after downloading it if necessary.

        Raises:
            CheckpointError: the checkpoint is not committed or not intact.
            StorageError: the object store does not respond.
        """
        location = self._store.location_of(path)
        try:
            self._fetch(file for file in self._listed if file.parent == path)
            return open_checkpoint(path)
        except MISSING as error:
            raise CheckpointError(f"checkpoint {location} was removed in the meantime") from error
        except CheckpointError as error:
            raise CheckpointError(str(error).replace(str(path), location)) from error

    def at(self, step: int) -> Checkpoint:
        """Opens the checkpoint of a step.

        Raises:
            CheckpointError: there is none, or it is not intact.
            StorageError: the object store does not respond.
        """
        committed = self.committed()
        if self._path_of(step) not in committed:
            steps = ", ".join(str(int(path.name.removeprefix("step-"))) for path in reversed(committed))
            where = self._store.location_of(self.folder)
            raise CheckpointError(
                f"no checkpoint of step {step} in {where}; it has {f'steps {steps}' if steps else 'no checkpoint'}"
            )
        return self.open(self._path_of(step))

    def committed(self) -> list[Path]:
        """Returns the committed checkpoints, newest first."""
        return sorted((marker.parent for marker in self.folder.glob(f"step-*/{MARKER}")), reverse=True)

    def newest(self, warn: Callable[[str], None] = lambda _: None) -> Checkpoint | None:
        """Opens the newest intact checkpoint; calls `warn` about damaged ones, which are skipped.

        Raises:
            CheckpointError: there are committed checkpoints, but all are damaged.
        """
        committed = self.committed()
        for path in committed:
            try:
                return self.open(path)
            except CheckpointError as error:
                self._warn_of(path, error, warn)
        if committed:
            location = self._store.location_of(self.folder)
            raise CheckpointError(f"none of the {len(committed)} checkpoints in {location} is intact")
        return None

    def reached(self) -> Position | None:
        """Returns the position of the newest committed checkpoint that can be read; None if there is none."""
        for path in self.committed():
            with suppress(CheckpointError):
                return read_position(path)
        return None

    def best(self, warn: Callable[[str], None] = lambda _: None) -> Checkpoint | None:
        """Opens the intact checkpoint with the highest ELBO after an epoch, or the newest if none has an ELBO.

        It calls `warn` about damaged checkpoints, which are skipped.

        Raises:
            CheckpointError: there are committed checkpoints, but all are damaged.
        """
        scored = []
        for path in self.committed():
            try:
                scored.append((read_position(path).elbo, path))
            except CheckpointError as error:
                self._warn_of(path, error, warn)
        for _, path in sorted(((elbo, path) for elbo, path in scored if elbo is not None), reverse=True):
            try:
                return self.open(path)
            except CheckpointError as error:
                self._warn_of(path, error, warn)
        return self.newest(warn)

    def _warn_of(self, path: Path, error: CheckpointError, warn: Callable[[str], None]) -> None:
        """Calls `warn` about a checkpoint, unless the run's writer has removed it in the meantime."""
        if (path / MARKER).exists():
            warn(str(error))

    def drop_after(self, step: int) -> None:
        """Sets aside the checkpoints after the step from which a run is resumed, which are damaged.

        They are renamed to damaged-NAME for inspection, and are ignored.
        """
        for path in self.committed():
            if path.name > self._path_of(step).name:
                self._store.set_aside(path, first=MARKER)
                self._forget_listing(path)

    def _path_of(self, step: int) -> Path:
        return self.folder / f"step-{step:09d}"

    def _folders(self) -> set[Path]:
        """Returns the folders of the listed checkpoints, committed or not."""
        folders = {path.parent for path in self._listed}
        return {path for path in folders if path.parent == self.folder and path.name.startswith("step-")}

    def _fetch(self, files: Iterable[Path]) -> None:
        self._store.fetch({path: self._listed[path] for path in files if path in self._listed})

    def _forget_listing(self, path: Path) -> None:
        self._listed = {file: state for file, state in self._listed.items() if file.parent != path}

    def _prune(self) -> None:
        committed = self.committed()
        _, best = max(_scored(committed), default=(0.0, None))
        for path in committed[self.keep :]:
            if path != best:
                self._store.remove_folder(path, first=MARKER)  # so that a partly removed one is never complete
                self._forget_listing(path)


def _check_finite(step: int, arrays: Mapping[str, np.ndarray]) -> None:
    """Raises a CheckpointError if an array contains NaN or infinity."""
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise CheckpointError(f"step {step}: {name} is not finite; no checkpoint was written")


@contextmanager
def _write_errors(path: Path) -> Iterator[None]:
    """Turns errors of writing a checkpoint into a StorageError."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StorageError(f"cannot write checkpoint {path}: {reason}") from error


def _scored(paths: Sequence[Path]) -> list[tuple[float, Path]]:
    """Returns pairs of ELBO and path for the checkpoints that have an ELBO."""
    return [(elbo, path) for path in paths if (elbo := read_elbo(path)) is not None]


def checkpoints_of(run: RunFolder) -> CheckpointStore:
    """Returns the current checkpoints of a run, for reading.

    Raises:
        StorageError: the object store does not respond.
    """
    checkpoints = CheckpointStore(run)
    checkpoints.refresh()
    return checkpoints
