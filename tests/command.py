"""The command line in a process of its own, for tests."""

import os
import subprocess
import sys


def start(*arguments, cwd=None, log=subprocess.PIPE):
    """Start `vaedist ARGUMENTS`, away from the Ray of the tests; what it says goes to a file, `log`, if it is much."""
    program = [sys.executable, "-c", "from vaedist.cli import main; main(prog_name='vaedist')", *map(str, arguments)]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    return subprocess.Popen(program, cwd=cwd, stdout=log, stderr=log, text=True, env=environment)


def run(*arguments, cwd=None, code=0, seconds=300):
    """What `vaedist ARGUMENTS` printed on stdout and stderr; it must end with the exit code, and by no traceback."""
    process = start(*arguments, cwd=cwd)
    out, err = process.communicate(timeout=seconds)
    assert process.returncode == code, err
    assert "Traceback" not in err
    return out, err


def refused(place, *arguments):
    """The error line of a command, given in the folder `place`, that must fail cleanly and leave nothing there."""
    before = sorted(path.relative_to(place) for path in place.rglob("*"))
    out, err = run(*arguments, cwd=place, code=2)
    assert out == ""
    assert sorted(path.relative_to(place) for path in place.rglob("*")) == before
    *waiting, line = [text for text in err.splitlines() if "\tINFO " not in text and "\tWARNING " not in text]
    assert all(text.startswith(("starting", "checking the data", "joining Ray")) for text in waiting), waiting
    assert line.startswith("error: ")
    return line
