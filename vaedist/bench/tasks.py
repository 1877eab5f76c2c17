"""Timing of tasks, which alternate in each round, so that a slower phase of the machine affects all of them."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vaedist.bench.record import Measure

ROUND_SECONDS = 0.5  # approximate time of a task in each round


@dataclass(frozen=True)
class Task:
    """A task to time.

    Attributes:
        run: runs the task once; returns when it has finished.
        amount: amount of work of one run, in the numerator of the unit.
        unit: unit of the rate, such as "images/s".
    """

    run: Callable[[], Any]
    amount: float
    unit: str


def in_turn(
    tasks: Mapping[str, Task], rounds: int, progress: Callable[[str], None] = lambda _: None
) -> dict[str, Measure]:
    """Measures the rate of each task in each round.

    Args:
        tasks: tasks by name. Each is first run twice for warm-up, as the first run may compile it.
        rounds: number of rounds.
        progress: called with a description of each step.
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
