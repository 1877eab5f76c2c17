"""A submission to a cluster: an experiment or a sweep, and the environment of its job."""

import getpass
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vaedist import __version__
from vaedist.config import Experiment, Sweep
from vaedist.data.manifest import load_manifest
from vaedist.errors import ConfigError, VaedistError
from vaedist.launch.authentication import REQUIRED, SECRET_NAME
from vaedist.launch.jobs.package import pinned_requirements
from vaedist.launch.user_code import code_of
from vaedist.packages import package_digest
from vaedist.storage.uri import is_uri, join_uri

JOB_FILE = "job.toml"
LOOK_SECONDS = 5.0  # at data on a store, for their fingerprint
STOP_SECONDS = 150  # that a job has to save what it is at, before Ray kills it
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
CHOSEN = ("RAY_JOB_STOP_WAIT_TIME_S", "PYTHONPATH", REQUIRED)  # variables that the user may not set


@dataclass(frozen=True)
class Submission:
    """A training or a sweep that is to run as a job.

    Attributes:
        job: the experiment or the sweep, whose paths mean the same on the cluster.
        arguments: of `vaedist` there, the job's file as "job.toml".
        file: the job's file here, for the metadata.
        environment: "image" runs with the packages of the cluster's image, "pip" installs the versions of here.
        extras: of vaedist's, for "pip".
        variables: for the environment of the job; nothing secret, for whoever sees the cluster sees them.
        from_node: variables that every node has to have set already.
        packages: folders of the user's packages, accepted by `check_packages`, that go with the job.

    Raises:
        ConfigError: when it is made, if a path or a variable is refused, or a package would be missing.
    """

    job: Experiment | Sweep
    arguments: Sequence[str]
    file: Path
    environment: str = "image"
    extras: Sequence[str] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    from_node: Sequence[str] = ()
    packages: Sequence[Path] = ()

    def __post_init__(self) -> None:
        """Refuses what should not be sent, and a job that would not find its code."""
        check_paths(self.job)
        check_code(self.job, self.packages)
        check_variables(self.variables, self.from_node)

    def metadata(self) -> dict[str, str]:
        """Returns what is kept with the job: its run, who submitted it, and from what."""
        metadata = {
            "vaedist": __version__,
            "run": self.job.run.name,
            "user": getpass.getuser(),
            "job": os.fsencode(self.file.name).decode(errors="replace"),  # JSON, and Ray, have no other bytes
        }
        if self.packages:
            metadata["packages"] = ", ".join(f"{each.name} {package_digest(each)[:12]}" for each in self.packages)
        if (revision := _revision(self.file)) is not None:
            metadata["revision"] = revision
        with suppress(VaedistError):  # the data are the cluster's, and need not be seen from here
            metadata["data"] = load_manifest(self.job.data.path, seconds=LOOK_SECONDS).fingerprint
        return metadata

    def runtime_env(self) -> dict[str, Any]:
        """Returns what Ray sets up for the job, except for the files."""
        variables = {**self.variables, "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)}
        if self.from_node:
            variables[REQUIRED] = ",".join(self.from_node)
        env: dict[str, Any] = {"env_vars": variables}
        if self.environment == "pip":
            try:
                env["pip"] = {"packages": pinned_requirements(self.extras), "pip_check": False}
            except ValueError as error:
                raise ConfigError(f"--extra: {error}") from error
        return env


def training_arguments(*, resume: bool, changed_code: bool = False) -> list[str]:
    """Returns the arguments of `vaedist` that train job.toml."""
    return ["train", JOB_FILE, *(["--resume"] if resume else []), *(["--changed-code"] if changed_code else [])]


def sweep_arguments(
    sweep: Sweep, overrides: Sequence[str], *, resume: bool, retry_failed: bool, changed_code: bool = False
) -> list[str]:
    """Returns the arguments of `vaedist` that run the sweep of job.toml, or resume it in its folder."""
    if not resume:
        return ["tune", "run", JOB_FILE]
    options = [part for override in overrides for part in ("--set", override)]
    retry = ["--retry-errored"] * retry_failed + ["--changed-code"] * changed_code
    return ["tune", "run", "--resume", join_uri(sweep.run.folder, sweep.run.name), *retry, *options]


def check_variables(variables: Mapping[str, str], from_node: Sequence[str]) -> None:
    """Refuses variables that look like secrets, invalid names, and those that vaedist sets itself.

    Raises:
        ConfigError: with the first that is refused.
    """
    for name in (*variables, *from_node):
        if not VARIABLE.fullmatch(name):
            raise ConfigError(f"--env {name}: must be NAME=VALUE, with a name of letters, digits and underscores")
        if name in CHOSEN:
            raise ConfigError(f"--env {name}: is set by vaedist")
    for name in variables:
        if SECRET_NAME.search(name):
            raise ConfigError(
                f"--env {name}: looks like a secret, and whoever sees the cluster would see it; set it on the nodes, "
                f"and say --env-from-node {name}"
            )


def check_code(job: Experiment | Sweep, packages: Sequence[Path]) -> None:
    """Refuses a job that names a package which is neither installed nor sent.

    Raises:
        ConfigError: with the first that is missing.
    """
    for place in code_of(job):
        if place.is_file():
            raise ConfigError(
                f"{place}: a module by itself cannot go with a job; put it into a package, a folder with __init__.py"
            )
        if place not in packages:
            raise ConfigError(
                f"the job uses package {place.name!r}, which is not installed: send it by --package {place}"
            )


def check_paths(job: Experiment | Sweep) -> None:
    """Refuses relative paths, which would mean another place on the cluster.

    Raises:
        ConfigError: with the first that is refused.
    """
    for key, path in (("data.path", job.data.path), ("run.folder", job.run.folder)):
        if not is_uri(path) and not Path(path).is_absolute():
            raise ConfigError(
                f"{key} = {path!r}: for a job it must be an absolute path that all nodes share, or a URI such as "
                f"s3://BUCKET/PATH"
            )


def _revision(file: Path) -> str | None:
    """Returns the git revision of the folder of a job's file, with -dirty if files differ from it; None outside git."""
    try:
        found = subprocess.run(
            ["git", "-C", str(file.absolute().parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None
