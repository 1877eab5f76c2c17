"""Failure budget of a run, the number of failures of its workers within a time window."""


class FailureBudget:
    """Counts failures of a run's worker groups, and reports when there are too many.

    A failure counts for the length of the window, and at least until the next checkpoint is committed. Without the
    second rule, a run that fails at the same step every hour would be restarted forever.

    Args:
        most: number of failures that are allowed within the window.
        window_hours: length of the window; 0 counts all failures of the run.
    """

    def __init__(self, most: int, window_hours: float) -> None:
        self._most, self._hours = most, window_hours
        self._times: list[float] = []
        self._checkpoint: int | None = None

    def fault(self, now: float, checkpoint: int | None) -> str | None:
        """Counts a failure; returns an error message if the budget is exceeded, else None.

        Args:
            now: seconds of a monotonic clock.
            checkpoint: step of the newest checkpoint, None if there is none.
        """
        progressed = checkpoint is not None and (self._checkpoint is None or checkpoint > self._checkpoint)
        if progressed and self._hours:
            self._times = [time for time in self._times if now - time < self._hours * 3600]
        self._checkpoint = checkpoint if progressed else self._checkpoint
        self._times.append(now)
        if len(self._times) <= self._most:
            return None
        return f"the workers failed {self._count(now)}; scaling.max_failures = {self._most}{self._window()}"

    def _count(self, now: float) -> str:
        times = len(self._times)
        return "once" if times == 1 else f"{times} times within {_duration(now - self._times[0])}"

    def _window(self) -> str:
        return f" in scaling.failure_window_hours = {self._hours:g}" if self._hours else " in the whole run"


def _duration(seconds: float) -> str:
    """Returns a duration in words, such as "12 min"."""
    for unit, length in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
