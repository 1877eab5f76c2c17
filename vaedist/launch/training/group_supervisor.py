"""Supervision of a run's worker groups: reports failures, limits their number, and saves before a resize."""

import time
from contextlib import suppress
from typing import Any

import ray

from vaedist.errors import WorkerError
from vaedist.launch.training.failure_budget import FailureBudget

ANSWER_SECONDS = 10.0  # for the command to answer
SAVE_SECONDS = 120.0  # for a checkpoint before a resize; without one, the next group resumes from an older checkpoint


class GroupSupervisor:
    """Listener of Ray Train in the process of a run's controller, see `GroupListener`.

    Ray Train's own limit on failures is disabled, as it is one number for the whole run, however long.

    Args:
        channel: the run's channel.
        budget: the failure budget; preemptions do not count.
    """

    def __init__(self, channel: Any, budget: FailureBudget) -> None:
        self._channel, self._budget = channel, budget

    def group_preempted(self) -> None:
        """Tells the user that the next group starts without the machines that were preempted."""
        self._channel.tell.remote("the run has left the preempted machines: restarting without them")

    def group_failed(self, error: Exception) -> None:
        """Tells the user why a group failed.

        Raises:
            WorkerError: the budget is exhausted; Ray Train then ends the run.
        """
        reason = last_line(error)
        if fault := self._budget.fault(time.monotonic(), self._checkpoint()):
            raise WorkerError(f"{fault}; last: {reason}")
        self._channel.tell.remote(f"workers failed ({reason}): restarting from the newest checkpoint")

    def group_waits(self) -> None:
        """Tells the user that the cluster has no room for the next group."""
        self._channel.tell.remote("the cluster has no room for the workers: waiting for resources")

    def group_resizes(self, workers: int) -> None:
        """Makes the group commit a checkpoint before it is replaced by one of another size."""
        self._channel.tell.remote(f"resizing to {workers} workers: saving a checkpoint first")
        with suppress(ray.exceptions.RayError):  # it takes too long, or the command is gone
            ray.get(self._channel.save.remote(), timeout=SAVE_SECONDS)

    def _checkpoint(self) -> int | None:
        """Returns the step of the run's newest checkpoint, None if it is unknown."""
        with suppress(ray.exceptions.RayError):  # the command is gone, and this process will end soon
            return ray.get(self._channel.checkpoint.remote(), timeout=ANSWER_SECONDS)
        return None


def last_line(error: BaseException) -> str:
    """Returns the last line of an error's text; for a worker's traceback, this is the line with the error message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
