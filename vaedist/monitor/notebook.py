"""Progress of a run in the output of a notebook's cell."""

import html
import time
from collections.abc import Callable
from typing import Any

from vaedist.monitor.events import Event, Finished, Notice, Progress, Started, Tested, Waiting
from vaedist.monitor.terminal import COMPILING
from vaedist.monitor.text_plot import text_plot

REDRAW_SECONDS = 0.5


class NotebookProgress:
    """Shows a run's events below a notebook's cell; needs IPython.

    The output is updated in place: a progress bar, the newest means of training, a plot of the ELBO of each epoch's
    test, and notices.

    Args:
        clock: monotonic clock, in seconds.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._drawn = clock, float("-inf")
        self._display: Any = None
        self._status = ""
        self._started: Started | None = None
        self._step = 0
        self._tests: dict[int, Tested] = {}
        self._notices: list[str] = []

    def __call__(self, event: Event) -> None:
        """Shows an event."""
        match event:
            case Waiting():
                self._status = event.text
            case Started():
                self._started, self._step, self._status = event, event.start_step, COMPILING
            case Progress():
                self._step = event.step
                self._status = f"ELBO {event.elbo:.1f} nats per image, {event.images_per_second:,.0f} images/s"
            case Tested():
                self._step = event.step
                self._tests[event.epoch] = event
            case Notice():
                self._notices.append(event.text)
            case Finished():
                self._step = event.step
                self._status = f"finished: {event.split} ELBO {event.elbo:.1f} nats per image"
        if not isinstance(event, Progress) or self._clock() >= self._drawn + REDRAW_SECONDS:
            self._draw()

    def _draw(self) -> None:
        from IPython.display import display

        self._drawn = self._clock()
        if self._display is None:
            self._display = display(self._view(), display_id=True)
        else:
            self._display.update(self._view())

    def _view(self) -> "_View":
        below = list(self._notices)
        if len(self._tests) > 1:
            tests = [self._tests[epoch] for epoch in sorted(self._tests)]
            title = f"{tests[-1].split} ELBO, nats per image"
            below += text_plot(title, [one.epoch for one in tests], [one.elbo for one in tests], unit="epoch")
        if self._started is None:
            return _View(self._status, None, below)
        per_epoch, epochs = self._started.steps_per_epoch, self._started.epochs
        epoch = min(self._step // per_epoch + 1, epochs)
        at = f"run {self._started.run}, epoch {epoch}/{epochs}, step {self._step}/{epochs * per_epoch}"
        return _View(f"{at}: {self._status}", self._step / (epochs * per_epoch), below)


class _View:
    """Displayed progress, as text and as HTML.

    Args:
        headline: the first line.
        share: share of the work that is done, 0 to 1; None without a bar.
        below: further lines.
    """

    def __init__(self, headline: str, share: float | None, below: list[str]) -> None:
        self._headline, self._share, self._below = headline, share, below

    def __repr__(self) -> str:
        return "\n".join([self._headline, *self._below])

    def _repr_html_(self) -> str:
        bar = "" if self._share is None else f'<progress value="{self._share:.4f}" max="1"></progress> '
        lines = f"<pre>{html.escape(chr(10).join(self._below))}</pre>" if self._below else ""
        return f"<div>{bar}{html.escape(self._headline)}</div>{lines}"
