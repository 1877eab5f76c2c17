"""Channel between a run's workers and the command that started it; an actor, so that neither side has to poll."""

import asyncio
import threading
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vaedist.errors import VaedistError
from vaedist.monitor.events import Event, Notice, Saved


class Channel:
    """Actor that passes events to the command, and requests to stop and to save to the workers.

    It also keeps the first final error, after which a restart of the workers would only fail again.
    """

    def __init__(self) -> None:
        self._events: asyncio.Queue[Any] = asyncio.Queue()
        self._stop = asyncio.Event()
        self._error: VaedistError | None = None
        self._group: str | None = None
        self._checkpoint: int | None = None
        self._save, self._saved = asyncio.Event(), asyncio.Event()

    async def listen_to(self, group: str) -> None:
        """Accepts only events of this worker group from now on, as those of an earlier group may arrive late."""
        self._group = group
        self._save, self._saved = asyncio.Event(), asyncio.Event()

    async def put(self, event: Any, group: str | None = None) -> None:
        """Queues an event of a worker group, or of the command itself, for the command."""
        if group in (None, self._group):
            await self._events.put(event)
            if isinstance(event, Saved):
                self._checkpoint = event.step
                if event.asked and self._save.is_set():
                    self._saved.set()

    async def tell(self, text: str) -> None:
        """Queues a notice for the user, unless a final error has ended the run."""
        if self._error is None:
            await self._events.put(Notice(text))

    async def get(self) -> Any:
        """Returns the next event, as soon as there is one."""
        return await self._events.get()

    async def request_stop(self) -> None:
        """Asks the workers to stop."""
        self._stop.set()

    async def stop_requested(self) -> bool:
        """Returns True once a stop is requested."""
        return await self._stop.wait()

    async def save(self) -> None:
        """Requests a checkpoint of the current group, and returns when it is committed."""
        self._save.set()
        await self._saved.wait()

    async def save_requested(self) -> bool:
        """Returns True once a checkpoint of the current group is requested."""
        return await self._save.wait()

    async def checkpoint(self) -> int | None:
        """Returns the step of the newest checkpoint committed since the command started, None if there is none."""
        return self._checkpoint

    async def fail(self, error: VaedistError, group: str) -> None:
        """Keeps the first final error of the current group."""
        if group == self._group:
            self._error = self._error or error

    async def error(self) -> VaedistError | None:
        """Returns the final error, None if there is none."""
        return self._error


def open_channel() -> Any:
    """Starts the channel's actor, on the caller's node."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    # Waiting calls of the command and of each worker count towards max_concurrency. With task events, Ray's head would
    # keep 5 KB for each of the last 100,000 calls.
    return (
        ray.remote(Channel)
        .options(num_cpus=0, max_concurrency=10_000, scheduling_strategy=here, enable_task_events=False)
        .remote()
    )


class StopRequest:
    """Request to stop, which any thread of the command can make, even before the channel exists."""

    def __init__(self) -> None:
        self._lock, self._made, self._by_hand = threading.Lock(), False, False
        self._channel: Any = None

    @property
    def by_hand(self) -> bool:
        """True if Ctrl-C made the request."""
        return self._by_hand

    def attach(self, channel: Any) -> None:
        """Sets the channel for the request, and sends a request that was made before."""
        with self._lock:
            self._channel = channel
            if self._made:
                channel.request_stop.remote()

    def make(self) -> None:
        """Asks the workers to stop; does not wait."""
        with self._lock:
            self._made = True
            if self._channel is not None:
                self._channel.request_stop.remote()

    def interrupt(self) -> None:
        """Asks the workers to stop, on Ctrl-C."""
        self._by_hand = True
        self.make()


class WorkerLine:
    """A worker's end of the channel.

    Args:
        channel: the run's channel.
        group: name of the worker's group.
    """

    def __init__(self, channel: Any, group: str) -> None:
        self._channel, self._group = channel, group
        self._stop, self._save = channel.stop_requested.remote(), channel.save_requested.remote()

    def notify(self, event: Event) -> None:
        """Sends an event; does not wait."""
        self._channel.put.remote(event, self._group)

    def should_stop(self) -> bool:
        """Returns True once a stop was requested; does not wait."""
        ready, _ = ray.wait([self._stop], timeout=0)
        return bool(ready)

    def should_save(self) -> bool:
        """Returns True if a checkpoint was requested, but only once; does not wait."""
        if self._save is None or not ray.wait([self._save], timeout=0)[0]:
            return False
        self._save = None
        return True

    def fail(self, error: VaedistError) -> None:
        """Reports a final error; waits until the channel has it."""
        ray.get(self._channel.fail.remote(error, self._group))

    def given_up(self) -> bool:
        """Returns True if a worker has reported a final error."""
        return ray.get(self._channel.error.remote()) is not None
