"""Machines that are to be taken away: Ray tells the workers on them until when they have time to save."""

import time
from collections.abc import Callable
from datetime import datetime

from vaedist.launch.ray_internals import preemption_notice

MARGIN_SECONDS = 10.0  # before a machine is taken away, for the last checkpoint to be written


def announced() -> float | None:
    """Returns, in a worker, when a machine of its group is taken away, as UNIX time: 0 if unknown, None if none is."""
    info = preemption_notice()
    return None if info is None else (info.deadline_ms or 0) / 1000


class Preemption:
    """In the first worker: whether to save because machines of its group are to be taken away.

    Args:
        notify: told of it.
        deadline: as `announced`.
        now: UNIX time; asked when machines are announced to go, as the clock may be set before they do.
        clock: seconds that never run backwards.
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
        self._last = 0.0  # by `clock`, when to save for the last time
        self._saved_last = False

    def save_now(self) -> bool:
        """Asked again and again: true once when machines are announced to go, and once shortly before they do."""
        deadline = self._deadline()
        if deadline is None:
            return False
        announced = deadline != self._told
        if announced:
            self._last = self._clock() + deadline - self._now() - MARGIN_SECONDS
            self._told, self._saved_last = deadline, False
            when = f" at {datetime.fromtimestamp(deadline):%H:%M:%S}" if deadline else ""
            self._notify(f"a machine of this run will be taken away{when}: saving, to go on without it")
        last = deadline > 0 and self._clock() >= self._last
        save = announced or (last and not self._saved_last)
        self._saved_last = self._saved_last or last
        return save
