"""Evaluations in a run's folder, saved as JSON files and as TensorBoard curves."""

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


def save_evaluation(run: RunFolder, name: str, step: int, record: Mapping[str, Any]) -> Path:
    """Saves an evaluation, and replaces an earlier one of the same name and step.

    In TensorBoard, the evaluations of each name are a separate run, evaluation/NAME, with a point per evaluated step.
    Its events are rewritten from the JSON files, so that no point occurs twice.

    Args:
        run: the run's folder.
        name: kind of the evaluation: the split, the number of samples.
        step: step of the checkpoint.
        record: result of `Evaluation.to_dict`, with further entries.

    Returns:
        The path of the JSON file.

    Raises:
        StorageError: a file cannot be written.
    """
    path, board = run.evaluations / f"{name}-step-{step:09d}.json", run.tensorboard / "evaluation" / name
    store = run.store
    try:
        store.fetch(store.files(run.evaluations))
        before = {*store.files(board), *board.glob("events*")}
        replace_file(path, json.dumps(finite(record), indent=1, allow_nan=False) + "\n")
        _write_events(run, name, board, {events.name for events in before})
        after = set(board.iterdir()) - before
        store.push(path, *after)
        for events in before:
            store.remove(events)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def _write_events(run: RunFolder, name: str, board: Path, before: Set[str]) -> None:
    """Writes TensorBoard events of all evaluations of a name, into a file whose name sorts after those in `before`."""
    writer = TensorBoardWriter(board, purge_step=None, after=before)
    for path in sorted(run.evaluations.glob(f"{name}-step-*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        writer.scalars(record["step"], {f"evaluation/{tag}": value for tag, value in _scalars(record).items()})
        writer.histogram("evaluation/kl_per_unit", record["step"], np.array(record["kl_per_unit"]))
    writer.close()


def _scalars(record: Mapping[str, Any]) -> dict[str, float]:
    values = {f"bound_{int(k):05d}": bound["mean"] for k, bound in record["bounds"].items()}
    for name in ("gap", "reconstruction", "kl", "effective_sample_size"):
        values[name] = record[name]["mean"]
    if record.get("rise"):  # missing in files of earlier versions
        values["rise"] = record["rise"]["mean"]
    for k, error in record.get("monte_carlo_errors", {}).items():
        if error is not None:
            values[f"monte_carlo_error_{int(k):05d}"] = error
    if record["active_units"] is not None:
        values["active_units"] = record["active_units"]
    if record.get("active_channels"):  # missing in files of earlier versions
        values["active_channels"] = sum(record["active_channels"].values())
    by_layer = record.get("kl_by_layer", {})
    if len(by_layer) > 1:
        values |= {f"kl/{name}": kl["mean"] for name, kl in by_layer.items()}
    for k, bits in (record["bits_per_dim"] or {}).items():
        values[f"bits_per_dim_{int(k):05d}"] = bits["mean"]
    return values


def finite(value: Any) -> Any:
    """Returns a record with None for NaN and infinities, such as the standard error of one image."""
    if isinstance(value, Mapping):
        return {str(key): finite(below) for key, below in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
