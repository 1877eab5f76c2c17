import io
import pickle
import re
import subprocess
import sys
import unicodedata

import pytest
from rich.console import Console

from vaedist.monitor import events
from vaedist.monitor.events import Finished, Notice, Progress, Saved, Started
from vaedist.monitor.terminal import Terminal

STARTED = Started(
    run="cifar10-iaf",
    epochs=100,
    steps_per_epoch=1000,
    start_step=0,
    workers=2,
    devices=4,
    train_rows=50000,
    parameters=7_134_572,
)
TESTED = events.Tested(  # imported as a module, because pytest collects names that start with Test
    epoch=3, step=3000, elbo=-1873.7, reconstruction=-1801.2, kl=72.5, best=True
)


def progress(step, epoch=1, images_per_second=1830.4):
    return Progress(
        epoch=epoch,
        step=step,
        elbo=-1900.25,
        reconstruction=-1850.14,
        kl=50.11,
        images_per_second=images_per_second,
        input_wait=0.031,
    )


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def plain(**options):
    return Console(file=io.StringIO(), force_terminal=False, force_interactive=False, **options)


def live(width=100):
    return Console(file=io.StringIO(), force_terminal=True, force_interactive=True, width=width, color_system=None)


def lines(console):
    return console.file.getvalue().splitlines()


