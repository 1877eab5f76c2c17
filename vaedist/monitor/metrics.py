"""Metrics of a run in metrics.jsonl: one JSON object per line, without duplicate rows after resuming."""

import json
import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeAlias

from vaedist.errors import RunError, StorageError
from vaedist.files import replace_file

Kind: TypeAlias = Literal["train", "test", "validation"]
"""Kind of a row: "train" for means over training steps, or the name of the split that was scored after an epoch."""

EPOCH_KINDS: tuple[Kind, ...] = ("test", "validation")


class MetricsLog:
    """Appends rows to a metrics file; readers may follow the file line by line.

    When a run is resumed from a checkpoint, later rows are dropped, as they will be written again. The file is
    replaced atomically, so that a crash loses no rows. It is replaced even if no row is dropped: a superseded worker
    that is still alive then writes to the old file, not to this one.

    Args:
        path: the file; missing folders are created.
        resume_step: step of the checkpoint from which the run is resumed; later rows and an incomplete last line are
            dropped. None for a new run drops all rows.

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
        """Writes one row: kind, epoch, step, then the values; NaN and infinities become null.

        Raises:
            StorageError: the row could not be written; a partial row is removed.
        """
        assert not {"kind", "epoch", "step"} & values.keys(), "the name of a value is a key of the row"
        row = {"kind": kind, "epoch": int(epoch), "step": int(step)}
        line = _encode(row | {name: _number(value) for name, value in values.items()})
        end = self._file.tell()
        try:
            while line:  # on a full disk a write is partial, and the next one raises an error
                line = line[self._file.write(line) :]
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(end)
            raise self._failure(error) from error

    def close(self) -> None:
        """Closes the file; all rows have been written before."""
        self._file.close()

    def _keep_until(self, last_step: int) -> None:
        """Drops the rows after `last_step`."""
        if not self._path.exists():
            return
        old = self._path.read_bytes()
        replace_file(self._path, b"".join(_encode(row) for row in _rows(old, self._path) if row["step"] <= last_step))

    def _failure(self, error: OSError) -> StorageError:
        return StorageError(f"cannot write metrics {self._path}: {error.strerror or error}")


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Returns the rows of a metrics file, oldest first, without an incomplete last line.

    Returns:
        Dictionaries of kind, epoch, step and the row's values; non-finite values are None.

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
    """Returns the rows of completed epochs whose ELBO is finite.

    The kind of each row is the scored split: "validation" if the data set has such a split, else "test".
    """
    return [dict(row) for row in rows if row["kind"] in EPOCH_KINDS and row.get("elbo") is not None]


def _rows(content: bytes, path: Path) -> list[dict[str, Any]]:
    *lines, _incomplete = content.split(b"\n")  # a row ends with a newline: text after the last one is not a row
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not _is_row(row):
            raise RunError(f"{path} line {number} is not a row of metrics; delete that line to continue")
        rows.append(row)
    return rows


def _is_row(row: Any) -> bool:
    """Returns True if a value has the structure of a row that `MetricsLog` writes."""
    return (
        isinstance(row, dict)
        and isinstance(row.get("kind"), str)
        and all(type(row.get(key)) is int for key in ("epoch", "step"))
        and all(value is None or isinstance(value, int | float) for key, value in row.items() if key != "kind")
    )


def _encode(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, allow_nan=False).encode() + b"\n"


def _number(value: float) -> int | float | None:
    """Returns a value as a JSON number; None for NaN and infinities."""
    if isinstance(value, int):
        return value
    value = float(value)  # json cannot encode NumPy scalars
    return value if math.isfinite(value) else None
