"""`vaedist tensorboard`."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vaedist.cli.options import Location
from vaedist.errors import RunError, StorageError
from vaedist.storage.paths import is_there

if TYPE_CHECKING:
    from vaedist.storage.follower import Follower

LOOK_SECONDS = 5.0  # interval of polling an object store for changes


@click.command()
@click.argument("runs", type=Location(), default="runs")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to serve on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=6006, show_default=True, help="Port; 0 takes a free one."
)
def tensorboard(runs: str | Path, host: str, port: int) -> None:
    """Serve TensorBoard for a run or a folder of runs.

    RUNS is the folder, "runs" by default, or a URI such as s3://bucket/runs, whose events are copied to this machine
    as they are written.
    """
    if isinstance(runs, str):
        sys.exit(_serve_store(runs, host, port))
    if not is_there(runs) or not runs.is_dir():
        raise RunError(f"no runs at {runs}: no such folder")
    command = _command(runs, host, port)
    os.execv(command[0], command)  # so that signals, output and exit code are TensorBoard's own


def _command(folder: Path, host: str, port: int) -> list[str]:
    return [
        sys.executable, "-m", "tensorboard.main",
        "--logdir", str(folder), "--host", host, "--port", str(port), "--reload_interval", f"{LOOK_SECONDS:.0f}",
    ]  # fmt: skip


def _serve_store(uri: str, host: str, port: int) -> int:
    """Runs TensorBoard on a continuously updated copy of an object store's events; returns its exit code."""
    from vaedist.storage.follower import Follower
    from vaedist.storage.scratch import scratch_folder
    from vaedist.storage.transfer import Store

    store = Store(uri)
    store.check()
    with scratch_folder() as local:
        follower = Follower(store, local, wanted=_is_tensorboard_file, grows=_is_events)
        if not follower.update() and not store.files():
            raise RunError(f"no runs at {uri}: no such folder")
        process = subprocess.Popen(_command(local, host, port))
        signal.signal(signal.SIGINT, lambda *_: None)  # a terminal also sends it to TensorBoard
        signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        try:
            return _follow(follower, process)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()


def _follow(follower: "Follower", process: "subprocess.Popen[bytes]") -> int:
    """Copies new events until TensorBoard ends; warns if the object store does not respond, and tries again later."""
    while True:
        try:
            return process.wait(LOOK_SECONDS)
        except subprocess.TimeoutExpired:
            try:
                follower.update()
            except StorageError as error:
                click.echo(f"warning: {error}", err=True)


def _is_tensorboard_file(name: str) -> bool:
    return "tensorboard" in name.split("/")[:-1] or _is_events(name)


def _is_events(name: str) -> bool:
    return name.rpartition("/")[2].startswith("events.out.tfevents.")
