"""Packages of a user's own code: their location, their files, and their digest.

This module never imports a user's code, and needs neither TensorFlow nor Ray.
"""

import hashlib
import importlib.util
import keyword
import re
import shutil
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from vaedist.errors import ConfigError
from vaedist.files import is_undecoded

REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
OWN = "vaedist"
INSTALLED = {"site-packages", "dist-packages"}  # folders into which pip or the system installs packages


def package_of(reference: str, key: str = "model.type") -> Path:
    """Returns the folder of the top-level package that a reference names, or the file of a top-level module.

    Args:
        reference: "package.module:Class".
        key: key of the job, for error messages.

    Raises:
        ConfigError: Python does not find the package, or the package has no files of its own.
    """
    name = reference.partition(":")[0].partition(".")[0]
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):  # ValueError: a module object without a spec
        spec = None
    if spec is None:
        raise ConfigError(
            f"{key} = {reference!r}: there is no module {name!r} on Python's path; start vaedist with "
            f"PYTHONPATH=FOLDER, where FOLDER is the folder that holds {name}"
        )
    folders = list(spec.submodule_search_locations or ())
    if len(folders) > 1:
        raise ConfigError(f"{key} = {reference!r}: package {name!r} is spread over folders: {', '.join(folders)}")
    place = folders[0] if folders else spec.origin
    if place is None or not Path(place).exists():
        raise ConfigError(f"{key} = {reference!r}: module {name!r} is not a folder or a file, but {place}")
    return Path(place).resolve()


def references(values: Any) -> Iterator[str]:
    """Yields each "package.module:Class" among the values of a section of a job, at any depth."""
    if isinstance(values, str):
        if REFERENCE.fullmatch(values):
            yield values
    elif isinstance(values, Mapping):
        yield from references(list(values.values()))
    elif isinstance(values, Iterable):
        for value in values:
            yield from references(value)


def user_packages(values: Mapping[str, Any], section: str = "model") -> list[Path]:
    """Returns the packages and modules that a section of a job names, except for installed ones.

    Args:
        values: values of the section.
        section: name of the section, for error messages.

    Raises:
        ConfigError: see `package_of`.
    """
    found = dict.fromkeys(package_of(reference, section) for reference in references(values))
    return [place for place in found if not is_installed(place)]


def is_installed(place: Path) -> bool:
    """Returns True if a package or a module is part of Python, of an installed distribution, or of vaedist itself."""
    python = [Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "platstdlib")]
    return (
        place.stem == OWN
        or not INSTALLED.isdisjoint(place.parts)
        or any(place.is_relative_to(folder) for folder in python)
    )


def package_digest(place: Path) -> str:
    """Returns the SHA-256, in hexadecimal digits, of the Python source of a package's folder or of a module's file.

    The digest covers the relative path and the content of each `.py` file, in sorted order. Other files, such as notes
    or results beside the code, do not affect it.

    Raises:
        ConfigError: a file cannot be read.
    """
    root = place.parent
    sources = [place] if place.is_file() else [file for file in package_files(place) if file.suffix == ".py"]
    digest = hashlib.sha256()
    for file in sources:
        try:
            content = file.read_bytes()
        except OSError as error:
            raise ConfigError(f"cannot read {file}: {error.strerror or error}") from error
        name = file.relative_to(root).as_posix().encode(errors="surrogateescape")
        for part in (name, content):  # each with its length, so that different packages hash different bytes
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def digests_of(places: Iterable[Path]) -> dict[str, str]:
    """Returns the digest of each package or module, by its name.

    Raises:
        ConfigError: a file cannot be read.
    """
    return {place.stem: package_digest(place) for place in places}


def package_files(folder: Path) -> list[Path]:
    """Returns the files of a package, sorted, without hidden files, `__pycache__` and `*.pyc`.

    Raises:
        ConfigError: a folder cannot be read, or a link is broken or points to a folder above itself.
    """
    return sorted(_files(folder, (folder.resolve(),)))


