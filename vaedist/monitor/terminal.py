"""Progress of a run: a live bar on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress import (
    BarColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.spinner import Spinner
from rich.text import Text

from vaedist.monitor.events import Event, Finished, Notice, Progress, Saved, Started, Tested, Waiting
from vaedist.monitor.lossy_stream import lossy
from vaedist.wording import counted

LINE_SECONDS = 10.0  # minimum time between two progress lines if there is no bar
COMPILING = "compiling the training step, which takes seconds, or minutes for deep models"
SPEED_SECONDS = 600.0  # window from which the remaining time is estimated, including test passes


class Terminal:
    """Shows a run's events; a context manager that restores the terminal at the end.

    On an interactive console, a spinner is shown until the run starts, and then a progress bar over all steps, with
    permanent lines above it. rich does not redirect stdout and stderr, so that Ray's messages go where the caller sends
    them. Elsewhere (a file, a pipe), plain lines without control characters are printed: one per epoch, and a progress
    line per tenth of an epoch, at most every ten seconds.

    Output that cannot be written, for example to a closed pipe, is dropped, and does not end the run.

    Args:
        console: console to write to.
        clock: monotonic clock, in seconds.
    """

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        console.file = lossy(console.file)
        self._console = console
        self._clock = clock
        self._live = console.is_interactive
        self._spinner: Live | None = None
        self._bar: _RunBar | None = None
        self._started: Started | None = None
        self._status = self._saved = ""
        self._next_line = (0, float("-inf"))  # tenth of an epoch and time before which no progress line is printed

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def status(self, text: str) -> None:
        """Shows the reason for waiting, until the next call or until the run starts."""
        if text == self._status:
            return
        self._stop()
        self._status = text
        if self._live:
            spinner = Spinner("dots", text=_plain(text))
            self._spinner = Live(
                spinner,
                console=self._console,
                transient=True,
                refresh_per_second=12.5,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._spinner.start()
        else:
            self._line(text)

    def show(self, event: Event) -> None:
        """Shows one event."""
        match event:
            case Waiting():
                self.status(event.text)
            case Started():
                self._start(event)
            case Progress():
                self._progress(event)
            case Tested():
                bits = "" if event.bits_per_dim is None else f"  {event.bits_per_dim:.3f} bits/dim"
                best = "  best" if event.best else ""
                self._line(f"{self._epoch(event.epoch)}  {event.split} {_elbo(event)}{bits}{best}")
            case Saved():
                self._saved = f"  saved step {event.step}"  # too frequent for a line of its own
            case Notice():
                self._line(event.text)
            case Finished():
                self._stop()
                self._line(f"finished after step {event.step}: {event.split} ELBO {event.elbo:.1f}")

    def _start(self, event: Started) -> None:
        self._stop()
        self._started, self._saved = event, ""
        self._next_line = (0, float("-inf"))
        resumed = f", resumed at step {event.start_step}" if event.start_step else ""
        self._line(
            f"run {event.run}: {counted(event.workers, 'worker')}, {counted(event.devices, 'device')}, "
            f"{event.train_rows:,} images, {event.parameters:,} parameters{resumed}"
        )
        total = event.epochs * event.steps_per_epoch
        self._bar = _RunBar(self._console, self._clock, total, event.start_step)
        if self._live:
            first_epoch = min(event.start_step // event.steps_per_epoch + 1, event.epochs)
            self._bar.start()
            self._bar.advance_to(event.start_step, self._epoch(first_epoch), COMPILING)
        else:
            self._line(COMPILING)

    def _progress(self, event: Progress) -> None:
        if self._bar is None or self._started is None:
            return  # from workers that are being restarted
        numbers = f"{_elbo(event)}  {event.images_per_second:,.0f} images/s  input wait {event.input_wait:.0%}"
        self._bar.advance_to(event.step, self._epoch(event.epoch), numbers + self._saved)
        if self._live:
            return
        tenth, now = 10 * event.step // self._started.steps_per_epoch, self._clock()
        if tenth >= self._next_line[0] and now >= self._next_line[1]:
            self._next_line = (tenth + 1, now + LINE_SECONDS)
            self._line(
                f"{self._epoch(event.epoch)}  step {event.step}/{self._bar.total}  {numbers}  left {self._bar.left()}"
            )

    def _epoch(self, epoch: int) -> str:
        return f"epoch {epoch}/{self._started.epochs}" if self._started else f"epoch {epoch}"

    def _line(self, text: str) -> None:
        """Prints a permanent line, which is not wrapped."""
        self._console.print(_plain(text), soft_wrap=True, highlight=False)

    def _stop(self) -> None:
        """Removes the spinner and the bar."""
        if self._spinner is not None:
            self._spinner.stop()
        if self._bar is not None and self._live:
            self._bar.stop()  # one that was never drawn would print an empty line
        self._spinner = self._bar = None
        self._status = ""


class _RunBar(RichProgress):
    """A progress bar over all steps of a run, with a line of metrics below it.

    The remaining time is estimated from the steps since the bar was created, not from those of an earlier start.
    """

    def __init__(self, console: Console, clock: Callable[[], float], total: int, start_step: int) -> None:
        self._numbers = Text()  # before super().__init__, in which rich draws the bar
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("step {task.completed}/{task.total}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            get_time=clock,
            speed_estimate_period=SPEED_SECONDS,
            transient=True,
            expand=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self.total = total
        self._run: TaskID = self.add_task("", total=total, completed=start_step)

    def advance_to(self, step: int, epoch: str, numbers: str) -> None:
        """Moves the bar and redraws it at once; rich also redraws it periodically, to update the elapsed time."""
        self._numbers = Text(numbers, no_wrap=True, overflow="ellipsis")
        self.update(self._run, completed=step, description=epoch, refresh=True)

    def left(self) -> str:
        """Returns the estimated remaining time as h:mm:ss."""
        return TimeRemainingColumn().render(self.tasks[0]).plain

    def get_renderables(self) -> list[RenderableType]:
        """Returns the bar and the line of metrics, as rich requires."""
        return [self.make_tasks_table(self.tasks), self._numbers]


def _elbo(event: Progress | Tested) -> str:
    return f"ELBO {event.elbo:.1f}  (recon {event.reconstruction:.1f}, KL {event.kl:.1f})"


def _plain(text: str) -> Text:
    """Returns text without its colours and control characters; markup is not interpreted."""
    decoded = Text.from_ansi(text).plain
    return Text("".join(c for c in decoded if c.isprintable() or c in "\n\t"))
