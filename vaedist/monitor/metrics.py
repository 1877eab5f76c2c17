"""A run's metrics.jsonl: one JSON object a line, each row once however often the run was resumed."""

import json
import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeAlias

from vaedist.errors import RunError, StorageError
from vaedist.files import replace_file

Kind: TypeAlias = Literal["train", "test", "validation"]
"""Of a row: training means, or the means over a split's images after an epoch, which has the split's name."""

EPOCH_KINDS: tuple[Kind, ...] = ("test", "validation")


class MetricsLog:
    """Append rows to a metrics file that a reader may follow line by line.

    When a run goes on from a checkpoint, the rows it is about to write again are dropped first: the file is
    rewritten beside its place and put there by one rename, so that a crash in between costs no row. It is so even
    where no row is dropped: a writer that was given up, and is not dead, has the old file open, not this one.

    Args:
        path: the file; missing folders are made.
        resume_step: step of the checkpoint that the run goes on from; later rows, and a last line that a
            crash tore, are dropped. None is a new run: nothing that stands there stays.

    Raises:
        StorageError: the file cannot be written.
        RunError: a line before the last is not a row.
    """

    def __init__(self, path: str | Path, *, resume_step: int | None) -> None:
        self._path = Path(path)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._keep_until(-1 if resume_step is None else resume_step)
            self._file = self._path.open("ab", buffering=0)
        except OSError as error:
            raise self._failure(error) from error

    def append(self, kind: Kind, epoch: int, step: int, values: Mapping[str, float]) -> None:
        """Write one row in one piece: kind, epoch, step, then the values; NaN and infinities as null.

        Raises:
            StorageError: the row could not be written; no part of it stays.
        """
        assert not {"kind", "epoch", "step"} & values.keys(), "a value would hide the row's own key"
        row = {"kind": kind, "epoch": int(epoch), "step": int(step)}
        line = _encode(row | {name: _number(value) for name, value in values.items()})
        end = self._file.tell()
        try:
            while line:  # a full disk takes what fits and complains at the next write
                line = line[self._file.write(line) :]
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(end)
            raise self._failure(error) from error

    def close(self) -> None:
        """Close the file; the rows are there already."""
        self._file.close()

    def _keep_until(self, last_step: int) -> None:
        """Drop the rows after `last_step`."""
        if not self._path.exists():
            return
        old = self._path.read_bytes()
        replace_file(self._path, b"".join(_encode(row) for row in _rows(old, self._path) if row["step"] <= last_step))

    def _failure(self, error: OSError) -> StorageError:
        return StorageError(f"cannot write metrics {self._path}: {error.strerror or error}")


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a metrics file, oldest first; a last line that is not yet whole is left out.

    Returns:
        Dictionaries with kind, epoch, step and the row's values; a value that was not finite is None.

    Raises:
        RunError: the file cannot be read, or a line in it is not a row.
    """
    path = Path(path)
    try:
        return _rows(path.read_bytes(), path)
    except FileNotFoundError:
        raise RunError(f"no metrics at {path}") from None
    except OSError as error:
        raise RunError(f"cannot read metrics {path}: {error.strerror or error}") from error


def epoch_rows(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns the rows of the epochs that ended and whose ELBO is finite; each one's kind is the split that was scored.

    That is the validation split where the data set has one, else the test split.
    """
    return [dict(row) for row in rows if row["kind"] in EPOCH_KINDS and row.get("elbo") is not None]


def _rows(content: bytes, path: Path) -> list[dict[str, Any]]:
    *lines, _torn = content.split(b"\n")  # a row ends with its newline: what follows the last one is no row
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not _is_row(row):
            raise RunError(f"{path} line {number} is not a row of metrics; delete that line to go on")
        rows.append(row)
    return rows


def _is_row(row: Any) -> bool:
    """Whether it is what `MetricsLog` writes: a kind, where it was, and numbers."""
    return (
        isinstance(row, dict)
        and isinstance(row.get("kind"), str)
        and all(type(row.get(key)) is int for key in ("epoch", "step"))
        and all(value is None or isinstance(value, int | float) for key, value in row.items() if key != "kind")
    )


def _encode(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, allow_nan=False).encode() + b"\n"


def _number(value: float) -> int | float | None:
    """A plain number that reads back as the same; None for what JSON cannot say."""
    if isinstance(value, int):
        return value
    value = float(value)  # NumPy's scalars are not JSON's
    return value if math.isfinite(value) else None
