"""Submission of an experiment or a sweep to a cluster, with the environment of its job."""

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
LOOK_SECONDS = 5.0  # for reading the fingerprint of data on an object store
STOP_SECONDS = 150  # for a job to save a checkpoint before Ray kills it
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
CHOSEN = ("RAY_JOB_STOP_WAIT_TIME_S", "PYTHONPATH", REQUIRED)  # variables that the user may not set


@dataclass(frozen=True)
class Submission:
    """Training or sweep to run as a job.

    Attributes:
        job: the experiment or the sweep; its paths must be valid on the cluster.
        arguments: arguments of `vaedist` on the cluster, where the job's file is "job.toml".
        file: the local file of the job, for the metadata; None if it was made in Python.
        environment: "image" uses the packages of the cluster's image, "pip" installs the local versions.
        extras: extras of vaedist, for "pip".
        variables: environment variables of the job. They must not be secret, as all users of the cluster can see them.
        from_node: names of variables that must be set on every node.
        packages: folders of the user's packages, accepted by `check_packages`, that are sent with the job.

    Raises:
        ConfigError: on creation, if a path or a variable is refused, or a package is missing.
    """

    job: Experiment | Sweep
    arguments: Sequence[str]
    file: Path | None
    environment: str = "image"
    extras: Sequence[str] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    from_node: Sequence[str] = ()
    packages: Sequence[Path] = ()

    def __post_init__(self) -> None:
        """Checks the paths, the packages and the variables."""
        check_paths(self.job)
        check_code(self.job, self.packages)
        check_variables(self.variables, self.from_node)

    def metadata(self) -> dict[str, str]:
        """Returns the metadata of the job: its run, user, job file, versions, revision and data."""
        metadata = {
            "vaedist": __version__,
            "run": self.job.run.name,
            "user": getpass.getuser(),
        }
        if self.file is not None:
            metadata["job"] = os.fsencode(self.file.name).decode(errors="replace")  # JSON needs valid Unicode
        if self.packages:
            metadata["packages"] = ", ".join(f"{each.name} {package_digest(each)[:12]}" for each in self.packages)
        if self.file is not None and (revision := _revision(self.file)) is not None:
            metadata["revision"] = revision
        with suppress(VaedistError):  # the cluster's data may not be reachable from here
            metadata["data"] = load_manifest(self.job.data.path, seconds=LOOK_SECONDS).fingerprint
        return metadata

    def runtime_env(self) -> dict[str, Any]:
        """Returns Ray's runtime environment for the job, without files and packages."""
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


def training_arguments(*, resume: bool, changed_code: bool = False, changed_precision: bool = False) -> list[str]:
    """Returns the arguments of `vaedist` to train job.toml."""
    flags = {"--resume": resume, "--changed-code": changed_code, "--changed-precision": changed_precision}
    return ["train", JOB_FILE, *(flag for flag, given in flags.items() if given)]


def sweep_arguments(
    sweep: Sweep, overrides: Sequence[str], *, resume: bool, retry_failed: bool, changed_code: bool = False
) -> list[str]:
    """Returns the arguments of `vaedist` to run the sweep of job.toml, or to resume it in its folder."""
    if not resume:
        return ["tune", "run", JOB_FILE]
    options = [part for override in overrides for part in ("--set", override)]
    retry = ["--retry-errored"] * retry_failed + ["--changed-code"] * changed_code
    return ["tune", "run", "--resume", join_uri(sweep.run.folder, sweep.run.name), *retry, *options]


def check_variables(variables: Mapping[str, str], from_node: Sequence[str]) -> None:
    """Refuses invalid names, variables that vaedist sets itself, and variables that look like secrets.

    Raises:
        ConfigError: a variable is refused; the message names the first one.
    """
    for name in (*variables, *from_node):
        if not VARIABLE.fullmatch(name):
            raise ConfigError(f"--env {name}: must be NAME=VALUE, with a name of letters, digits and underscores")
        if name in CHOSEN:
            raise ConfigError(f"--env {name}: is set by vaedist")
    for name in variables:
        if SECRET_NAME.search(name):
            raise ConfigError(
                f"--env {name}: looks like a secret, which all users of the cluster could see; set it on the nodes "
                f"instead, and use --env-from-node {name}"
            )


def check_code(job: Experiment | Sweep, packages: Sequence[Path]) -> None:
    """Refuses a job that needs a package that is neither installed nor sent.

    Raises:
        ConfigError: a package is missing; the message names the first one.
    """
    for place in code_of(job):
        if place.is_file():
            raise ConfigError(
                f"{place}: a single module cannot be sent with a job; put it into a package, a folder with __init__.py"
            )
        if place not in packages:
            raise ConfigError(
                f"the job uses package {place.name!r}, which is not installed: send it by --package {place}"
            )


def check_paths(job: Experiment | Sweep) -> None:
    """Refuses relative paths, which are not valid on the cluster.

    Raises:
        ConfigError: a path is relative; the message names the first one.
    """
    for key, path in (("data.path", job.data.path), ("run.folder", job.run.folder)):
        if not is_uri(path) and not Path(path).is_absolute():
            raise ConfigError(
                f"{key} = {path!r}: for a job it must be an absolute path that all nodes share, or a URI such as "
                f"s3://BUCKET/PATH"
            )


def _revision(file: Path) -> str | None:
    """Returns the git revision of the folder of a job's file, with -dirty if files have changed; None outside git."""
    try:
        found = subprocess.run(
            ["git", "-C", str(file.absolute().parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None
