"""A run's checkpoints: saving, pruning, and finding the newest and the best."""

import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from safetensors import SafetensorError

from vaedist.errors import CheckpointError, StorageError
from vaedist.runs.checkpoint import (
    MARKER,
    Checkpoint,
    Position,
    commit_checkpoint,
    open_checkpoint,
    read_elbo,
    read_position,
    sync,
    write_checkpoint,
)


class CheckpointStore:
    """The checkpoints of a run.

    Args:
        folder: holds one folder a checkpoint, named by its step.
        keep: newest ones to keep; the one with the best ELBO after an epoch stays besides.
        may_write: asked before one is written and before it is committed; raises when others write now.
    """

    def __init__(self, folder: Path, keep: int = 2, *, may_write: Callable[[], None] = lambda: None) -> None:
        self.folder, self.keep, self.may_write = folder, keep, may_write

    def save(
        self,
        position: Position,
        weights: Mapping[str, np.ndarray],
        optimizer: Mapping[str, np.ndarray],
        experiment: str,
        *,
        committed: Callable[[str], None] = lambda _: None,
    ) -> Path:
        """Commit a checkpoint, then remove those that are not to be kept.

        Args:
            position: how far the run is.
            weights: the model's, by their Keras paths.
            optimizer: its slots, as slot/path.
            experiment: the experiment's TOML text.
            committed: called with the checkpoint's place once it is committed.

        Raises:
            CheckpointError: a weight or a slot is NaN or infinite; nothing is written.
            StorageError: it cannot be written; the ones before are as they were.
        """
        for name, array in {**weights, **optimizer}.items():
            if not np.isfinite(array).all():
                raise CheckpointError(f"step {position.step}: {name} is not finite; no checkpoint was written")
        target = self._place(position.step)
        try:
            self.may_write()
            beside = self.folder / f".{target.name}.{secrets.token_hex(4)}.tmp"
            beside.mkdir(parents=True)
            try:
                write_checkpoint(beside, position, weights, optimizer, experiment)
                self.may_write()
                if target.exists():  # of an earlier attempt at the same step
                    shutil.rmtree(target)
                beside.rename(target)
            finally:
                shutil.rmtree(beside, ignore_errors=True)
            sync(self.folder)
            commit_checkpoint(target)
            self._prune()
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or error
            raise StorageError(f"cannot write checkpoint {target}: {reason}") from error
        committed(str(target))
        return target

    def settle(self) -> None:
        """Wait until what was saved is where it belongs.

        Raises:
            StorageError: it could not be brought there.
        """

    def open(self, path: Path) -> Checkpoint:
        """A checkpoint of this store.

        Raises:
            CheckpointError: it is not committed, or not intact.
        """
        return open_checkpoint(path)

    def fetch(self, name: str) -> bool:
        """Whether there is a checkpoint of that name, to be opened."""
        return (self.folder / name).is_dir()

    def newest(self, warn: Callable[[str], None] = lambda _: None) -> Checkpoint | None:
        """The newest committed and intact checkpoint; damaged ones are named to `warn` and passed over.

        Raises:
            CheckpointError: there are committed checkpoints, but all are damaged.
        """
        committed = self.committed()
        for path in committed:
            try:
                return self.open(path)
            except CheckpointError as error:
                warn(f"{error}; passed over")
        if committed:
            raise CheckpointError(f"none of the {len(committed)} checkpoints in {self.folder} is intact")
        return None

    def reached(self) -> Position | None:
        """Returns how far the newest committed checkpoint is, by its state alone; None where none can be read."""
        for path in self.committed():
            with suppress(CheckpointError):
                return read_position(path)
        return None

    def best(self) -> Checkpoint | None:
        """The intact checkpoint with the highest ELBO after an epoch, or the newest where none has one."""
        for _, path in sorted(self._scored(self.committed()), reverse=True):
            try:
                return self.open(path)
            except CheckpointError:
                continue
        return self.newest()

    def clean(self) -> None:
        """Remove what writers that were killed left half-written; for a writer that begins, as the only one."""
        if self.folder.is_dir():
            for path in self.folder.iterdir():
                half_written = path.name.startswith("step-") and not (path / MARKER).exists()
                if half_written or path.name.endswith(".tmp"):
                    shutil.rmtree(path, ignore_errors=True)

    def drop_after(self, step: int) -> None:
        """Set aside what lies beyond the step that a run goes on from: checkpoints that were passed over.

        They stay as damaged-NAME, for whoever wants to look, and count for nothing.
        """
        for path in self.committed():
            if path.name > self._place(step).name:
                path.rename(path.with_name(f"damaged-{path.name}.{secrets.token_hex(2)}"))

    def _place(self, step: int) -> Path:
        return self.folder / f"step-{step:09d}"

    def committed(self) -> list[Path]:
        """Committed checkpoints, newest first."""
        return sorted((marker.parent for marker in self.folder.glob(f"step-*/{MARKER}")), reverse=True)

    def _prune(self) -> None:
        committed = self.committed()
        _, best = max(self._scored(committed), default=(0.0, None))
        for path in committed[self.keep :]:
            if path != best:
                (path / MARKER).unlink()  # first, so that it is never taken for a whole one
                shutil.rmtree(path, ignore_errors=True)

    @staticmethod
    def _scored(paths: Sequence[Path]) -> list[tuple[float, Path]]:
        """The ELBO of each checkpoint that has one, and the checkpoint."""
        return [(elbo, path) for path in paths if (elbo := read_elbo(path)) is not None]
