"""`vaedist tensorboard`."""

import os
import sys
from pathlib import Path

import click

from vaedist.errors import RunError


@click.command()
@click.argument("runs", type=click.Path(path_type=Path), default="runs")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to serve on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=6006, show_default=True, help="Port; 0 takes a free one."
)
def tensorboard(runs: Path, host: str, port: int) -> None:
    """Serve TensorBoard over RUNS ("runs" if not given): a run's folder, or one that holds several."""
    if not runs.is_dir():
        raise RunError(f"no runs at {runs}: no such folder")
    command = [
        sys.executable,
        "-m",
        "tensorboard.main",
        "--logdir",
        str(runs),
        "--host",
        host,
        "--port",
        str(port),
    ]
    os.execv(sys.executable, command)  # so that signals, output and exit code are TensorBoard's own
