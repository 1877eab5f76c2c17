"""Checkpoints: folders that are whole and intact, or are not taken.

A checkpoint holds the weights and the optimizer's slots (safetensors: nothing is unpickled), the experiment, and
state.json with the position and the SHA-256 of each other file. It is written beside its place, renamed into it, and
committed by a marker written last, which holds the SHA-256 of state.json.
"""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from vaedist.errors import CheckpointError, StorageError
from vaedist.files import replace_file

FORMAT = 1
MARKER = "COMMITTED"
STATE = "state.json"
WEIGHTS = "weights.safetensors"
OPTIMIZER = "optimizer.safetensors"
EXPERIMENT = "experiment.toml"


@dataclass(frozen=True)
class Position:
    """How far a run is.

    Attributes:
        epoch: passes completed.
        step: updates made, over the whole run.
        fingerprint: of the data set.
        image_shape: (height, width, channels) of its images.
        test_elbo: where the checkpoint stands at an epoch's end, its test ELBO in nats an image; None where the
            validation images were scored.
        meters: sums that the next row of metrics goes on from.
        validation_elbo: the same of the validation images, where the data set has such a split.
    """

    epoch: int
    step: int
    fingerprint: str
    image_shape: tuple[int, int, int]
    test_elbo: float | None = None
    meters: Mapping[str, float] = field(default_factory=dict)
    validation_elbo: float | None = None

    @property
    def elbo(self) -> float | None:
        """The ELBO that the best checkpoint is selected by: of the validation images, else of the test images."""
        return self.test_elbo if self.validation_elbo is None else self.validation_elbo


@dataclass(frozen=True)
class Checkpoint:
    """A committed and intact checkpoint.

    Attributes:
        path: its folder.
        position: how far the run was.
        experiment: the experiment's TOML text.
    """

    path: Path
    position: Position
    experiment: str

    def weights(self) -> dict[str, np.ndarray]:
        """The model's weights, by their Keras paths."""
        return self._load(WEIGHTS)

    def optimizer(self) -> dict[str, np.ndarray]:
        """The optimizer's slots, as slot/path."""
        return self._load(OPTIMIZER)

    def _load(self, name: str) -> dict[str, np.ndarray]:
        try:
            return load_file(self.path / name)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"cannot read {self.path / name}: {error}") from error


def open_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint's state and compare the digest of every file.

    Raises:
        CheckpointError: it is not committed, or a file is missing or differs; the message names it.
    """
    with _faults(path):
        position, digests = _read_state(path)
        for name, digest in digests.items():
            if Path(name).name != name or _sha256(path / name) != digest:
                raise CheckpointError(f"checkpoint {path} is damaged: {name} differs from what was committed")
        return Checkpoint(path, position, (path / EXPERIMENT).read_text(encoding="utf-8"))


def read_position(path: Path) -> Position:
    """Reads how far a committed checkpoint is; its weights are not looked at.

    Raises:
        CheckpointError: it is not committed, or its state is not what was committed.
    """
    with _faults(path):
        return _read_state(path)[0]


def _read_state(path: Path) -> tuple[Position, dict[str, str]]:
    """Reads a checkpoint's position, and the digest of each of its files."""
    marker = (path / MARKER).read_text(encoding="ascii").strip()
    state = (path / STATE).read_bytes()
    if hashlib.sha256(state).hexdigest() != marker:
        raise CheckpointError(f"checkpoint {path} is damaged: {STATE} differs from what was committed")
    record = json.loads(state)
    if record.pop("format") != FORMAT:
        raise CheckpointError(f"checkpoint {path} was written by another version of vaedist")
    digests = record.pop("files")
    return TypeAdapter(Position).validate_json(json.dumps(record), strict=True), digests


@contextmanager
def _faults(path: Path) -> Iterator[None]:
    """Turns what reading a damaged checkpoint raises into a CheckpointError."""
    try:
        yield
    except FileNotFoundError as error:
        raise CheckpointError(f"checkpoint {path} is not whole: {Path(error.filename).name} is missing") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"checkpoint {path} cannot be read: {reason}") from error


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
                self._write(beside, position, weights, optimizer, experiment)
                self.may_write()
                if target.exists():  # of an earlier attempt at the same step
                    shutil.rmtree(target)
                beside.rename(target)
            finally:
                shutil.rmtree(beside, ignore_errors=True)
            _sync(self.folder)
            replace_file(target / MARKER, _sha256(target / STATE))
            _sync(target)
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
        return [(elbo, path) for path in paths if (elbo := _elbo(path)) is not None]

    @staticmethod
    def _write(
        folder: Path,
        position: Position,
        weights: Mapping[str, Any],
        optimizer: Mapping[str, Any],
        experiment: str,
    ) -> None:
        save_file(dict(weights), folder / WEIGHTS)
        save_file(dict(optimizer), folder / OPTIMIZER)
        (folder / EXPERIMENT).write_text(experiment, encoding="utf-8")
        files = {name: _sha256(folder / name) for name in (WEIGHTS, OPTIMIZER, EXPERIMENT)}
        for name in files:
            _sync(folder / name)
        state = {"format": FORMAT, **asdict(position), "files": files}
        _write_synced(folder / STATE, json.dumps(state, indent=1, allow_nan=False).encode())
        _sync(folder)


def _elbo(path: Path) -> float | None:
    """`Position.elbo`, of a checkpoint that need not be intact."""
    try:
        record = json.loads((path / STATE).read_bytes())
        validation = record.get("validation_elbo")
        elbo = record["test_elbo"] if validation is None else validation
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return elbo if isinstance(elbo, float) else None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