def frames(console):
    """Returns the drawn frames, one below the other, without the codes that move the cursor."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue().replace("\r", "\n"))


@pytest.mark.parametrize("event", [STARTED, TESTED, progress(1), Saved(1, 2, "p"), Notice("n")])
def test_an_event_travels_between_processes(event):
    assert pickle.loads(pickle.dumps(event)) == event


def test_a_run_without_a_terminal_is_plain_lines():
    console, clock = plain(), Clock()
    with Terminal(console, clock=clock) as terminal:
        terminal.status("waiting for 2 workers")
        terminal.status("waiting for 2 workers")
        terminal.show(STARTED)
        terminal.show(progress(100))
        clock.now = 20.0
        terminal.show(progress(200))
        terminal.show(Saved(1, 1000, "checkpoints/1000"))
        terminal.show(TESTED)
        terminal.show(events.Tested(epoch=4, step=4000, elbo=-1880.0, reconstruction=-1800.0, kl=80.0, best=False))
        terminal.show(Notice("checkpoint 1000 is damaged, skipped"))
        terminal.show(Finished(epoch=100, step=100_000, elbo=-1841.72))
        terminal.show(Finished(epoch=100, step=100_000, elbo=-1841.72, split="validation"))
    numbers = "ELBO -1900.2  (recon -1850.1, KL 50.1)  1,830 images/s  input wait 3%"
    assert lines(console) == [
        "waiting for 2 workers",
        "run cifar10-iaf: 2 workers, 4 devices, 50,000 images, 7,134,572 parameters",
        "compiling the training step, which takes seconds, or minutes for deep models",
        f"epoch 1/100  step 100/100000  {numbers}  left -:--:--",
        f"epoch 1/100  step 200/100000  {numbers}  left 5:32:40",
        "epoch 3/100  test ELBO -1873.7  (recon -1801.2, KL 72.5)  best",
        "epoch 4/100  test ELBO -1880.0  (recon -1800.0, KL 80.0)",
        "checkpoint 1000 is damaged, skipped",
        "finished after step 100000: test ELBO -1841.7",
        "finished after step 100000: validation ELBO -1841.7",
    ]


def shown_steps(console):
    return [int(step) for step in re.findall(r"step (\d+)/", console.file.getvalue())]


def test_progress_lines_are_ten_seconds_apart_when_steps_are_fast():
    console, clock = plain(), Clock()
    with Terminal(console, clock=clock) as terminal:
        terminal.show(STARTED)
        for step in range(100, 3100, 100):  # a tenth of an epoch every second
            clock.now = step / 100
            terminal.show(progress(step))
    assert shown_steps(console) == [100, 1100, 2100]


def test_progress_lines_are_a_tenth_of_an_epoch_apart_when_steps_are_slow():
    console, clock = plain(), Clock()
    with Terminal(console, clock=clock) as terminal:
        terminal.show(STARTED)
        for step in range(10, 310, 10):  # each record a minute after the previous one
            clock.now = 6.0 * step
            terminal.show(progress(step))
    assert shown_steps(console) == [10, 100, 200, 300]


def test_messages_in_files_have_no_control_characters_but_newlines():
    console = plain(width=40)
    with Terminal(console) as terminal:
        terminal.show(STARTED)
        terminal.show(Notice("\x1b[31mred\x1b[0m \x1b]0;title\x07 a\tb\r\x08 [bold]kept[/bold] [/] 1.5"))
        terminal.show(Notice("the loss became \x1b[1mnan\x1b[0m at step 12 " + 10 * "long "))
        terminal.show(TESTED)
    text = console.file.getvalue()
    assert {c for c in text if unicodedata.category(c).startswith("C")} == {"\n"}
    assert "[bold]kept[/bold] [/] 1.5" in text
    assert "the loss became nan at step 12 long long" in text
    assert len(text.splitlines()) == 5  # a narrow console wraps no line


def test_a_resumed_run_is_announced_and_counts_only_new_steps():
    console, clock = plain(), Clock()
    resumed = Started(**{**vars(STARTED), "start_step": 99_000})
    with Terminal(console, clock=clock) as terminal:
        terminal.show(resumed)
        for step in (99_100, 99_200):  # 100 steps in 20 s, so the last 800 take 160 s
            clock.now += 20
            terminal.show(progress(step, epoch=100))
    assert lines(console)[0].endswith("resumed at step 99000")
    assert lines(console)[-1].endswith("left 0:02:40")


def test_workers_started_again_start_the_count_again():
    console, clock = plain(), Clock()
    with Terminal(console, clock=clock) as terminal:
        terminal.show(STARTED)
        for step in (500, 1000):
            clock.now += 60
            terminal.show(progress(step))
        terminal.status("starting workers again")
        terminal.show(progress(1100))  # from the group that failed
        terminal.show(Started(**{**vars(STARTED), "start_step": 900}))
        terminal.show(progress(910))
    assert shown_steps(console) == [500, 1000, 910]
    assert lines(console)[-1].endswith("left -:--:--")


def test_a_terminal_has_a_spinner_until_the_run_starts():
    console = live()
    with Terminal(console) as terminal:
        terminal.status("waiting for [2] workers")
        terminal.show(STARTED)
        assert "waiting for [2] workers" in frames(console)
        before = len(frames(console))
        terminal.show(Notice("here"))
        assert "workers" not in frames(console)[before:]


def test_other_output_to_stdout_and_stderr_is_unchanged(monkeypatch):
    """They are in a log, and never above the spinner or the bar."""
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr("sys.stderr", err)
    console = live()
    with Terminal(console) as terminal:
        for show in (lambda: terminal.status("starting Ray"), lambda: terminal.show(STARTED)):
            show()
            print("chatter")
            print("chatter", file=sys.stderr)
    assert out.getvalue() == err.getvalue() == "chatter\nchatter\n"
    assert "chatter" not in frames(console)


@pytest.mark.parametrize("width", [80, 120])
def test_a_terminal_has_a_bar_over_all_steps_with_the_numbers_below(width):
    console, clock = live(width), Clock()
    with Terminal(console, clock=clock) as terminal:
        terminal.show(STARTED)
        for step in (49_000, 50_000):
            clock.now += 100
            terminal.show(progress(step, epoch=50))
        terminal.show(Saved(50, 50_000, "checkpoints/50000"))
        terminal.show(progress(50_000, epoch=50))
        terminal.show(TESTED)  # the bar is redrawn below a printed line
        drawn = frames(console).splitlines()
    at = max(i for i, line in enumerate(drawn) if "test ELBO" in line)
    assert drawn[at].rstrip() == "epoch 3/100  test ELBO -1873.7  (recon -1801.2, KL 72.5)  best"
    bar, numbers = drawn[at + 1], drawn[at + 2]
    parts = re.fullmatch(r"epoch 50/100 (━+╸?)( +)step 50000/100000 0:03:20 left 1:23:20", bar.rstrip())
    assert abs(len(parts[1]) - len(parts[2])) <= 2  # half of the run is done
    expected = "ELBO -1900.2  (recon -1850.1, KL 50.1)  1,830 images/s  input wait 3%  saved step 50000"
    assert numbers.rstrip() == (expected if width > 100 else expected[:79] + "…")


def test_the_bar_of_a_resumed_run_starts_at_its_step():
    console = live()
    with Terminal(console, clock=Clock()) as terminal:
        terminal.show(Started(**{**vars(STARTED), "start_step": 25_000}))
        terminal.show(Notice("here"))
        drawn = frames(console)
    assert re.search(r"epoch 26/100 ━+╸? +step 25000/100000 0:00:00 left -:--:--", drawn)


@pytest.mark.parametrize("phase", ["waiting", "running", "finished"])
def test_the_cursor_is_restored_however_the_run_ends(phase):
    console = live()

    def run():
        with Terminal(console) as terminal:
            terminal.status("starting workers")
            if phase != "waiting":
                terminal.show(STARTED)
            if phase == "finished":
                terminal.show(Finished(epoch=100, step=100_000, elbo=-1841.7))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    text = console.file.getvalue()
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l") >= 0
    assert ("finished after step 100000" in text) == (phase == "finished")


def test_importing_is_light():
    program = """
import sys
import vaedist.monitor.terminal, vaedist.monitor.events, vaedist.monitor.metrics
heavy = {"tensorflow", "tensorboardX", "tensorboard", "PIL", "numpy", "ray"} & sys.modules.keys()
sys.exit(f"imported {heavy}" if heavy else 0)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
