"""The wheel that goes to a cluster, and the versions that go with it."""

import subprocess
import sys
import zipfile
from importlib import metadata

import pytest

import vaedist
from vaedist.launch import package
from vaedist.launch.package import build_wheel, pinned_requirements


def test_the_wheel_installs_without_an_index_and_runs(tmp_path):
    wheel = build_wheel(tmp_path)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--target", tmp_path / "there", wheel]
    subprocess.run(pip, check=True)
    code = "import vaedist; print(vaedist.__file__); from vaedist.cli import main; main(['--version'])"
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "there", capture_output=True, text=True, check=True
    ).stdout
    assert printed.splitlines()[0].startswith(str(tmp_path / "there"))
    assert vaedist.__version__ in printed.splitlines()[1]


def test_the_wheel_holds_the_code_and_nothing_else(tmp_path):
    names = zipfile.ZipFile(build_wheel(tmp_path)).namelist()
    assert "vaedist/launch/worker.py" in names
    assert "vaedist/__main__.py" in names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"vaedist"}
    assert not [name for name in names if "__pycache__" in name or name.endswith((".pyc", ".toml", ".arrow"))]


def test_the_same_code_is_the_same_wheel_and_other_code_has_another_name(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = build_wheel(tmp_path / "a"), build_wheel(tmp_path / "b")
    assert first.name == second.name
    assert first.read_bytes() == second.read_bytes()

    code = tmp_path / "vaedist"
    code.mkdir()
    (code / "__init__.py").write_text("changed = 1\n")
    monkeypatch.setattr(vaedist, "__file__", str(code / "__init__.py"))
    assert build_wheel(tmp_path / "a").name != first.name


def test_every_requirement_is_pinned_to_what_is_installed():
    pinned = dict(line.split("==") for line in pinned_requirements(["optuna"]))
    assert pinned["tensorflow"] == metadata.version("tensorflow")
    assert pinned["numpy"] == metadata.version("numpy")
    assert "optuna" in pinned, "the extra"
    assert "requests" in pinned, "what a requirement requires"
    assert "ray" not in pinned, "the cluster's runs already"
    assert not {"vaedist", "pytest", "ruff"} & pinned.keys()


def test_what_is_not_installed_is_asked_for(monkeypatch):
    def version(name):
        if name == "numpy":
            raise metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(package.metadata, "version", version)
    assert any(line.startswith("numpy>=") for line in pinned_requirements())


def test_an_extra_that_there_is_not():
    with pytest.raises(ValueError, match="vaedist has no extra 'gpus': there are "):
        pinned_requirements(["gpus"])
