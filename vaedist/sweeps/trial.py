"""A trial of a sweep: its parameters, its state, and the scores of its epochs."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from vaedist.config import Value
from vaedist.errors import RunError
from vaedist.monitor.metrics import epoch_rows, read_metrics
from vaedist.monitor.sweep_events import State
from vaedist.runs.folder import RunFolder


@dataclass(frozen=True)
class Epoch:
    """What the images of `split` scored after an epoch of a trial; elbo and importance_bound in nats an image."""

    epoch: int
    step: int
    elbo: float
    importance_bound: float | None = None
    bits_per_dim: float | None = None
    split: str = "test"


@dataclass(frozen=True)
class Trial:
    """One trial of a sweep, as its log and its run tell it.

    Attributes:
        number: from 0.
        params: the values of the keys that are varied.
        run: its run folder, which is there once it began.
        state: how it went; "stopped" is by the scheduler.
        starts: how often it was started or gone on with.
        reason: why it failed.
        until: of its epochs, the last that is looked at; None looks at all that were made.
    """

    number: int
    params: Mapping[str, Value]
    run: RunFolder
    state: State = "open"
    starts: int = 0
    reason: str = ""
    until: int | None = None

    @property
    def name(self) -> str:
        """The name of its run."""
        return self.run.name

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of its run's metrics; none where they are missing or cannot be read, of which `fault` tells."""
        return [] if self.fault else self._read_rows()

    @cached_property
    def fault(self) -> str:
        """What is wrong with its run's metrics; empty if nothing is."""
        try:
            self._read_rows()
        except RunError as error:
            return str(error)
        return ""

    def _read_rows(self) -> list[dict[str, Any]]:
        return read_metrics(self.run.metrics) if os.path.lexists(self.run.metrics) else []

    @cached_property
    def epochs(self) -> tuple[Epoch, ...]:
        """What the epochs that it made scored; those that were not finite are left out."""
        return tuple(
            Epoch(
                row["epoch"], row["step"], row["elbo"], row.get("importance_bound"), row.get("bits_per_dim"),
                row["kind"],
            )
            for row in epoch_rows(self.rows)
            if self.until is None or row["epoch"] <= self.until
        )  # fmt: skip

    @property
    def split(self) -> str:
        """Whose images were scored after each epoch, "validation" or "test"; empty before the first has ended."""
        return self.epochs[-1].split if self.epochs else ""

    def best_epoch(self, metric: str, mode: str) -> Epoch | None:
        """The epoch that scored best of a metric; None where none was scored."""
        scored = [epoch for epoch in self.epochs if getattr(epoch, metric) is not None]
        return (max if mode == "max" else min)(scored, key=lambda epoch: getattr(epoch, metric), default=None)

    def best(self, metric: str, mode: str) -> float | None:
        """What its best epoch scored of a metric; None where none was scored."""
        epoch = self.best_epoch(metric, mode)
        return None if epoch is None else getattr(epoch, metric)
