"""Sums of metrics over training steps, from which the logged rows are computed; saved with checkpoints."""

from collections.abc import Mapping, Sequence

import numpy as np


class MetricSums:
    """Sums of the columns of training steps since the last logged row, and since the start of the epoch.

    Args:
        names: names of the columns, "rows" first.
        saved: sums to continue from, as `state` returned them.
    """

    def __init__(self, names: Sequence[str], saved: Mapping[str, float] | None = None) -> None:
        self.names = tuple(names)
        saved = saved or {}
        self._row = np.array([saved.get(f"row.{name}", 0.0) for name in self.names])
        self._epoch = np.array([saved.get(f"epoch.{name}", 0.0) for name in self.names])

    def add(self, sums: np.ndarray) -> None:
        """Adds the sums of one step, [len(names)]."""
        self._row += sums
        self._epoch += sums

    def row(self) -> dict[str, float]:
        """Returns means over the images since the last call."""
        means, self._row = self._means(self._row), np.zeros_like(self._row)
        return means

    def epoch(self) -> dict[str, float]:
        """Returns means over the images of the epoch, which ends with this call."""
        means, self._epoch = self._means(self._epoch), np.zeros_like(self._epoch)
        return means

    def state(self) -> dict[str, float]:
        """Returns all sums, for a checkpoint."""
        pairs = (("row", self._row), ("epoch", self._epoch))
        return {
            f"{part}.{name}": float(value) for part, sums in pairs for name, value in zip(self.names, sums, strict=True)
        }

    def _means(self, sums: np.ndarray) -> dict[str, float]:
        rows = max(sums[0], 1.0)
        return {name: float(value / rows) for name, value in zip(self.names[1:], sums[1:], strict=True)}


class Stopwatch:
    """Time between two logged rows that was spent computing and waiting for input; other time is not counted."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Resets all times and counts."""
        self.images, self.steps, self.computing, self.waiting = 0.0, 0, 0.0, 0.0

    def add(self, images: float, computing: float, waiting: float) -> None:
        """Adds a step's images and seconds; the steps of one call get equal parts of its time."""
        self.images, self.steps = self.images + images, self.steps + 1
        self.computing, self.waiting = self.computing + computing, self.waiting + waiting

    def rates(self) -> dict[str, float]:
        """Returns images per second, seconds per step, and the share of the time spent waiting for input."""
        total = self.computing + self.waiting
        return {
            "images_per_second": self.images / total if total else 0.0,
            "step_seconds": total / self.steps if self.steps else 0.0,
            "input_wait": self.waiting / total if total else 0.0,
        }
