"""File systems that tests mount and fill."""

import os
import subprocess
from contextlib import contextmanager, suppress

import pytest


@contextmanager
def mounted(place, *options):
    """Mounts a file system at a folder; skips the test if this is not allowed."""
    mount = ["mount", *options, str(place)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a file system")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place):
    """Fills the disk."""
    with suppress(OSError), (place / "filler").open("wb") as file:
        while True:
            file.write(bytes(1 << 16))
            file.flush()
