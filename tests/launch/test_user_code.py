"""Workers of a local Ray import the driver's packages, by PYTHONPATH."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vaedist.launch.user_code import python_path, staged

# Prints where a worker, in another folder, imports a package and a module from.
DRIVER = """
import json, os, sys
import ray
from vaedist.launch.session import COMPUTING, ray_session
from vaedist.packages import package_of

@ray.remote(runtime_env=COMPUTING, num_cpus=0)
def imported():
    os.chdir("/")
    import alone, my_vae.model
    return [alone.__file__, my_vae.model.__file__]

packages = [package_of("my_vae.model:Model"), package_of("alone:Likelihood")]
with ray_session(sys.argv[1] or None, packages):
    print(json.dumps(ray.get(imported.remote())))
"""


@pytest.fixture
def code(tmp_path):
    """Returns a folder that contains a package and a module."""
    folder = tmp_path / "code"
    (folder / "my_vae").mkdir(parents=True)
    for name in ("my_vae/__init__.py", "my_vae/model.py", "alone.py"):
        (folder / name).write_text("")
    return folder


def imported(address, cwd, path):
    """Returns the files that a worker imports."""
    environment = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "PYTHONPATH")}
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, address],
        cwd=cwd, env=environment | ({"PYTHONPATH": path} if path else {}), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_relative_entries_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert python_path([]) == {}
    assert python_path([tmp_path / "code" / "my_vae", tmp_path / "code" / "alone.py"]) == {
        "PYTHONPATH": str(tmp_path / "code")
    }
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([".", "code", "/elsewhere"]))
    found = python_path([tmp_path / "code" / "my_vae", tmp_path / "other" / "more"])["PYTHONPATH"].split(os.pathsep)
    assert found == [str(tmp_path), str(tmp_path / "code"), "/elsewhere", str(tmp_path / "other")]


def test_only_code_is_staged(code):
    (code / "my_vae" / ".hidden").write_text("")
    with staged([code / "my_vae", code / "alone.py"]) as copies:
        package, module = map(Path, copies)
        assert (package.name, module.name) == ("my_vae", "alone.py")
        assert sorted(file.name for file in package.iterdir()) == ["__init__.py", "model.py"]
    assert not package.exists()


@pytest.mark.ray
@pytest.mark.parametrize(("below", "path"), [(".", "code"), ("code", ".")])
def test_a_local_ray_imports_packages_in_place(code, below, path):
    expected = [str(code / "alone.py"), str(code / "my_vae" / "model.py")]
    assert imported("", code.parent / below, path) == expected
