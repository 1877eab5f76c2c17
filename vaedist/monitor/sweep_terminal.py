"""Progress of a sweep: a live table on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from vaedist.config import told
from vaedist.monitor.lossy_stream import lossy
from vaedist.monitor.sweep_events import ENDED, SweepEvent, SweepNotice, SweepStarted, TrialStatus
from vaedist.wording import counted

STYLES = {"running": "cyan", "finished": "green", "stopped": "dim", "failed": "red", "open": "dim"}
LINES_KEPT = 6  # lines of the screen that the table leaves free


class SweepTerminal:
    """Shows a sweep's events; a context manager that restores the terminal at the end.

    On an interactive console, a live table shows the running trials, the best one and the last ones to end, as many as
    fit on the screen. Elsewhere, a line is printed for each epoch of a trial and for each change of its state. Output
    that cannot be written is dropped, and does not end the sweep.

    Args:
        console: console to write to.
        clock: monotonic clock, in seconds.
    """

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        console.file = lossy(console.file)
        self._console, self._clock = console, clock
        self._live: Live | None = None
        self._sweep: SweepStarted | None = None
        self._trials: dict[int, TrialStatus] = {}
        self._order: list[int] = []  # by time of the last change
        self._began = clock()
        self._ended_before = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.update(self._table(), refresh=True)
            self._live.stop()

    def show(self, event: SweepEvent) -> None:
        """Shows one event."""
        match event:
            case SweepStarted():
                self._start(event)
            case TrialStatus():
                self._follow(event)
            case SweepNotice():
                self._line(event.text)

    def _start(self, event: SweepStarted) -> None:
        self._sweep, self._began = event, self._clock()
        for trial in event.ended:
            self._keep(trial)
        self._ended_before = len(event.ended)
        kept = f", {len(event.ended)} of them ended before" if event.ended else ""
        trials = f"{counted(event.trials, 'trial')} of {counted(event.epochs, 'epoch')}"
        self._line(
            f"sweep {event.name}: {trials}, {event.at_once} at once{kept}; "
            f"best is the {'highest' if event.mode == 'max' else 'lowest'} {event.metric} of the {event.split} images"
        )
        if self._console.is_interactive:
            self._live = Live(
                self._table(),
                console=self._console,
                get_renderable=self._table,
                refresh_per_second=2,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()

    def _follow(self, trial: TrialStatus) -> None:
        before = self._trials.get(trial.number)
        self._keep(trial)
        if self._live is not None:
            return
        if before is not None and (before.state, before.epoch) == (trial.state, trial.epoch):
            return
        self._line(f"{_name(trial)}: {self._says(trial)}{self._summary() if trial.state in ENDED else ''}")

    def _keep(self, trial: TrialStatus) -> None:
        self._trials[trial.number] = trial
        if trial.number in self._order:
            self._order.remove(trial.number)
        self._order.append(trial.number)

    def _says(self, trial: TrialStatus) -> str:
        assert self._sweep is not None
        epoch = f"epoch {trial.epoch}/{self._sweep.epochs}" if trial.epoch else ""
        last = f"{self._sweep.metric} {_number(trial.last)}" if trial.last is not None else ""
        return "  ".join(part for part in (trial.state, epoch, last, trial.reason) if part)

    def _summary(self) -> str:
        best, sweep = self._best(), self._sweep
        assert sweep is not None
        ended = sum(trial.state in ENDED for trial in self._trials.values())
        said = f"; {ended} of {sweep.trials} ended, left {self._left()}"
        return said + (f"; best so far {_number(best.best)} by {best.number:04d}" if best else "")

    def _best(self) -> TrialStatus | None:
        assert self._sweep is not None
        scored = [trial for trial in self._trials.values() if trial.best is not None]
        choose = max if self._sweep.mode == "max" else min
        return choose(scored, key=lambda trial: trial.best, default=None)  # type: ignore[arg-type,return-value]

    def _left(self) -> str:
        """Returns the estimated remaining time, from the mean duration of the ended trials."""
        assert self._sweep is not None
        ended = sum(trial.state in ENDED for trial in self._trials.values())
        made = ended - self._ended_before
        if made <= 0:
            return "-:--:--"
        seconds = round((self._clock() - self._began) / made * (self._sweep.trials - ended))
        return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"

    def _table(self) -> Table:
        sweep = self._sweep
        assert sweep is not None
        best = self._best()
        keys = list(next(iter(self._trials.values())).params) if self._trials else []
        table = Table(expand=False, caption=self._caption(), caption_justify="left")
        for heading in ("trial", "state", *(key.rpartition(".")[2] for key in keys), "epoch", sweep.metric, "best"):
            table.add_column(heading, justify="left" if heading in ("trial", "state") else "right", no_wrap=True)
        for trial in self._shown():
            style = "bold green" if best is not None and trial.number == best.number else STYLES.get(trial.state, "")
            table.add_row(
                f"{trial.number:04d}", trial.state, *(told(trial.params[key]) for key in keys),
                f"{trial.epoch}/{sweep.epochs}", _number(trial.last), _number(trial.best), style=style,
            )  # fmt: skip
        return table

    def _shown(self) -> list[TrialStatus]:
        """Returns the running trials, the best one, and as many of the most recently changed others as fit."""
        best = self._best()
        room = max(3, self._console.height - LINES_KEPT)
        recent = [self._trials[number] for number in reversed(self._order)]
        first = [t for t in recent if t.state == "running" or (best is not None and t.number == best.number)]
        rest = [t for t in recent if t not in first]
        return sorted((first + rest)[:room], key=lambda trial: trial.number)

    def _caption(self) -> Text:
        states = [trial.state for trial in self._trials.values()]
        counts = ", ".join(f"{states.count(s)} {s}" for s in ("running", *ENDED) if s in states) or "starting"
        sweep, best = self._sweep, self._best()
        assert sweep is not None
        elapsed = round(self._clock() - self._began)
        top = f"; best {sweep.metric} {_number(best.best)} by trial {best.number:04d}" if best else ""
        clock = f"{elapsed // 3600}:{elapsed // 60 % 60:02d}:{elapsed % 60:02d}"
        return Text(f"{counts}, of {sweep.trials}{top}; {clock} so far, left {self._left()}")

    def _line(self, text: str) -> None:
        """Prints a permanent line, which is not wrapped."""
        self._console.print(Text("".join(c for c in text if c.isprintable())), soft_wrap=True, highlight=False)


def describe(params: Mapping[str, object]) -> str:
    """Returns parameters as one line, named by the last parts of their keys."""
    return " ".join(f"{key.rpartition('.')[2]}={told(value)}" for key, value in params.items())


def _name(trial: TrialStatus) -> str:
    return f"{trial.number:04d} {describe(trial.params)}"


def _number(score: float | None) -> str:
    return "-" if score is None else f"{score:.6g}"
