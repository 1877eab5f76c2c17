"""The command line for tests, in a separate process, or in the process of the tests, which is faster by seconds."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile

from click.testing import CliRunner

from vaedist.cli import main

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # signals that a command handles


def start(*arguments, cwd=None, log=subprocess.PIPE, process_group=None, **variables):
    """Starts `vaedist ARGUMENTS` in a process that does not see the Ray of the tests.

    Args:
        arguments: arguments of the command.
        cwd: current folder of the command.
        log: file for stdout and stderr, if they are long.
        process_group: 0 for a process group of its own.
        variables: environment variables, in addition to those of the tests. A token must not be set in the environment
            of the tests, where Ray may read it again and end the process.
    """
    program = "from vaedist.cli import main; main(prog_name='vaedist')"
    return start_python(program, *arguments, cwd=cwd, log=log, process_group=process_group, **variables)


def start_python(program, *arguments, cwd=None, log=subprocess.PIPE, process_group=None, **variables):
    """Starts a Python program like `start`."""
    words = [sys.executable, "-c", program, *map(str, arguments)]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"} | variables
    return subprocess.Popen(
        words, cwd=cwd, stdout=log, stderr=log, text=True, env=environment, process_group=process_group
    )


def run(*arguments, cwd=None, code=0, seconds=300, **variables):
    """Returns stdout and stderr of `vaedist ARGUMENTS`, which must end with the exit code and without a traceback."""
    process = start(*arguments, cwd=cwd, **variables)
    out, err = process.communicate(timeout=seconds)
    assert process.returncode == code, err
    assert "Traceback" not in err
    return out, err


@contextlib.contextmanager
def _restored(place):
    """Makes `place` the current folder, and afterwards restores all that a command changes in its process."""
    environment, handlers = dict(os.environ), {number: signal.getsignal(number) for number in STOPPING}
    kept, tempfile.tempdir = tempfile.tempdir, None  # read from the environment again
    try:
        with contextlib.chdir(place):
            yield
    finally:
        tempfile.tempdir = kept
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.environ.clear()
        os.environ.update(environment)


def refused(place, *arguments):
    """Returns the error line of a command that must fail cleanly and leave nothing in the folder `place`.

    The command runs there, in the process of the tests.
    """
    before = sorted(path.relative_to(place) for path in place.rglob("*"))
    with _restored(place):
        done = CliRunner().invoke(main, list(map(str, arguments)), prog_name="vaedist")
    assert isinstance(done.exception, SystemExit), done.exception
    assert (done.exit_code, done.stdout) == (2, ""), done.output
    assert sorted(path.relative_to(place) for path in place.rglob("*")) == before
    *waiting, line = [text for text in done.stderr.splitlines() if "\tINFO " not in text and "\tWARNING " not in text]
    assert all(text.startswith(("starting", "checking the data", "connecting to Ray")) for text in waiting), waiting
    assert line.startswith("error: ")
    return line
