"""The code of vaedist and the versions of its dependencies, so that a cluster runs exactly what runs here."""

import re
import shutil
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

import vaedist

NAME = "vaedist"
ON_CLUSTER = ("ray",)  # is running there already, and cannot be another version


def copy_code(folder: Path) -> Path:
    """Copies the running code of vaedist into a folder, for a node to have on its path.

    Ray names a folder that it sends by its content, so that the same code is sent once, and unpacks it under a lock. A
    wheel would be installed by pip, and be lost where two environments of a job are made on a node at the same time.

    Args:
        folder: is made.

    Returns:
        The package in the folder; what Python wrote besides the code is left out.
    """
    code = Path(vaedist.__file__).parent
    return Path(shutil.copytree(code, folder / NAME, ignore=shutil.ignore_patterns("__pycache__", "*.pyc")))


def pinned_requirements(extras: Iterable[str] = ()) -> list[str]:
    """Returns vaedist's direct and indirect requirements, pinned as NAME==VERSION to what is installed here; not Ray.

    A requirement that is not installed here, such as CUDA's libraries on a laptop, keeps its own bounds.

    Args:
        extras: of vaedist's, such as "gpu" or "optuna".

    Raises:
        ValueError: vaedist has no such extra.
    """
    known = set(metadata.metadata(NAME).get_all("Provides-Extra") or ())
    if unknown := sorted(set(extras) - known):
        raise ValueError(f"{NAME} has no extra {unknown[0]!r}: there are {', '.join(sorted(known))}")
    pinned: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    pending = [(NAME, extra) for extra in ("", *extras)]
    while pending:
        name, extra = pending.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        for line in metadata.requires(name) or ():
            need = Requirement(line)
            if need.marker is not None and not need.marker.evaluate({"extra": extra}):
                continue
            needed = _canonical(need.name)
            try:
                version = metadata.version(needed)
            except metadata.PackageNotFoundError:
                need.marker = None
                pinned.setdefault(needed, str(need))
                continue
            if needed != NAME:
                pinned[needed] = f"{needed}=={version}"
            pending += [(needed, wanted) for wanted in ("", *need.extras)]
    return sorted(line for name, line in pinned.items() if name not in ON_CLUSTER)


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
