"""`vaedist tensorboard`."""

import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import click

from vaedist.cli.loading import quiet
from vaedist.cli.options import Location
from vaedist.errors import RunError, StorageError
from vaedist.storage.paths import is_there

LOOK_SECONDS = 5.0  # interval of polling for new runs, and an object store for changes


@click.command()
@click.argument("runs", nargs=-1, type=Location())
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to serve on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=6006, show_default=True, help="Port; 0 takes a free one."
)
def tensorboard(runs: tuple[str | Path, ...], host: str, port: int) -> None:
    """Serve TensorBoard for runs, sweeps and folders of them.

    RUNS are one or more folders, "runs" by default, or URIs such as s3://bucket/runs, whose events are copied to this
    machine as they are written. Runs that start later are added. docs/tensorboard.md describes what is shown where.
    """
    from vaedist.monitor.board_view import BoardView
    from vaedist.storage.scratch import scratch_folder

    with scratch_folder() as scratch:
        opened = [
            _opened(place, scratch / "copies" / str(number)) for number, place in enumerate(runs or (Path("runs"),))
        ]
        view = BoardView(scratch / "runs", [folder for folder, _ in opened])
        (scratch / "runs").mkdir()
        view.update()
        updates = [*(update for _, update in opened), view.update]
        threading.Thread(target=_repeat, args=(updates,), name="runs", daemon=True).start()
        sys.exit(_serve(scratch / "runs", host, port))


def _opened(runs: str | Path, copy: Path) -> tuple[Path, Callable[[], object]]:
    """Returns the local folder of runs, and a function that updates it.

    Args:
        runs: the folder, or its URI.
        copy: folder for a copy of the events on an object store.
    """
    if isinstance(runs, Path):
        if not is_there(runs) or not runs.is_dir():
            raise RunError(f"no runs at {runs}: no such folder")
        return runs, lambda: None
    from vaedist.storage.follower import Follower
    from vaedist.storage.transfer import Store
    from vaedist.storage.uri import name_of

    store, local = Store(runs), copy / name_of(runs)
    store.check()
    follower = Follower(store, local, wanted=_is_tensorboard_file, grows=_is_events)
    if not follower.update() and not store.files():
        raise RunError(f"no runs at {runs}: no such folder")
    return local, follower.update


def _repeat(updates: Sequence[Callable[[], object]]) -> NoReturn:
    """Calls functions at intervals; if an object store does not respond, warns and tries again later."""
    while True:
        time.sleep(LOOK_SECONDS)
        for update in updates:
            try:
                update()
            except StorageError as error:
                click.echo(f"warning: {error}", err=True)


def _serve(folder: Path, host: str, port: int) -> int:
    """Runs TensorBoard in this process until it is interrupted; returns its exit code."""
    with quiet():
        import tensorflow  # noqa: F401 - TensorBoard imports it, which prints lines about this machine
        from tensorboard import default, main_lib, program

    main_lib.global_init()
    board = program.TensorBoard(plugins=default.get_plugins())
    board.configure(
        ("tensorboard", "--logdir", str(folder), "--host", host, "--port", str(port),
         "--reload_interval", f"{LOOK_SECONDS:.0f}")
    )  # fmt: skip
    code: int = board.main()
    return code


def _is_tensorboard_file(name: str) -> bool:
    return "tensorboard" in name.split("/")[:-1] or _is_events(name)


def _is_events(name: str) -> bool:
    return name.rpartition("/")[2].startswith("events.out.tfevents.")