def _files(folder: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    try:
        entries = list(folder.iterdir())
    except OSError as error:
        raise ConfigError(f"cannot read {folder}: {error.strerror or error}") from error
    for entry in entries:
        if entry.name.startswith(".") or entry.name == "__pycache__" or entry.suffix == ".pyc":
            continue
        if entry.is_dir():
            resolved = entry.resolve()
            if resolved in above:
                raise ConfigError(f"cannot read {entry}: it is a link to a folder above it")
            yield from _files(entry, (*above, resolved))
        elif entry.is_file():
            yield entry
        else:
            raise ConfigError(f"cannot read {entry}: it is neither a file nor a folder, or a broken link")


def copy_package(place: Path, folder: Path) -> Path:
    """Copies the files of a package (see `package_files`), or a module's file, into a folder, and returns the copy.

    Raises:
        ConfigError: a file cannot be read.
    """
    for file in [place] if place.is_file() else package_files(place):
        copy = folder / file.relative_to(place.parent)
        copy.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(file, copy)
        except OSError as error:
            raise ConfigError(f"cannot read {file}: {error.strerror or error}") from error
    return folder / place.name


def check_packages(folders: Iterable[Path], limit: int, option: str = "--package") -> list[Path]:
    """Checks that folders are packages that can be sent with a job, and returns their absolute paths.

    Args:
        folders: packages: each folder has an `__init__.py`, and its name is the name of the import.
        limit: maximum size of each package, in bytes.
        option: the option that named them, for error messages.

    Raises:
        ConfigError: a folder is refused; the message is about the first one.
    """
    accepted: dict[str, Path] = {}
    for given in folders:
        folder = given.resolve()
        fault = _fault(folder) or _hidden_by(folder)
        if fault is None and (other := accepted.get(folder.name)) not in (None, folder):
            fault = f"{other} has the same name, {folder.name!r}, by which both would be imported"
        if fault is not None:
            raise ConfigError(f"{option} {given}: {fault}")
        size = sum(file.stat().st_size for file in package_files(folder))
        if size > limit:
            raise ConfigError(
                f"{option} {given}: {size / 2**20:.0f} MiB are too large for a job, at most {limit / 2**20:.0f} MiB "
                f"are allowed; move data out of the folder"
            )
        accepted[folder.name] = folder
    return list(accepted.values())


def _fault(folder: Path) -> str | None:
    """Returns the reason why a folder is not a package; None if it is one."""
    if is_undecoded(str(folder)):
        return "its path must be UTF-8"
    if not folder.exists():
        return "there is no such folder"
    if not folder.is_dir():
        return "must be a package's folder, with an __init__.py"
    if not (folder / "__init__.py").is_file():
        below = sorted(path.parent for path in folder.glob("*/__init__.py"))
        hint = f"; did you mean {below[0]}?" if below else ""
        return f"is not a package: it has no __init__.py{hint}"
    if not folder.name.isidentifier() or keyword.iskeyword(folder.name):
        return f"{folder.name!r} cannot be imported: the folder's name must be letters, digits and underscores"
    return None


def _hidden_by(folder: Path) -> str | None:
    """Returns an error message if another module has the package's name, so that one hides the other; else None."""
    name = folder.name
    if name == OWN:
        return f"would hide {OWN} itself; rename it"
    if name in sys.stdlib_module_names:
        return f"would hide Python's own module {name!r}; rename it"
    spec = importlib.util.find_spec(name)
    origins = [Path(origin).resolve() for origin in (spec and spec.submodule_search_locations) or ()]
    if spec is None or folder in origins:
        return None
    if distributions := metadata.packages_distributions().get(name):
        return f"would hide {name!r} of the installed {distributions[0]}; rename it"
    return f"here, {name!r} is imported from {origins[0] if origins else spec.origin}; rename it, or set PYTHONPATH"


def make_importable(packages: Iterable[Path]) -> None:
    """Appends the folders of packages and modules to `sys.path`."""
    for place in packages:
        if (parent := str(place.parent)) not in sys.path:
            sys.path.append(parent)
