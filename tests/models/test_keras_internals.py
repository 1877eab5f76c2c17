"""Internals of the installed Keras that vaedist uses; a failure names the file to look at."""

import ast
import tomllib
from pathlib import Path

import keras
from keras import layers
from keras.src.utils import naming
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
LOOK_AT = f"Keras {keras.__version__}: look at `naming.reset_uids` in vaedist/models/model.py"


def imports(path):
    """Returns the modules that a file imports, as dotted names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{name.name}" for name in node.names)


def test_naming_is_the_only_internal_module_that_is_imported():
    files = sorted((ROOT / "vaedist").rglob("*.py"))
    found = {(path.name, name) for path in files for name in imports(path) if name.startswith("keras.src")}
    assert found == {("model.py", "keras.src.utils.naming")}


def test_layers_are_numbered_from_the_start_after_a_reset():
    layers.Dense(1)
    second = layers.Dense(1)
    assert second.name != "dense", LOOK_AT
    naming.reset_uids()
    assert [layers.Dense(1).name, layers.Dense(1).name] == ["dense", "dense_1"], LOOK_AT


def test_no_release_is_allowed_that_was_not_checked():
    pinned = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("keras=="))
    checked = pinned.removeprefix("keras==")
    assert keras.__version__ == checked, f"{LOOK_AT}, then change constraints.txt and the bound in pyproject.toml"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    allowed = next(need.specifier for need in map(Requirement, project["dependencies"]) if need.name == "keras")
    major, minor = map(int, checked.split(".")[:2])
    assert checked in allowed
    assert f"{major}.{minor + 1}.0" not in allowed, "pyproject.toml allows a Keras that was not checked"
