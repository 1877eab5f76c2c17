"""Supervises the worker groups of a run: reports why one ends, saves before a resize, limits the failures."""

import time
from contextlib import suppress
from typing import Any

import ray

from vaedist.errors import WorkerError
from vaedist.launch.training.failure_budget import FailureBudget

ANSWER_SECONDS = 10.0  # for the command to answer
SAVE_SECONDS = 120.0  # for a checkpoint before a resize; without it the next group resumes from the one before


class GroupSupervisor:
    """Listens to Ray Train in the process of a run's controller; see `GroupListener`.

    Ray Train's own limit on failures is one number for the whole run, however long, so it is disabled.

    Args:
        channel: the run's.
        budget: of failures; a preemption is none.
    """

    def __init__(self, channel: Any, budget: FailureBudget) -> None:
        self._channel, self._budget = channel, budget

    def group_preempted(self) -> None:
        """Tells the user that the next group starts without the machines that were preempted."""
        self._channel.tell.remote("the machines that were to be taken away are left: starting again without them")

    def group_failed(self, error: Exception) -> None:
        """Tells the user why a group failed.

        Raises:
            WorkerError: the budget is exhausted; Ray Train then ends the run.
        """
        reason = last_line(error)
        if fault := self._budget.fault(time.monotonic(), self._checkpoint()):
            raise WorkerError(f"{fault}; last: {reason}")
        self._channel.tell.remote(f"workers failed ({reason}): starting again from the newest checkpoint")

    def group_waits(self) -> None:
        """Tells the user that the next group finds no room."""
        self._channel.tell.remote("the cluster has no room for the workers yet: waiting for it")

    def group_resizes(self, workers: int) -> None:
        """Has the group commit a checkpoint before it is replaced by one of another size."""
        self._channel.tell.remote(f"resizing to {workers} workers: saving a checkpoint first")
        with suppress(ray.exceptions.RayError):  # it takes too long, or the command is gone
            ray.get(self._channel.save.remote(), timeout=SAVE_SECONDS)

    def _checkpoint(self) -> int | None:
        """Returns the step of the run's newest checkpoint, None if it is not known."""
        with suppress(ray.exceptions.RayError):  # the command is gone, and soon this process too
            return ray.get(self._channel.checkpoint.remote(), timeout=ANSWER_SECONDS)
        return None


def last_line(error: BaseException) -> str:
    """Returns the last line of an error's text: of a worker's traceback, the line that says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
