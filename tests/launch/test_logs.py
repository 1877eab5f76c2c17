"""Reports of the end of a process whose output goes to a log."""

import signal
import subprocess
import sys

import pytest

ENDING = """
import os, signal, sys
from pathlib import Path
from vaedist.launch.logs import output_to

with output_to(Path(sys.argv[1]), advice="try again"):
    print("for the log", file=sys.stderr)
    {end}
"""


def said(tmp_path, end):
    """Returns the exit code, stdout and stderr of a process that ends while its output goes to a log."""
    program = [sys.executable, "-c", ENDING.format(end=end), str(tmp_path / "some.log")]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert (tmp_path / "some.log").read_text() == "for the log\n"
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("end", "code"), [("os._exit(1)", 1), ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL)]
)
def test_a_process_that_is_ended_without_an_exception_is_reported_on_the_terminal(tmp_path, end, code):
    message = "error: the command was ended by Ray, which failed, or by the system; try again\n"
    assert said(tmp_path, end) == (code, "", message)


@pytest.mark.parametrize(("end", "code"), [("pass", 0), ("sys.exit(3)", 3)])
def test_a_process_that_ends_by_itself_is_not(tmp_path, end, code):
    assert said(tmp_path, end) == (code, "", "")
