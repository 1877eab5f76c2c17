"""A user's own packages, made importable for Ray's workers."""

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vaedist.config import Experiment, Sweep
from vaedist.packages import copy_package, user_packages

PATH = "PYTHONPATH"


def code_of(job: Experiment | Sweep) -> list[Path]:
    """Returns the user's packages and modules that an experiment or a sweep names, without installed ones.

    Raises:
        ConfigError: Python does not find one of them.
    """
    values = job.model_dump()
    space = values.get("tune", {}).get("space", {})
    return list(dict.fromkeys([*user_packages(values["model"], "model"), *user_packages(space, "tune.space")]))


def python_path(packages: Iterable[Path]) -> dict[str, str]:
    """Returns a PYTHONPATH with which a process in any folder finds the packages that this one finds.

    Relative entries become absolute, and the parent folders of the packages are added.

    Returns:
        The variable and its value; an empty dictionary if it is not needed.
    """
    given = os.environ.get(PATH)
    entries = given.split(os.pathsep) if given else []  # an empty entry is the current folder
    folders = [str(Path(entry).absolute()) for entry in entries]
    folders += [str(place.parent) for place in packages]
    return {PATH: os.pathsep.join(dict.fromkeys(folders))} if folders else {}


@contextmanager
def staged(packages: Iterable[Path]) -> Iterator[list[str]]:
    """Copies the code of packages and modules to a temporary folder, for Ray's `py_modules`.

    Raises:
        ConfigError: a file cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="vaedist-") as place:
        yield [str(copy_package(package, Path(place))) for package in packages]
