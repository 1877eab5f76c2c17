"""Folder of links to the TensorBoard folders of runs, so that TensorBoard shows runs by their own names."""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from vaedist.errors import StorageError
from vaedist.monitor.tensorboard import PREFIX

EVENTS = "tensorboard"  # name of a run's folder of events


class BoardView:
    """Links RUN/tensorboard of each run below some folders as RUN in a folder for `tensorboard --logdir`.

    A run that is given itself has its own name, and so do the runs in a folder that is given alone. The names of the
    runs in several folders begin with the folder's name. Other folders with event files are linked under their name.

    Args:
        folder: an empty folder for the links.
        sources: runs, sweeps, and folders of them.

    Raises:
        StorageError: from `update`, if a link cannot be created.
    """

    def __init__(self, folder: Path, sources: Sequence[Path]) -> None:
        self._folder = folder
        absolute = list(dict.fromkeys(_run_of(Path(os.path.abspath(source))) for source in sources))  # noqa: PTH100 - keeps links
        self._sources = list(zip(absolute, _prefixes(absolute), strict=True))
        self._linked: dict[str, Path] = {}

    def update(self) -> None:
        """Adds links for new runs, and removes those of runs that no longer exist."""
        found: dict[str, Path] = {}
        for source, prefix in self._sources:
            for parts, events in _runs(source):
                found.setdefault("/".join((*prefix, *parts)) or source.name, events)
        try:
            for name in self._linked.keys() - found.keys():
                (self._folder / name).unlink(missing_ok=True)
            for name in found.keys() - self._linked.keys():
                link = self._folder / name
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(found[name], target_is_directory=True)
        except OSError as error:
            raise StorageError(f"cannot link runs in {self._folder}: {error.strerror or error}") from error
        self._linked = found


def _prefixes(sources: Sequence[Path]) -> list[tuple[str, ...]]:
    """Returns the first parts of the names of each source's runs, which differ between sources."""
    if len(sources) == 1 and not (sources[0] / EVENTS).is_dir():
        return [()]
    for length in range(1, 1 + max(len(source.parts) for source in sources)):
        prefixes = [source.parts[-length:] for source in sources]
        if len(set(prefixes)) == len(prefixes):
            break
    return [tuple(part for part in prefix if part != os.sep) for prefix in prefixes]


def _run_of(source: Path) -> Path:
    """Returns the run's folder for its folder of events, and any other folder unchanged."""
    return source.parent if source.name == EVENTS else source


def _runs(
    folder: Path, name: tuple[str, ...] = (), above: frozenset[str] = frozenset()
) -> Iterator[tuple[tuple[str, ...], Path]]:
    """Yields the names of the runs in a folder, as parts of a path relative to it, and their folders of events.

    Args:
        folder: the folder.
        name: its own relative path.
        above: real paths of the folders above, against loops of links.
    """
    entries: list[os.DirEntry[str]] = []
    with suppress(OSError):  # removed in the meantime, or not readable
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    folders = [entry.name for entry in entries if entry.is_dir()]
    if EVENTS in folders:
        yield name, folder / EVENTS
    elif any(entry.name.startswith(PREFIX) for entry in entries):
        yield name, folder
    elif (real := os.path.realpath(folder)) not in above:
        for inner in folders:
            yield from _runs(folder / inner, (*name, inner), above | {real})
