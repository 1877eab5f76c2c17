"""Watching of a cloud's metadata service, and draining of this machine's Ray node on a preemption notice."""

import threading
import time
from collections.abc import Callable
from datetime import datetime

from vaedist.errors import ClusterError
from vaedist.launch.preemption.clouds import Announcement, Cloud, find_cloud

FIND_TRIES, FIND_PAUSE_SECONDS = 3, 2.0  # the service may start late when a machine boots
EARLIER_SECONDS = 1.0  # by which the deadline of a new notice must be earlier
DRAIN_PAUSE_SECONDS = 1.0  # between two attempts to drain, as there is little time


def find_patiently(name: str, url: str, *, forever: bool, interval: float, stop: threading.Event) -> Cloud | None:
    """Returns the metadata service of a cloud, or None if it does not answer.

    Args:
        name: name of the cloud, or "auto".
        url: URL of the service.
        forever: keep trying until it answers or `stop` is set.
        interval: seconds between two attempts if `forever`.
        stop: ends the waiting.
    """
    tries = 0
    while not stop.is_set():
        if cloud := find_cloud(name, url):
            return cloud
        tries += 1
        if not forever and tries == FIND_TRIES:
            break
        stop.wait(interval if forever else FIND_PAUSE_SECONDS)
    return None


class Watcher:
    """Polls a metadata service, and drains the node once for each notice.

    Args:
        cloud: the service.
        drain: announces the preemption of this node to Ray; raises `ClusterError` on failure.
        notify: called with lines for the log.
        interval: seconds between two requests.
        check: raises `ClusterError` if a notice could not be passed on to Ray. It is called until it succeeds, so that
            the log shows a problem before there is a notice.
        now: returns the UNIX time.
    """

    def __init__(
        self,
        cloud: Cloud,
        drain: Callable[[Announcement], object],
        notify: Callable[[str], None],
        *,
        interval: float,
        check: Callable[[], object] = lambda: None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._cloud, self._drain, self._notify, self._interval, self._now = cloud, drain, notify, interval, now
        self._check: Callable[[], object] | None = check
        self._drained_until: float | None = None
        self._silent = self._undrained = self._unknown = False

    def run(self, stop: threading.Event) -> None:
        """Watches until `stop` is set."""
        while not stop.is_set():
            began = time.monotonic()
            pause = self.look()
            stop.wait(max(0.0, pause - (time.monotonic() - began)))

    def look(self) -> float:
        """Asks the service once, drains on a new notice, and returns the seconds until the next request."""
        try:
            notice = self._cloud.announcement(self._pause())
        except ClusterError as error:
            if not self._silent:
                self._notify(f"{error}; trying again every {self._interval:g} s")
            self._silent = True
            return self._interval
        if self._silent:
            self._notify("the metadata service answers again")
            self._silent = False
        if notice is None or not self._is_news(notice):
            self._check_ray()
            return self._interval
        self._announce(notice)
        return self._pause()

    def _pause(self) -> float:
        """Returns the seconds between two requests, which are few while a notice has not been passed on to Ray."""
        return min(self._interval, DRAIN_PAUSE_SECONDS) if self._undrained else self._interval

    def _check_ray(self) -> None:
        """Logs once if a notice could not be passed on to Ray, and once when it can."""
        if self._check is None:
            return
        try:
            self._check()
        except ClusterError as error:
            if not self._unknown:
                self._notify(f"a preemption notice could not be passed on yet: {error}")
            self._unknown = True
            return
        if self._unknown:
            self._notify("the Ray cluster knows this machine now")
        self._check = None

    def _is_news(self, notice: Announcement) -> bool:
        return self._drained_until is None or notice.deadline < self._drained_until - EARLIER_SECONDS

    def _announce(self, notice: Announcement) -> None:
        """Drains the node, and logs the outcome."""
        left = notice.deadline - self._now()
        try:
            self._drain(notice)
        except ClusterError as error:
            if not self._undrained:
                self._notify(f"{notice.reason}, but Ray cannot be notified: {error}; trying again")
            self._undrained = True
            return
        self._drained_until, self._undrained = notice.deadline, False
        when = f"{datetime.fromtimestamp(notice.deadline):%H:%M:%S}"
        self._notify(f"{notice.reason} at {when}, in {left:.0f} s: this node is draining")
