"""The line between a run's workers and the command that started it: an actor, so that nobody has to poll."""

import asyncio
import threading
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vaedist.errors import VaedistError
from vaedist.monitor.events import Event, Notice, Saved


class Channel:
    """Events one way, wishes to stop and to save the other; and the one error that starting again would not mend."""

    def __init__(self) -> None:
        self._events: asyncio.Queue[Any] = asyncio.Queue()
        self._stop = asyncio.Event()
        self._error: VaedistError | None = None
        self._group: str | None = None
        self._checkpoint: int | None = None
        self._save, self._saved = asyncio.Event(), asyncio.Event()

    async def listen_to(self, group: str) -> None:
        """From now on only this group of workers is heard; what one that was given up says may come late."""
        self._group = group
        self._save, self._saved = asyncio.Event(), asyncio.Event()

    async def put(self, event: Any, group: str | None = None) -> None:
        """Queue an event for the command, of a group of workers or the command's own."""
        if group in (None, self._group):
            await self._events.put(event)
            if isinstance(event, Saved):
                self._checkpoint = event.step
                if event.asked and self._save.is_set():
                    self._saved.set()

    async def tell(self, text: str) -> None:
        """Queue a notice of how the run goes on, unless it does not: an error is final."""
        if self._error is None:
            await self._events.put(Notice(text))

    async def get(self) -> Any:
        """The next event, as soon as there is one."""
        return await self._events.get()

    async def request_stop(self) -> None:
        """Ask the workers to stop."""
        self._stop.set()

    async def stop_requested(self) -> bool:
        """Returns once somebody asks to stop."""
        return await self._stop.wait()

    async def save(self) -> None:
        """Ask the group that trains for a checkpoint; returns when it is committed."""
        self._save.set()
        await self._saved.wait()

    async def save_requested(self) -> bool:
        """Returns once somebody asks the group that trains now for a checkpoint."""
        return await self._save.wait()

    async def checkpoint(self) -> int | None:
        """Step of the newest checkpoint that was committed since the command began, if there is one."""
        return self._checkpoint

    async def fail(self, error: VaedistError, group: str) -> None:
        """Keep the first error that is final."""
        if group == self._group:
            self._error = self._error or error

    async def error(self) -> VaedistError | None:
        """The error that is final, if there is one."""
        return self._error


def open_channel() -> Any:
    """Start the actor, on the caller's machine."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    # Every waiting call holds a place: the command's, and one a worker. Ray's head would remember each call, 5 KB for
    # the next 100,000 of them.
    return (
        ray.remote(Channel)
        .options(num_cpus=0, max_concurrency=10_000, scheduling_strategy=here, enable_task_events=False)
        .remote()
    )


class StopRequest:
    """A wish to stop, that any thread of the command's may have, also before there is a channel to send it through."""

    def __init__(self) -> None:
        self._lock, self._made, self._by_hand = threading.Lock(), False, False
        self._channel: Any = None

    @property
    def by_hand(self) -> bool:
        """Whether Ctrl-C ended the run."""
        return self._by_hand

    def attach(self, channel: Any) -> None:
        """Where to send it."""
        with self._lock:
            self._channel = channel
            if self._made:
                channel.request_stop.remote()

    def make(self) -> None:
        """Ask the workers to stop; does not wait."""
        with self._lock:
            self._made = True
            if self._channel is not None:
                self._channel.request_stop.remote()

    def interrupt(self) -> None:
        """Ask the workers to stop, as Ctrl-C does."""
        self._by_hand = True
        self.make()


class WorkerLine:
    """A worker's end of the channel, as one of a group."""

    def __init__(self, channel: Any, group: str) -> None:
        self._channel, self._group = channel, group
        self._stop, self._save = channel.stop_requested.remote(), channel.save_requested.remote()

    def notify(self, event: Event) -> None:
        """Send an event; does not wait."""
        self._channel.put.remote(event, self._group)

    def should_stop(self) -> bool:
        """Whether the command asked to stop; does not wait."""
        ready, _ = ray.wait([self._stop], timeout=0)
        return bool(ready)

    def should_save(self) -> bool:
        """Whether a checkpoint is asked for, told once; does not wait."""
        if self._save is None or not ray.wait([self._save], timeout=0)[0]:
            return False
        self._save = None
        return True

    def fail(self, error: VaedistError) -> None:
        """Report an error that is final; waits until it is heard."""
        ray.get(self._channel.fail.remote(error, self._group))

    def given_up(self) -> bool:
        """Whether a worker reported a final error before."""
        return ray.get(self._channel.error.remote()) is not None
