"""Output that cannot be written is lost, and a run or a sweep is still displayed."""

import io
import os
import pty
from pathlib import Path

import pytest
from rich.console import Console

from vaedist.monitor.events import Finished, Notice, Progress, Saved, Started, Tested, Waiting
from vaedist.monitor.lossy_stream import lossy
from vaedist.monitor.sweep_events import SweepNotice, SweepStarted, TrialStatus
from vaedist.monitor.sweep_terminal import SweepTerminal
from vaedist.monitor.terminal import Terminal

REFUSED = "Broken pipe|No space left|Input/output error"
RUN = (
    Waiting("starting"),
    Started("run", 2, 10, 0, 1, 1, 80, 99),
    Progress(1, 5, -9.0, -8.0, 1.0, 100.0, 0.0),
    Tested(1, 10, -9.0, -8.0, 1.0, True, None, None),
    Saved(1, 10, "there", False),
    Notice("workers failed: starting again ⠋ ∞"),
    Finished(2, 20, -7.0),
)
SWEEP = (
    SweepStarted("sweep", 2, 1, 2, "elbo", "max", ()),
    TrialStatus(0, {"model.latent": 2}, "running", 1, -9.0, -9.0, ""),
    SweepNotice("stopping ∞"),
    TrialStatus(0, {"model.latent": 2}, "finished", 2, -8.0, -8.0, ""),
)


def closed_pipe():
    reading, writing = os.pipe()
    os.close(reading)
    return os.fdopen(writing, "w", encoding="utf-8", buffering=1)


def full_disk():
    return Path("/dev/full").open("w", encoding="utf-8", buffering=1)


def lost_terminal():
    """A closed terminal, as after a lost connection: writes raise EIO."""
    master, slave = pty.openpty()
    stream = os.fdopen(slave, "w", encoding="utf-8", buffering=1)
    os.close(master)
    return stream


@pytest.fixture(params=[closed_pipe, full_disk, lost_terminal])
def broken(request):
    stream = request.param()
    with pytest.raises(OSError, match=REFUSED):
        print("x" * 10_000, file=stream, flush=True)
    yield stream
    with pytest.raises(OSError, match=REFUSED):  # its buffer is kept
        stream.close()


@pytest.mark.parametrize("interactive", [False, True])
@pytest.mark.parametrize(("kind", "events"), [(Terminal, RUN), (SweepTerminal, SWEEP)])
def test_a_stream_that_refuses_writes_does_not_end_the_run(broken, kind, events, interactive):
    with kind(Console(file=broken, force_interactive=interactive, force_terminal=interactive)) as terminal:
        for event in events:
            terminal.show(event)


def test_later_output_is_written_once_there_is_space_again(tmp_path):
    class Disk(io.StringIO):
        full = False

        def write(self, text):
            if self.full:
                raise OSError(28, "No space left on device")
            return super().write(text)

    disk = Disk()
    terminal = Terminal(Console(file=disk, width=80))
    for disk.full, text in ((False, "one"), (True, "two"), (False, "three")):
        terminal.show(Notice(text))
    assert disk.getvalue() == "one\nthree\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_characters_that_the_encoding_lacks_are_replaced(encoding):
    raw = io.BytesIO()
    with Terminal(Console(file=io.TextIOWrapper(raw, encoding, write_through=True), width=80)) as terminal:
        terminal.show(Notice("run 猫 goes on"))
    assert raw.getvalue() == b"run ? goes on\n"


def test_it_is_a_terminal_if_the_stream_behind_it_is_one():
    master, slave = pty.openpty()
    with os.fdopen(slave, "w") as stream:
        assert lossy(stream).isatty()
        assert lossy(stream).fileno() == stream.fileno()
    os.close(master)
    assert not lossy(io.StringIO()).isatty()
