"""vaedist's own code and the versions of its dependencies, for a job that runs the same as here."""

import re
import shutil
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

import vaedist

NAME = "vaedist"
ON_CLUSTER = ("ray",)  # a job must use the version that the cluster already runs


def copy_code(folder: Path) -> Path:
    """Copies the code of vaedist, without Python's caches, to a folder for Ray's `py_modules`.

    Ray uploads a folder only once for the same content, and unpacks it under a lock. A wheel would be installed by pip,
    and would be lost if two environments of a job are created on a node at the same time.

    Args:
        folder: the folder, which is created.

    Returns:
        The package in the folder.
    """
    code = Path(vaedist.__file__).parent
    return Path(shutil.copytree(code, folder / NAME, ignore=shutil.ignore_patterns("__pycache__", "*.pyc")))


def pinned_requirements(extras: Iterable[str] = ()) -> list[str]:
    """Returns vaedist's direct and indirect requirements except Ray, pinned to the installed versions, NAME==VERSION.

    A requirement that is not installed here, such as CUDA's libraries on a laptop, keeps its version bounds.

    Args:
        extras: extras of vaedist, such as "gpu" or "optuna".

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
