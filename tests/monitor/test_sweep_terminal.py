"""A sweep on the terminal."""

import io
import sys

from rich.console import Console

from vaedist.monitor.sweep_events import SweepNotice, SweepStarted, TrialStatus
from vaedist.monitor.sweep_terminal import SweepTerminal


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def shown(events, *, live=False, height=30, clock=None):
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=live, width=120, height=height, color_system=None)
    with SweepTerminal(console, clock=clock or Clock()) as terminal:
        for event in events:
            if isinstance(event, float):
                clock.now = event
            else:
                terminal.show(event)
    return stream.getvalue()


def trial(number, state="running", epoch=0, last=None, best=None, reason=""):
    return TrialStatus(
        number, {"model.flow.depth": number, "training.learning_rate": 1e-3}, state, epoch, last, best, reason
    )


STARTED = SweepStarted("depths", 4, 2, 3, "elbo", "max")


def test_plain_lines_tell_each_change_once():
    clock, first = Clock(), trial(0, epoch=1, last=-1900.5, best=-1900.5)
    text = shown(
        [STARTED, trial(0), first, first, 60.0, trial(0, "finished", 3, -1850.25, -1850.0),
         trial(1, "failed", reason="it diverged"), SweepNotice("done")],
        clock=clock,
    )  # fmt: skip
    assert text.splitlines() == [
        "sweep depths: 4 trials of 3 epochs, 2 at once; best is the highest elbo of the test images",
        "0000 depth=0 learning_rate=0.001: running",
        "0000 depth=0 learning_rate=0.001: running  epoch 1/3  elbo -1900.5",
        "0000 depth=0 learning_rate=0.001: finished  epoch 3/3  elbo -1850.25; 1 of 4 ended, left 0:03:00; "
        "best so far -1850 by 0000",
        "0001 depth=1 learning_rate=0.001: failed  it diverged; 2 of 4 ended, left 0:01:00; best so far -1850 by 0000",
        "done",
    ]
    assert "\x1b" not in text


def test_time_left_comes_from_the_trials_of_this_start():
    clock = Clock()
    before = (trial(0, "finished", 3, -1850.0, -1850.0),)
    text = shown(
        [SweepStarted("depths", 4, 1, 3, "elbo", "max", before), 30.0, trial(1, "stopped", 1, -1990.0, -1990.0)],
        clock=clock,
    )
    assert "1 of them ended before" in text
    assert "2 of 4 ended, left 0:01:00; best so far -1850 by 0000" in text


def test_the_lowest_is_best_if_the_metric_is_minimised():
    events = [SweepStarted("bits", 2, 1, 3, "bits_per_dim", "min"), trial(0, "finished", 3, 4.5, 4.4),
              trial(1, "finished", 3, 4.2, 4.1)]  # fmt: skip
    assert "best so far 4.1 by 0001" in shown(events)


def test_other_output_to_stdout_and_stderr_is_unchanged(monkeypatch):
    """They are in a log, and never above the table."""
    out = io.StringIO()
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr("sys.stderr", out)
    stream = io.StringIO()
    with SweepTerminal(Console(file=stream, force_terminal=True, width=120)) as terminal:
        terminal.show(STARTED)
        print("chatter")
        print("chatter", file=sys.stderr)
    assert out.getvalue() == "chatter\nchatter\n"
    assert "chatter" not in stream.getvalue()


def test_the_table_shows_running_trials_and_the_best_however_many_there_are():
    events = [SweepStarted("many", 40, 2, 3, "elbo", "max"), trial(0, "finished", 3, -1800.0, -1800.0)]
    events += [trial(n, "finished", 3, -1900.0 - n, -1900.0 - n) for n in range(1, 38)]
    events += [trial(38, epoch=1, last=-1999.0, best=-1999.0), trial(39)]
    last = shown(events, live=True, height=16).rsplit("trial", 2)
    table = "".join(last)
    assert "best elbo -1800 by trial 0" in table
    for number in (0, 38, 39):
        assert f"│ {number:04d}" in table
    rows = [
        line
        for line in shown(events, live=True, height=16).rsplit("learning_rate", 1)[1].splitlines()
        if "│ 00" in line
    ]
    assert len(rows) == 10
