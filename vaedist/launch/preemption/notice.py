"""Preemption notices in a worker, and the times to save at."""

import time
from collections.abc import Callable
from datetime import datetime

from vaedist.launch.ray_internals import preemption_notice

MARGIN_SECONDS = 10.0  # before a preemption, for writing the last checkpoint


def announced() -> float | None:
    """Returns, in a worker, the UNIX time at which a machine of its group is preempted; 0 if unknown, None if never."""
    info = preemption_notice()
    return None if info is None else (info.deadline_ms or 0) / 1000


class Preemption:
    """Decides, on rank 0, when to save because machines of the group will be preempted.

    Args:
        notify: called with a notice for the user.
        deadline: returns the time of the preemption, as `announced` does.
        now: returns the UNIX time; called only when a preemption is announced, as the clock may be set later.
        clock: returns seconds of a monotonic clock.
    """

    def __init__(
        self,
        notify: Callable[[str], None],
        deadline: Callable[[], float | None] = announced,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._notify, self._deadline, self._now, self._clock = notify, deadline, now, clock
        self._told: float | None = None
        self._last = 0.0  # time of the last checkpoint, by `clock`
        self._saved_last = False

    def save_now(self) -> bool:
        """Returns True once when a preemption is announced, and once shortly before its deadline."""
        deadline = self._deadline()
        if deadline is None:
            return False
        announced = deadline != self._told
        if announced:
            self._last = self._clock() + deadline - self._now() - MARGIN_SECONDS
            self._told, self._saved_last = deadline, False
            when = f" at {datetime.fromtimestamp(deadline):%H:%M:%S}" if deadline else ""
            self._notify(f"a machine of this run will be preempted{when}: saving a checkpoint, to continue without it")
        last = deadline > 0 and self._clock() >= self._last
        save = announced or (last and not self._saved_last)
        self._saved_last = self._saved_last or last
        return save
