"""vaedist as a wheel, and the versions of all that it needs, for a cluster that shall run exactly what runs here."""

import base64
import hashlib
import re
import zipfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

import vaedist

EPOCH = (1980, 1, 1, 0, 0, 0)  # of all files, so that the same code is the same wheel, which is uploaded once
NAME = "vaedist"
ON_CLUSTER = ("ray",)  # is running there already, and cannot be another version


def build_wheel(folder: Path) -> Path:
    """Pack the code that is running as a wheel; the same code gives the same bytes.

    It names no dependencies: where it is installed they are there, or come by `pinned_requirements`.

    Args:
        folder: where to put it.

    Returns:
        The wheel, whose version ends with a digest of the code.
    """
    root = Path(vaedist.__file__).parent
    code = sorted(path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    files = {f"{NAME}/{path.relative_to(root).as_posix()}": path.read_bytes() for path in code}
    # Ray knows a wheel by its name alone, and would take other code of the same version for this.
    digest = hashlib.sha256(b"".join(name.encode() + b"\0" + files[name] for name in files)).hexdigest()
    version = f"{vaedist.__version__}+{digest[:12]}"
    info = f"{NAME}-{version}.dist-info"
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {version}\n".encode()
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: vaedist\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{info}/entry_points.txt"] = b"[console_scripts]\nvaedist = vaedist.cli:main\n"
    record = [f"{name},sha256={_digest(content)},{len(content)}" for name, content in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""]).encode()
    wheel = folder / f"{NAME}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.external_attr, entry.compress_type = 0o644 << 16, zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    return wheel


def _digest(content: bytes) -> str:
    """SHA-256 as RECORD has it."""
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def pinned_requirements(extras: Iterable[str] = ()) -> list[str]:
    """What vaedist needs, and what that needs, as NAME==VERSION of what is installed here; Ray left out.

    What is not installed here, as CUDA's libraries on a laptop, stays as it is asked for.

    Args:
        extras: of vaedist's, such as "gpu" or "optuna".

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
