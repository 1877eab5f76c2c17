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
    """Scores on the images of `split` after an epoch of a trial; elbo and importance_bound are in nats per image."""

    epoch: int
    step: int
    elbo: float
    importance_bound: float | None = None
    bits_per_dim: float | None = None
    split: str = "test"


@dataclass(frozen=True)
class Trial:
    """Trial of a sweep, from its log and its run.

    Attributes:
        number: number of the trial, counted from 0.
        params: values of the varied keys.
        run: its run folder, which exists once the trial has started.
        state: its state; "stopped" means stopped by the scheduler.
        starts: number of times that it was started or resumed.
        reason: reason of its failure.
        until: last epoch that counts, which is the one after which the scheduler stopped the trial, whose process may
            have trained on for some time; None counts all.
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
        """Name of its run."""
        return self.run.name

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """Rows of its run's metrics; empty if they are missing or cannot be read, see `fault`."""
        return [] if self.fault else self._read_rows()

    @cached_property
    def fault(self) -> str:
        """Error message if its run's metrics cannot be read, else empty."""
        try:
            self._read_rows()
        except RunError as error:
            return str(error)
        return ""

    def _read_rows(self) -> list[dict[str, Any]]:
        return read_metrics(self.run.metrics) if os.path.lexists(self.run.metrics) else []

    @cached_property
    def epochs(self) -> tuple[Epoch, ...]:
        """Scores of its completed epochs, without those that are not finite."""
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
        """Split that is scored after each epoch, "validation" or "test"; empty before the end of the first epoch."""
        return self.epochs[-1].split if self.epochs else ""

    def best_epoch(self, metric: str, mode: str) -> Epoch | None:
        """Returns the epoch with the best value of a metric; None if no epoch has one."""
        scored = [epoch for epoch in self.epochs if getattr(epoch, metric) is not None]
        return (max if mode == "max" else min)(scored, key=lambda epoch: getattr(epoch, metric), default=None)

    def best(self, metric: str, mode: str) -> float | None:
        """Returns the best value of a metric over the epochs; None if no epoch has one."""
        epoch = self.best_epoch(metric, mode)
        return None if epoch is None else getattr(epoch, metric)
