"""Packages of users' code: which are accepted, which of their files are used, and their digest."""

import os
import subprocess
import sys
import zipfile

import pytest

import vaedist
from vaedist.errors import ConfigError
from vaedist.packages import (
    check_packages,
    copy_package,
    is_installed,
    package_digest,
    package_files,
    package_of,
    references,
    user_packages,
)

MIB = 2**20


@pytest.fixture
def package(tmp_path):
    """Returns a package of two modules, with files that are not part of it."""
    folder = tmp_path / "mine" / "my_vae"
    (folder / "parts").mkdir(parents=True)
    (folder / "__pycache__").mkdir()
    (folder / ".git").mkdir()
    for name, text in (
        ("__init__.py", ""), ("model.py", "x = 1\n"), ("parts/flow.py", "y = 2\n"), ("notes.md", "a note\n"),
        ("__pycache__/model.cpython-311.pyc", "z"), ("old.pyc", "z"), (".git/config", "z"), (".hidden.py", "z"),
    ):  # fmt: skip
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def path(monkeypatch, tmp_path):
    """A folder on Python's path."""
    folder = tmp_path / "path"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


def files_of(folder):
    return [file.relative_to(folder).as_posix() for file in package_files(folder)]


def test_caches_and_hidden_files_do_not_belong_to_a_package(package):
    assert files_of(package) == ["__init__.py", "model.py", "notes.md", "parts/flow.py"]


def test_a_copy_contains_only_the_files_of_the_package(package, tmp_path):
    copy = copy_package(package, tmp_path / "copy")
    assert copy == tmp_path / "copy" / "my_vae"
    assert sorted(p.relative_to(copy).as_posix() for p in copy.rglob("*") if p.is_file()) == files_of(package)
    assert (copy / "model.py").read_text() == "x = 1\n"
    module = tmp_path / "alone.py"
    module.write_text("z = 3\n")
    assert copy_package(module, tmp_path / "copy").read_text() == "z = 3\n"


def test_a_digest_is_of_names_and_contents_of_source_files(package, tmp_path):
    before = package_digest(package)
    assert len(before) == 64
    assert package_digest(copy_package(package, tmp_path / "elsewhere")) == before
    (package / "notes.md").write_text("another note\n")
    (package / "__pycache__" / "model.cpython-311.pyc").write_text("other")
    assert package_digest(package) == before
    (package / "model.py").write_text("x = 2\n")
    changed = package_digest(package)
    assert changed != before
    (package / "model.py").rename(package / "models.py")
    assert package_digest(package) not in (before, changed)


def test_moving_a_line_from_one_file_to_the_next_changes_the_digest(tmp_path):
    for folder, texts in (("a", ("one\ntwo\n", "")), ("b", ("one\n", "two\n"))):
        (tmp_path / folder / "p").mkdir(parents=True)
        for name, text in zip(("x.py", "y.py"), texts, strict=True):
            (tmp_path / folder / "p" / name).write_text(text)
    assert package_digest(tmp_path / "a" / "p") != package_digest(tmp_path / "b" / "p")


def test_the_digest_of_a_module(tmp_path):
    module = tmp_path / "alone.py"
    module.write_text("z = 3\n")
    before = package_digest(module)
    (tmp_path / "other.py").write_text("z = 4\n")
    assert package_digest(module) == before
    module.write_text("z = 4\n")
    assert package_digest(module) != before


