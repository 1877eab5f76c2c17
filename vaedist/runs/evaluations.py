"""Evaluations in a run's folder: a JSON file each, and what TensorBoard shows of them."""

import json
import math
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import numpy as np

from vaedist.errors import StorageError
from vaedist.files import replace_file
from vaedist.monitor.tensorboard import TensorBoardWriter
from vaedist.runs.folder import RunFolder
from vaedist.storage.transfer import Store


def save_evaluation(folder: RunFolder, name: str, step: int, record: Mapping[str, Any]) -> Path:
    """Keep an evaluation, in the place of an earlier one of that name and step.

    TensorBoard gets a run of its own beside the training's, evaluation/NAME, with a point for each step that was
    evaluated under that name; it is written anew from the files, so that no point stands twice.

    Args:
        folder: of the run.
        name: tells evaluations of another kind apart: the split, the number of samples.
        step: of the checkpoint.
        record: as `Evaluation.to_dict` gives it, and what else is to be told.

    Returns:
        the file.

    Raises:
        StorageError: it cannot be written.
    """
    path, board = folder.evaluations / f"{name}-step-{step:09d}.json", folder.tensorboard / "evaluation" / name
    try:
        before = _pull(folder, board) if folder.uri else set()
        replace_file(path, json.dumps(finite(record), indent=1, allow_nan=False) + "\n")
        _show(folder, name, board, {Path(events).name for events in before})
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
    if folder.uri:
        _push(folder, path, board, before)
    return path


def _pull(folder: RunFolder, board: Path) -> set[str]:
    """Have the evaluations that a store holds; returns the files of TensorBoard's events that it has for a name."""
    store = Store(folder.uri)
    known = store.files(folder.evaluations.name)
    store.pull(folder.path, known, known)
    return set(store.files(board.relative_to(folder.path).as_posix()))


def _push(folder: RunFolder, evaluation: Path, board: Path, before: Set[str]) -> None:
    """Bring an evaluation to the store, and TensorBoard's events of its name in the place of those before."""
    store, local = Store(folder.uri), folder.path
    new = {path.relative_to(local).as_posix() for path in board.iterdir()}
    for name in (evaluation.relative_to(local).as_posix(), *new):
        store.upload(local / name, name)
    for name in before - new:
        store.remove(name)


def _show(folder: RunFolder, name: str, board: Path, on_store: Set[str]) -> None:
    """Write TensorBoard's events of all evaluations of a name, and remove those written before."""
    before = list(board.glob("events*"))
    writer = TensorBoardWriter(board, purge_step=None, after=on_store)
    for path in sorted(folder.evaluations.glob(f"{name}-step-*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        writer.scalars(record["step"], {f"evaluation/{tag}": value for tag, value in _scalars(record).items()})
        writer.histogram("evaluation/kl_per_unit", record["step"], np.array(record["kl_per_unit"]))
    writer.close()
    for path in before:
        path.unlink()


def _scalars(record: Mapping[str, Any]) -> dict[str, float]:
    values = {f"bound_{int(k):05d}": bound["mean"] for k, bound in record["bounds"].items()}
    for name in ("gap", "reconstruction", "kl", "effective_sample_size"):
        values[name] = record[name]["mean"]
    if record.get("rise"):  # files of earlier versions have none of these
        values["rise"] = record["rise"]["mean"]
    for k, error in record.get("monte_carlo_errors", {}).items():
        if error is not None:
            values[f"monte_carlo_error_{int(k):05d}"] = error
    if record["active_units"] is not None:
        values["active_units"] = record["active_units"]
    for k, bits in (record["bits_per_dim"] or {}).items():
        values[f"bits_per_dim_{int(k):05d}"] = bits["mean"]
    return values


def finite(value: Any) -> Any:
    """With None for what JSON cannot say: the standard error of one image."""
    if isinstance(value, Mapping):
        return {str(key): finite(below) for key, below in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
