"""Timing: tasks done in turn, round after round, so that a machine that slows down slows down all of them."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vaedist.bench.record import Measure

ROUND_SECONDS = 0.5  # of a task in each round, about


@dataclass(frozen=True)
class Task:
    """Something to be timed.

    Attributes:
        run: does it, and returns when it is done.
        amount: how much of it that is, in the unit's numerator.
        unit: of the rate, as in "images/s".
    """

    run: Callable[[], Any]
    amount: float
    unit: str


def in_turn(
    tasks: Mapping[str, Task], rounds: int, progress: Callable[[str], None] = lambda _: None
) -> dict[str, Measure]:
    """The rate of each task, in each of some rounds.

    Args:
        tasks: by name. Each is run twice before, uncounted: the first time it may have to be compiled.
        rounds: how many.
        progress: told what is being done.
    """
    calls = {}
    for name, task in tasks.items():
        progress(f"preparing: {name}")
        task.run()
        calls[name] = max(1, round(ROUND_SECONDS / _seconds(task, 1)))
    samples: dict[str, list[float]] = {name: [] for name in tasks}
    for number in range(1, rounds + 1):
        for name, task in tasks.items():
            progress(f"round {number} of {rounds}: {name}")
            samples[name].append(task.amount * calls[name] / _seconds(task, calls[name]))
    return {name: Measure(task.unit, tuple(samples[name])) for name, task in tasks.items()}


def _seconds(task: Task, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        task.run()
    return time.perf_counter() - start
