"""Streaming of a job's log, with reconnection, until the job has ended or its cluster counts as lost."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

from vaedist.errors import ClusterError
from vaedist.launch.jobs.dashboard import Dashboard
from vaedist.launch.jobs.job import Job

RETRY_SECONDS = 1.0
QUIET_SECONDS = 30.0  # without new lines in the log, after which the dashboard is asked for the state of the job
# If the connection is refused, the machine is up, but no dashboard runs on it. A job's driver runs on the head too, so
# the job has ended with it. The minute allows for a tunnel that is being restarted.
GONE_SECONDS = 60.0
# No answer at all may mean a broken network or an overloaded machine, and the job may still be training.
SILENT_SECONDS = 600.0


def follow_log(dashboard: Dashboard, name: str, write: Callable[[str], None], notice: Callable[[str], None]) -> Job:
    """Streams a job's log until the job has ended, and returns the ended job.

    The log may end before the job, and a connection before either; it is then opened again.

    Args:
        dashboard: dashboard of the cluster.
        name: ID of the job.
        write: called with pieces of the log.
        notice: called when the connection is lost, and when it is restored.

    Raises:
        ClusterError: for `GONE_SECONDS` the connection was refused, or the dashboard had no such job or refused the
            token; or there was no answer for `SILENT_SECONDS`.
    """
    import aiohttp

    log, outage = _Log(write), _Outage(dashboard, name, notice)
    while True:
        try:
            asyncio.run(_tail(dashboard, name, log, outage))
            job = dashboard.info(name)
            if job.has_ended:
                log.add(0, dashboard.log(name))  # the lines between the last piece and the end
                return job
            outage.end()
        except _UnwritableError as error:
            raise error.reason from None
        except (ClusterError, OSError, RuntimeError, aiohttp.ClientError) as error:
            outage.note(error)
        time.sleep(RETRY_SECONDS)


class _UnwritableError(Exception):
    """Error when writing the log, as opposed to an error when reading it."""

    def __init__(self, reason: OSError) -> None:
        super().__init__(reason)
        self.reason = reason


class _Log:
    """Log that writes each character once, however often it is read from its beginning."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write, self._written = write, 0

    def add(self, start: int, text: str) -> int:
        """Writes the new part of a piece that begins at position `start`; returns the position of its end."""
        end = start + len(text)
        if end > self._written:
            try:
                self._write(text[max(0, self._written - start) :])
            except OSError as error:
                raise _UnwritableError(error) from error
            self._written = end
        return end


class _Outage:
    """Time since a job's dashboard last answered, and the reason if it is known."""

    def __init__(self, dashboard: Dashboard, name: str, notice: Callable[[str], None]) -> None:
        self._dashboard, self._name, self._notice = dashboard, name, notice
        self._told = False
        self.end()

    def end(self) -> None:
        """Notes that the dashboard answered."""
        if self._told:
            self._notice("reconnected")
        self._heard, self._told = time.monotonic(), False
        self._gone: float | None = None

    def note(self, error: Exception) -> None:
        """Notes that the dashboard did not answer.

        Raises:
            ClusterError: it has not answered for too long.
        """
        gone, now = self._dashboard.gone(self._name), time.monotonic()
        self._gone = None if gone is None else self._gone or now
        if self._gone is not None and now - self._gone >= GONE_SECONDS:
            raise ClusterError(
                f"lost job {self._name}: for {GONE_SECONDS:.0f} s {gone}; its cluster was stopped or replaced"
            ) from error
        if now - self._heard >= SILENT_SECONDS:
            raise ClusterError(
                f"lost job {self._name}: {self._dashboard.address} has not answered "
                f"for {SILENT_SECONDS / 60:.0f} minutes"
            ) from error
        if not self._told:
            self._notice(f"lost the connection to {self._dashboard.address}; the job is not affected: reconnecting")
        self._told = True


async def _tail(dashboard: Dashboard, name: str, log: _Log, outage: _Outage) -> None:
    """Streams the log until the connection breaks, the job has ended, or the dashboard no longer answers."""
    pieces, position = dashboard.pieces(name), 0
    coming = asyncio.ensure_future(anext(pieces))
    try:
        while True:
            await asyncio.wait([coming], timeout=QUIET_SECONDS)
            if not coming.done():
                if dashboard.info(name).has_ended:  # raises if the connection is dead
                    return
                outage.end()
                continue
            with suppress(StopAsyncIteration):
                position = log.add(position, coming.result())
                outage.end()
                coming = asyncio.ensure_future(anext(pieces))
                continue
            return
    finally:
        coming.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await coming
        await pieces.aclose()
