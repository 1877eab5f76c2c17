"""`vaedist tensorboard` of local runs, in a separate process, over HTTP."""

import json
import socket
import time
from contextlib import suppress
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from command import start

from vaedist.monitor.tensorboard import TensorBoardWriter

SECONDS = 120  # timeout


def write(folder, tag, value):
    writer = TensorBoardWriter(folder, purge_step=None)
    writer.scalars(1, {tag: value})
    writer.close()


def until(read, expected):
    """Waits until a function returns the expected value."""
    deadline = time.monotonic() + SECONDS
    found = None
    while time.monotonic() < deadline:
        with suppress(URLError, OSError, ValueError):
            if (found := read()) == expected:
                return
        time.sleep(0.2)
    raise AssertionError(f"{found} instead of {expected}")


@pytest.mark.slow
def test_runs_have_their_own_names_and_new_ones_appear(tmp_path):
    runs = tmp_path / "runs"
    write(runs / "new" / "tensorboard" / "train", "elbo", -2.0)
    write(runs / "new" / "tensorboard" / "test", "elbo", -3.0)
    write(runs / "old" / "tensorboard", "elbo/train", -4.0)  # as earlier versions did
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = start("tensorboard", runs, "--port", port)

    def get(path):
        with urlopen(f"http://127.0.0.1:{port}/data/{path}") as answer:
            return json.load(answer)

    def tags():
        return {run: sorted(found) for run, found in get("plugin/scalars/tags").items()}

    shown = {"new/train": ["elbo"], "new/test": ["elbo"], "old": ["elbo/train"]}
    try:
        until(tags, shown)
        (point,) = get("plugin/scalars/scalars?tag=elbo&run=new/test")
        assert point[1:] == [1, -3.0]
        described = get("plugin/scalars/tags")["new/train"]["elbo"]["description"]
        assert "Evidence lower bound, nats per image" in described
        write(runs / "later" / "tensorboard" / "train", "elbo", -5.0)
        until(tags, shown | {"later/train": ["elbo"]})
    finally:
        process.terminate()
        _, err = process.communicate(timeout=SECONDS)
    assert "Traceback" not in err
    assert "cpu" not in err.lower(), "TensorFlow's lines about this machine precede the address"
    assert process.returncode == 0