def test_a_package_is_found_without_importing_it(path, package):
    (path / "boom").mkdir()
    (path / "boom" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (path / "alone.py").write_text("raise RuntimeError('imported')\n")
    assert package_of("boom.deep.module:Class") == path / "boom"
    assert package_of("alone:Class") == path / "alone.py"
    assert "boom" not in sys.modules


def test_a_folder_without_init_is_a_package_to_python(path):
    (path / "plain").mkdir()
    (path / "plain" / "model.py").write_text("")
    assert package_of("plain.model:Class") == path / "plain"


def test_packages_that_are_not_there_are_named(path):
    with pytest.raises(ConfigError, match=r"^model\.type = 'absent\.module:Class': there is no module 'absent' on "):
        package_of("absent.module:Class")
    with pytest.raises(ConfigError, match=r"^model\.flow\.type = 'sys:path': module 'sys' is not a folder or a file"):
        package_of("sys:path", "model.flow.type")
    (path / "inside.zip").write_bytes(b"")
    with zipfile.ZipFile(path / "inside.zip", "w") as archive:
        archive.writestr("zipped.py", "")
    sys.path.insert(0, str(path / "inside.zip"))
    try:
        with pytest.raises(ConfigError, match="module 'zipped' is not a folder or a file"):
            package_of("zipped:Class")
    finally:
        sys.path.remove(str(path / "inside.zip"))


def test_a_job_names_packages_at_any_depth(path):
    for name in ("one", "two"):
        (path / name).mkdir()
        (path / name / "__init__.py").write_text("")
    values = {
        "type": "one.model:Model", "likelihood": "bernoulli", "hidden": 3, "name": "not/one:Class",
        "flow": {"type": "two:Flow"}, "choice": [{"grid": ["one:Other", "numpy:ndarray", "vaedist.models:VAE"]}],
    }  # fmt: skip
    assert list(references(values)) == [
        "one.model:Model", "two:Flow", "one:Other", "numpy:ndarray", "vaedist.models:VAE",
    ]  # fmt: skip
    assert user_packages(values) == [path / "one", path / "two"], "not those that are installed"


def test_what_is_installed():
    import email

    import numpy

    for module, installed in ((numpy, True), (email, True), (vaedist, True)):
        assert is_installed(package_of(f"{module.__name__}:X")) is installed


def test_packages_are_accepted_by_folder(package, path, tmp_path, monkeypatch):
    assert check_packages([package, package], MIB) == [package]
    monkeypatch.chdir(package)
    assert check_packages([package.relative_to(package)], MIB) == [package], "as ."
    link = path / "linked"
    link.symlink_to(package)
    assert check_packages([link], MIB) == [package]


def made(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text("")
    return folder


def refusal(*folders, limit=MIB):
    with pytest.raises(ConfigError) as error:
        check_packages(folders, limit)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_folders_that_are_not_packages_are_refused(package, tmp_path):
    assert refusal(tmp_path / "absent").endswith("/absent: there is no such folder")
    assert "must be a package's folder, with an __init__.py" in refusal(package / "model.py")
    assert refusal(package.parent).endswith(f"is not a package: it has no __init__.py; did you mean {package}?")
    assert refusal(package / "parts").endswith("it has no __init__.py")
    for name in ("my-vae", "3d", "class", "a b"):
        assert f"{name!r} cannot be imported" in refusal(made(tmp_path / name, "__init__.py"))


def test_names_that_hide_others_are_refused(package, path, tmp_path):
    for name, what in (
        ("vaedist", "would hide vaedist itself"),
        ("email", "would hide Python's own module 'email'"),
        ("numpy", "would hide 'numpy' of the installed numpy"),
    ):
        assert what in refusal(made(tmp_path / name, "__init__.py"))
    again = made(tmp_path / "other" / "my_vae", "__init__.py")
    assert refusal(package, again) == (
        f"--package {again}: {package} has the same name, 'my_vae', by which both would be imported"
    )
    here = made(path / "my_vae", "__init__.py")
    assert f"here, 'my_vae' is imported from {here}" in refusal(package)
    assert check_packages([here], MIB) == [here]


def test_packages_that_cannot_be_sent_are_refused(package):
    (package / "weights.bin").write_bytes(bytes(2 * MIB))
    assert refusal(package).endswith(
        "2 MiB are too large for a job, at most 1 MiB are allowed; move data out of the folder"
    )
    (package / "weights.bin").unlink()
    (package / "gone").symlink_to(package / "nothing")
    assert refusal(package).endswith("/gone: it is neither a file nor a folder, or a broken link")
    (package / "gone").unlink()
    os.mkfifo(package / "pipe")
    assert "/pipe: it is neither a file nor a folder" in refusal(package)
    (package / "pipe").unlink()
    (package / "loop").symlink_to(package.parent)
    assert "it is a link to a folder above it" in refusal(package)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_unreadable_files_are_refused(package, tmp_path):
    (package / "model.py").chmod(0)
    with pytest.raises(ConfigError, match=r"cannot read .*model\.py: Permission denied"):
        copy_package(package, tmp_path / "copy")


def test_neither_tensorflow_nor_ray_is_needed():
    code = "import sys, vaedist.packages; print({'tensorflow', 'keras', 'ray'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
