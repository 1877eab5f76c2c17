"""Allowed imports, and commands that load neither TensorFlow nor Ray."""

import ast
import importlib
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from vaedist.launch.training.backend import TensorflowCluster

ROOT = Path(__file__).parents[1]
HEAVY = ("tensorflow", "keras", "ray", "tensorflow_datasets", "skimage")

# Runs `vaedist ARGUMENTS` for every list of arguments, and prints its output and the loaded modules.
RUN = """
import contextlib, io, json, sys
from vaedist.cli import main
said = []
for arguments in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        main.main(arguments, prog_name="vaedist", standalone_mode=False)
    said.append(out.getvalue())
print(json.dumps([said, sorted({name.partition(".")[0] for name in sys.modules})]))
"""

# Prints the words of every command below the group, and its help.
WALK = """
import json
import click
from vaedist.cli import main

def walk(command, words):
    yield words, command.help
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            yield from walk(command.get_command(context, name), [*words, name])

print(json.dumps(list(walk(main, []))))
"""


def python(code, *arguments):
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def commands():
    """Returns (words, help) of every command."""
    return python(WALK)


def test_imports_go_one_way():
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "module",
    [
        "vaedist",
        "vaedist.cli",
        "vaedist.config",
        "vaedist.errors",
        "vaedist.data.prepare",
        "vaedist.models.mlp.options",
        "vaedist.monitor.terminal",
    ],
)
def test_importing_is_light(module):
    loaded = python(f"import json, sys, {module}; print(json.dumps(list(sys.modules)))")
    assert {name.partition(".")[0] for name in loaded}.isdisjoint(HEAVY)


def test_processes_that_only_coordinate_do_not_load_tensorflow():
    """The cases are the command, the controller of a run, which gets the backend from Ray, and a trial of a sweep."""
    get = "import sys, pickle, json; pickle.loads(bytes.fromhex(sys.argv[1])).backend_cls()"
    loaded = "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    command = python(f"import json, sys, vaedist.launch.training.trainer; {loaded}")
    trial = python(f"import json, sys, vaedist.launch.tuning.trial, vaedist.launch.tuning.sweep; {loaded}")
    controller = python(f"{get}; {loaded}", pickle.dumps(TensorflowCluster("run", channel=None)).hex())
    for found in (command, trial, controller):
        assert "ray" in found
        assert {"tensorflow", "keras"}.isdisjoint(found)


def test_help_of_every_command_is_light(commands):
    asked = [[*words, "--help"] for words, _ in commands]
    said, loaded = python(RUN, json.dumps(asked))
    assert set(loaded).isdisjoint(HEAVY)
    for arguments, text in zip(asked, said, strict=True):
        assert text.startswith("Usage: vaedist"), arguments


def test_no_module_imports_tensorflow_through_tf_keras():
    """If TF_USE_LEGACY_KERAS is set, tf.keras is another library."""
    uses = [path for path in (ROOT / "vaedist").rglob("*.py") if "tf.keras" in path.read_text()]
    assert uses == []


def test_keras_on_another_backend_is_refused(monkeypatch):
    import keras

    import vaedist.models.keras_backend

    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ImportError, match="vaedist needs Keras on TensorFlow, but KERAS_BACKEND is 'jax'"):
        importlib.reload(vaedist.models.keras_backend)


def test_the_backend_is_tensorflow_despite_keras_configuration_file(tmp_path):
    (tmp_path / "keras.json").write_text('{"backend": "jax"}')
    environment = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    command = [sys.executable, "-c", "import vaedist.models.likelihoods, keras; print(keras.backend.backend())"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=environment | {"KERAS_HOME": str(tmp_path)}
    )
    assert done.stdout.strip() == "tensorflow", done.stderr


RAY_INTERNALS = "vaedist/launch/ray_internals.py"
PUBLIC_OF_RAY = (
    "ray", "ray.data", "ray.exceptions", "ray.job_submission", "ray.runtime_env", "ray.train", "ray.train.backend",
    "ray.train.collective", "ray.tune", "ray.tune.schedulers", "ray.tune.search", "ray.util.actor_pool",
    "ray.util.scheduling_strategies",
)  # fmt: skip


def uses_of_rays_internals(text):
    """Returns the lines of a module that import or use internals of Ray, or change an attribute of Ray."""
    tree, imported = ast.parse(text), {"ray"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "ray":
            imported |= {name.asname or name.name for name in node.names}
            if node.module not in PUBLIC_OF_RAY or any(name.name.startswith("_") for name in node.names):
                yield ast.unparse(node)
        elif isinstance(node, ast.Import):
            for name in node.names:
                if name.name.partition(".")[0] == "ray" and name.name not in PUBLIC_OF_RAY:
                    yield ast.unparse(node)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            root, _, path = ast.unparse(node).partition(".")
            changed = not isinstance(node.ctx, ast.Load)
            private = any(part.startswith("_") and not part.startswith("__") for part in path.split("."))
            if root in imported and (changed or private):
                yield ast.unparse(node)


def test_one_module_uses_rays_internals_and_changes_ray():
    files = {path.relative_to(ROOT).as_posix(): path.read_text() for path in (ROOT / "vaedist").rglob("*.py")}
    found = {name: list(uses_of_rays_internals(text)) for name, text in files.items()}
    assert found.pop(RAY_INTERNALS)
    assert {name: uses for name, uses in found.items() if uses} == {}, f"belongs into {RAY_INTERNALS}"


@pytest.mark.parametrize(
    "text",
    [
        "from ray._private import state",
        "from ray import _raylet",
        "import ray.train.v2._internal.callbacks",
        "import ray\nray._private.worker",
        "from ray.tune.execution import class_cache",
        "import ray\nray.kill = print",
        "from ray import tune\ntune.Tuner.fit += 1",
    ],
)
def test_uses_of_rays_internals_are_found(text):
    assert list(uses_of_rays_internals(text))
