"""Checkpoint format: a folder of files with digests, committed by a marker.

A checkpoint holds the weights and the optimizer's slots (safetensors, so no unpickling), the experiment, and state.json
with the position and the SHA-256 of each other file. The marker, written last, holds the SHA-256 of state.json. A
checkpoint without its marker is ignored.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from vaedist.errors import CheckpointError
from vaedist.files import replace_file, sync

FORMAT = 1
MARKER = "COMMITTED"
STATE = "state.json"
WEIGHTS = "weights.safetensors"
OPTIMIZER = "optimizer.safetensors"
EXPERIMENT = "experiment.toml"


@dataclass(frozen=True)
class Position:
    """Position of a run, with the state that resuming requires besides the weights.

    Attributes:
        epoch: completed epochs.
        step: updates made, over the whole run.
        fingerprint: fingerprint of the data set.
        image_shape: (height, width, channels) of its images.
        test_elbo: ELBO of the test images at the end of an epoch, nats per image; None within an epoch, and if the
            validation images are scored.
        meters: partial sums of the next row of metrics.
        validation_elbo: the same for the validation images.
        packages: digests of the packages of a user's own code that define the model, by name.
    """

    epoch: int
    step: int
    fingerprint: str
    image_shape: tuple[int, int, int]
    test_elbo: float | None = None
    meters: Mapping[str, float] = field(default_factory=dict)
    validation_elbo: float | None = None
    packages: Mapping[str, str] = field(default_factory=dict)

    @property
    def elbo(self) -> float | None:
        """ELBO by which the best checkpoint is selected: of the validation images, else of the test images."""
        return self.test_elbo if self.validation_elbo is None else self.validation_elbo


@dataclass(frozen=True)
class Checkpoint:
    """A committed and intact checkpoint.

    Attributes:
        path: the checkpoint's folder.
        position: position of the run.
        experiment: the experiment's TOML text.
        digest: SHA-256 of its state, which holds the digests of all other files.
    """

    path: Path
    position: Position
    experiment: str
    digest: str

    def weights(self) -> dict[str, np.ndarray]:
        """Reads the model's weights, by their Keras paths."""
        return self._load(WEIGHTS)

    def optimizer(self) -> dict[str, np.ndarray]:
        """Reads the optimizer's slots, as slot/path."""
        return self._load(OPTIMIZER)

    def _load(self, name: str) -> dict[str, np.ndarray]:
        try:
            return load_file(self.path / name)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"cannot read {self.path / name}: {error}") from error


def open_checkpoint(path: Path) -> Checkpoint:
    """Opens a checkpoint after verifying the digest of every file.

    Raises:
        CheckpointError: it is not committed, or a file is missing or differs; the message names it.
    """
    with _faults(path):
        position, digests, marker = _read_state(path)
        for name, digest in digests.items():
            if Path(name).name != name or _sha256(path / name) != digest:
                raise CheckpointError(f"checkpoint {path} is damaged: {name} has changed since it was committed")
        return Checkpoint(path, position, (path / EXPERIMENT).read_text(encoding="utf-8"), marker)


def read_position(path: Path) -> Position:
    """Reads the position of a committed checkpoint, without checking the other files.

    Raises:
        CheckpointError: the checkpoint is not committed, or its state is damaged.
    """
    with _faults(path):
        return _read_state(path)[0]


def _read_state(path: Path) -> tuple[Position, dict[str, str], str]:
    """Reads a checkpoint's position, the digest of each of its files, and the marker, which is the state's digest."""
    marker = (path / MARKER).read_text(encoding="ascii").strip()
    state = (path / STATE).read_bytes()
    if hashlib.sha256(state).hexdigest() != marker:
        raise CheckpointError(f"checkpoint {path} is damaged: {STATE} has changed since it was committed")
    record = json.loads(state)
    if record.pop("format") != FORMAT:
        raise CheckpointError(f"checkpoint {path} was written by another version of vaedist")
    digests = record.pop("files")
    return TypeAdapter(Position).validate_json(json.dumps(record), strict=True), digests, marker


@contextmanager
def _faults(path: Path) -> Iterator[None]:
    """Turns errors of reading a damaged checkpoint into a CheckpointError."""
    try:
        yield
    except FileNotFoundError as error:
        raise CheckpointError(f"checkpoint {path} is incomplete: {Path(error.filename).name} is missing") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"checkpoint {path} cannot be read: {reason}") from error


def write_checkpoint(
    folder: Path,
    position: Position,
    weights: Mapping[str, np.ndarray],
    optimizer: Mapping[str, np.ndarray],
    experiment: str,
) -> None:
    """Writes the files of a checkpoint except for the marker, see `commit_checkpoint`, and syncs each to disk.

    Args:
        folder: an existing empty folder.
        position: position of the run.
        weights: the model's weights, by Keras path.
        optimizer: the optimizer's slots, by slot/path.
        experiment: the experiment's TOML text.

    Raises:
        OSError, SafetensorError: a file cannot be written.
    """
    save_file(dict(weights), folder / WEIGHTS)
    save_file(dict(optimizer), folder / OPTIMIZER)
    (folder / EXPERIMENT).write_text(experiment, encoding="utf-8")
    files = {name: _sha256(folder / name) for name in (WEIGHTS, OPTIMIZER, EXPERIMENT)}
    state = {"format": FORMAT, **asdict(position), "files": files}
    (folder / STATE).write_text(json.dumps(state, indent=1, allow_nan=False), encoding="utf-8")
    for name in (*files, STATE):
        sync(folder / name)


def commit_checkpoint(path: Path) -> None:
    """Writes the marker of a checkpoint whose other files are on disk.

    Raises:
        OSError: it cannot be written.
    """
    replace_file(path / MARKER, _sha256(path / STATE))
    sync(path)


def read_elbo(path: Path) -> float | None:
    """Returns `Position.elbo` of a checkpoint that may be damaged; None if it has none or cannot be read."""
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
