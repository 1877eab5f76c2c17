"""Keeps TensorFlow's informational messages off stderr when it is imported in a user's process.

TensorFlow logs messages about oneDNN and CUDA while its libraries are loaded, before it obeys TF_CPP_MIN_LOG_LEVEL.
When it first looks for devices, it logs the absence of NVIDIA's driver as an error.
"""

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from threading import RLock

LEVEL = "TF_CPP_MIN_LOG_LEVEL"  # 1 discards informational messages, 2 also warnings, 3 also errors
# The program of the process that copies stderr, except for the messages of too low a level. As it is another process,
# a message is not lost if TensorFlow ends this one.
FILTER = r"""
import os, re, sys
levels = b"IWEF"[: int(sys.argv[1])]
discarded = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog|To enable the following instructions|"
    rb"[%b]\d{4} \d\d:\d\d|E\d{4} .*failed call to cuInit.*\(303\)" % levels  # 303: there is no driver
)
for line in open(0, "rb"):
    if not discarded.match(line):
        os.write(2, line)
"""
DRIVER = "libcuda.so.1"
WAIT_SECONDS = 5.0
_lock = RLock()


@contextmanager
def without_import_messages() -> Iterator[None]:
    """Discards the messages of TensorFlow's libraries below TF_CPP_MIN_LOG_LEVEL within the context.

    If the variable is not set, it becomes 1. If it is 0, nothing is discarded; nor if TensorFlow is already imported.
    """
    os.environ.setdefault(LEVEL, "1")
    level = os.environ[LEVEL]
    with _lock, ExitStack() as stack:  # file descriptor 2 belongs to all threads
        if "tensorflow" not in sys.modules and level in ("1", "2", "3"):
            with suppress(OSError):  # stderr is closed, or there can be no more processes: messages stay
                stack.enter_context(_filtered(level))
                stack.callback(_look_for_devices)
        yield


def _look_for_devices() -> None:
    """Makes TensorFlow, if it was imported, look for devices now if there is no driver, which has no other effect."""
    config = getattr(sys.modules.get("tensorflow"), "config", None)
    try:
        ctypes.CDLL(DRIVER)
    except OSError:
        if config is not None:
            config.list_physical_devices("GPU")


@contextmanager
def _filtered(level: str) -> Iterator[None]:
    """Sends file descriptor 2 through `FILTER` within the context."""
    with ExitStack() as stack:
        saved = os.dup(2)
        stack.callback(os.close, saved)
        copier = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", FILTER, level],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=saved,
            start_new_session=True,  # Ctrl-C is for this process alone
        )
        assert copier.stdin is not None
        with copier.stdin as pipe:
            os.dup2(pipe.fileno(), 2)
            try:
                yield
            finally:
                os.dup2(saved, 2)
        with suppress(subprocess.TimeoutExpired):  # a process that another thread started has the pipe as its stderr
            copier.wait(WAIT_SECONDS)
