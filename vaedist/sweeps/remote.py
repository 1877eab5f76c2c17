"""Sweeps that are kept on a store: worked on and read in a local copy of what they are told by."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from vaedist.errors import StorageError
from vaedist.storage.mirror import Mirror
from vaedist.storage.retry import COMMAND_SECONDS, RUN_SECONDS
from vaedist.storage.scratch import scratch_folder
from vaedist.storage.transfer import Store
from vaedist.sweeps.folder import SweepFolder

LOG_SECONDS = 2.0  # between two looks whether the log of trials grew
REPORT = ("report.md", "results.csv", "results.json")


def pulled_sweep(folder: SweepFolder, *, seconds: float = COMMAND_SECONDS) -> SweepFolder:
    """The sweep, with its log and its trials' metrics and pictures as they are now; a local one has them anyway.

    Raises:
        StorageError: the store does not answer.
    """
    if folder.uri:
        store = Store(folder.uri, seconds=seconds)
        known = store.files()
        for path in (folder.sweep, folder.trials):
            if path.name not in known:
                path.unlink(missing_ok=True)
        wanted = {folder.sweep.name, folder.trials.name}
        store.pull(folder.path, [name for name in known if name in wanted or _of_a_trial(name)], known)
    return folder


@contextmanager
def mirrored_sweep(folder: SweepFolder, notify: Callable[[str], None]) -> Iterator[SweepFolder]:
    """A folder for the one who runs a sweep: its own, or a scratch folder for one on a store, mirrored to it.

    What the trials write to the store themselves is left to them.

    Raises:
        StorageError: the store refused, or did not answer for `RUN_SECONDS`.
    """
    if not folder.uri:
        yield folder
        return
    store = Store(folder.uri, seconds=RUN_SECONDS, notify=notify)
    with scratch_folder() as scratch:
        local = pulled_sweep(replace(folder, path=scratch), seconds=RUN_SECONDS)
        mirror = Mirror(local.path, store, leave=_of_a_trial, every=LOG_SECONDS)
        try:
            yield local
        except BaseException:
            with suppress(StorageError):
                mirror.close()
            raise
        mirror.close()


def push_report(folder: SweepFolder) -> None:
    """Bring a sweep's report to the store that the sweep is kept on, if it is.

    Raises:
        StorageError: the store does not answer.
    """
    if folder.uri:
        store = Store(folder.uri)
        files = [folder.path / name for name in REPORT] + sorted((folder.path / "plots").glob("*.png"))
        for path in files:
            if path.is_file():
                store.upload(path, path.relative_to(folder.path).as_posix())


def _of_a_trial(name: str) -> bool:
    """Whether a file is written by a trial's workers, and read here."""
    parts = name.split("/")
    if len(parts) == 2:
        return parts[1] in ("metrics.jsonl", "experiment.toml")
    return len(parts) == 3 and parts[1] == "pictures" and "-epoch-" not in parts[2]
