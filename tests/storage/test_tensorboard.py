"""`vaedist tensorboard s3://...` in a separate process."""

import contextlib
import json
import signal
import socket
import time
from urllib.error import URLError
from urllib.request import urlopen

from command import start

from vaedist.monitor.tensorboard import TensorBoardWriter
from vaedist.storage.transfer import Store

SECONDS = 120  # timeout


def test_tensorboard_over_a_store_shows_new_rows_while_it_runs(s3, tmp_path):
    store = Store(s3.uri("board"))
    writer = TensorBoardWriter(tmp_path, purge_step=None)
    (events,) = tmp_path.iterdir()

    def step(number):
        writer.scalars(number, {"elbo": -float(number)})
        writer.flush()
        store.upload(events, f"run/tensorboard/{events.name}")

    step(1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = start("tensorboard", store.uri, "--port", port)

    def shown(count):
        """Waits until the curve has a number of steps, and returns them."""
        address = f"http://127.0.0.1:{port}/data/plugin/scalars/scalars?tag=elbo&run=run"
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(URLError, OSError, ValueError), urlopen(address) as answer:
                points = json.load(answer)
                if len(points) >= count:
                    return [point[1] for point in points]
            time.sleep(0.2)
        raise AssertionError(process.communicate()[1] if process.poll() is not None else "nothing was shown")

    try:
        assert shown(1) == [1]
        s3.proxy.vanish()
        time.sleep(6)  # it polls every 5 s, and continues
        s3.proxy.appear()
        step(2)
        assert shown(2) == [1, 2]
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=SECONDS)
        assert process.returncode in (0, -signal.SIGTERM, 128 + signal.SIGTERM)
    finally:
        process.terminate()
        process.communicate()
