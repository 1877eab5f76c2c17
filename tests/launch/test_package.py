"""The code and the pinned versions that are sent to a cluster."""

import asyncio
import subprocess
import sys
from importlib import metadata

import pytest
from ray._private.runtime_env.packaging import create_package, get_uri_for_directory
from ray._private.runtime_env.py_modules import PyModulesPlugin

import vaedist
from vaedist.launch.jobs import package
from vaedist.launch.jobs.package import copy_code, pinned_requirements


def test_the_code_runs_from_where_it_is_copied_to(tmp_path):
    there = copy_code(tmp_path / "there").parent
    code = "import vaedist; print(vaedist.__file__); from vaedist.cli import main; main(['--version'])"
    printed = subprocess.run([sys.executable, "-c", code], cwd=there, capture_output=True, text=True, check=True).stdout
    assert printed.splitlines()[0].startswith(str(there))
    assert vaedist.__version__ in printed.splitlines()[1]


def test_the_code_is_copied_and_nothing_else(tmp_path):
    copy_code(tmp_path)
    names = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()]
    assert "vaedist/launch/training/ray_worker.py" in names
    assert "vaedist/__main__.py" in names
    assert not [name for name in names if "__pycache__" in name or name.endswith((".pyc", ".toml", ".arrow"))]


def test_ray_uploads_a_package_once_and_changed_code_again(tmp_path, monkeypatch):
    def name(code):
        return get_uri_for_directory(str(code), include_gitignore=True)

    first = name(copy_code(tmp_path / "a"))
    assert first == name(copy_code(tmp_path / "b"))
    changed = copy_code(tmp_path / "c")
    (changed / "__init__.py").write_text("changed = 1\n")
    monkeypatch.setattr(vaedist, "__file__", str(changed / "__init__.py"))
    assert name(copy_code(tmp_path / "d")) != first


def test_two_environments_of_a_job_are_made_on_a_node_at_the_same_time(tmp_path):
    """Returns both environments, which wait until all packages are uploaded."""
    package = tmp_path / "upload.zip"
    create_package(str(copy_code(tmp_path)), package, include_gitignore=True, include_parent_dir=True)

    class Store:
        """Ray's control store, which contains uploaded packages."""

        async def async_internal_kv_get(self, *_, **__):
            await asyncio.sleep(0.01)
            return package.read_bytes()

    async def both():
        plugin = PyModulesPlugin(str(tmp_path / "node"), Store())
        await asyncio.gather(*(plugin.create("gcs://_ray_pkg_0.zip", None, None) for _ in range(2)))
        return plugin._get_local_dir_from_uri("gcs://_ray_pkg_0.zip")

    assert (asyncio.run(both()) / "vaedist" / "launch" / "training" / "ray_worker.py").is_file()


def test_every_requirement_is_pinned_to_what_is_installed():
    pinned = dict(line.split("==") for line in pinned_requirements(["optuna"]))
    assert pinned["tensorflow"] == metadata.version("tensorflow")
    assert pinned["numpy"] == metadata.version("numpy")
    assert "optuna" in pinned, "the extra"
    assert "requests" in pinned, "what a requirement requires"
    assert "ray" not in pinned, "the cluster's runs already"
    assert not {"vaedist", "pytest", "ruff"} & pinned.keys()


def test_requirements_that_are_not_installed_keep_their_bounds(monkeypatch):
    def version(name):
        if name == "numpy":
            raise metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(package.metadata, "version", version)
    assert any(line.startswith("numpy>=") for line in pinned_requirements())


def test_an_unknown_extra_is_refused():
    with pytest.raises(ValueError, match="vaedist has no extra 'gpus': there are "):
        pinned_requirements(["gpus"])
