"""A user's own packages, made importable for Ray's workers."""

import importlib.util
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vaedist.config import Experiment, Sweep
from vaedist.errors import ClusterError
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


def check_importable(packages: Iterable[Path]) -> None:
    """Checks that the workers of an existing connection to Ray can import packages, on each node with CPUs.

    An actor needs no check, because it has found the packages itself, in the same environment.

    Raises:
        ClusterError: a package cannot be imported.
    """
    places = {place.stem: place for place in packages}
    if not places or ray.get_runtime_context().get_actor_id() is not None:
        return
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    # soft: if a node is lost in the meantime, its task runs on another one
    strategies = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=True) for node in nodes]
    task = ray.remote(_missing)
    found = ray.get([task.options(num_cpus=0, scheduling_strategy=here).remote(list(places)) for here in strategies])
    for node, names in zip(nodes, found, strict=True):
        if names:
            modules = [str(places[name]) for name in names]
            folders = os.pathsep.join(dict.fromkeys(str(places[name].parent) for name in names))
            raise ClusterError(
                f"workers on {node['NodeManagerAddress']} cannot import {', '.join(names)}: connect with "
                f'ray.init(runtime_env={{"py_modules": {modules}}}), or add {folders} to PYTHONPATH on every node'
            )


def _missing(names: list[str]) -> list[str]:
    """Returns the names of top-level modules that this process cannot import."""
    return [name for name in names if importlib.util.find_spec(name) is None]
