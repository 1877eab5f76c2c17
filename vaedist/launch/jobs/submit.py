"""Submission of jobs from Python."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vaedist.config import Experiment, Sweep
from vaedist.errors import ConfigError
from vaedist.launch.jobs.client import Jobs
from vaedist.launch.jobs.submission import Submission, sweep_arguments, training_arguments
from vaedist.launch.ray_internals import upload_limit
from vaedist.packages import check_packages


@dataclass(frozen=True)
class SubmittedJob:
    """A job on a cluster.

    Attributes:
        id: unique ID on the cluster.
    """

    id: str
    _jobs: Jobs = field(repr=False, compare=False)

    @property
    def status(self) -> str:
        """PENDING, RUNNING, SUCCEEDED, STOPPED or FAILED."""
        return self._jobs.get(self.id).status

    def log(self) -> str:
        """Returns the job's log so far."""
        return self._jobs.log(self.id)

    def wait(self, write: Callable[[str], None] = lambda _: None) -> None:
        """Waits until the job has succeeded.

        Args:
            write: called with pieces of the job's log.

        Raises:
            JobError: the job failed; the message has the reason.
            Interrupted: the job was stopped.
            ClusterError: the cluster is gone.
        """
        self._jobs.check_succeeded(self._jobs.follow(self.id, write))

    def stop(self) -> bool:
        """Asks the job to save a checkpoint and stop, and returns True if it was running; does not wait."""
        return self._jobs.stop(self.id)


def submit(
    job: Experiment | Sweep,
    *,
    address: str | None = None,
    resume: bool = False,
    retry_failed: bool = False,
    changed_code: bool = False,
    changed_precision: bool = False,
    environment: Literal["image", "pip"] = "image",
    extras: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
    from_node: Sequence[str] = (),
    packages: Sequence[str | Path] = (),
    progress: Callable[[str], None] = lambda _: None,
) -> SubmittedJob:
    """Submits an experiment or a sweep to a cluster as `vaedist submit` does; does not wait for it.

    Args:
        job: the experiment or the sweep. `run.name` must be set, and its paths must be valid on the cluster: absolute
            paths that all nodes share, or URIs.
        address: URL of the cluster's dashboard. None uses RAY_API_SERVER_ADDRESS, or the only local cluster.
        resume: resume the run or sweep if it exists. A sweep is resumed as it was started.
        retry_failed: when resuming a sweep, retry trials that failed.
        changed_code: resume although the code of the model's package has changed.
        changed_precision: resume although `training.precision` has changed.
        environment: "image" uses the packages of the cluster's image, "pip" installs the local versions.
        extras: extras of vaedist to install, such as "gpu", for "pip".
        variables: environment variables of the job, which must not be secret.
        from_node: names of variables to take from the nodes' environment.
        packages: folders of your own packages that the job imports, each with its `__init__.py`.
        progress: called with a description of the upload.

    Raises:
        ConfigError: the job has no name, or a path, a package or a variable is refused.
        ClusterError: the cluster cannot be reached, or refuses the job.
    """
    if not job.run.name:
        raise ConfigError("run.name is empty: give the run a name")
    sent = check_packages([Path(package) for package in packages], upload_limit())
    if isinstance(job, Sweep):
        arguments = sweep_arguments(job, (), resume=resume, retry_failed=retry_failed, changed_code=changed_code)
    else:
        arguments = training_arguments(resume=resume, changed_code=changed_code, changed_precision=changed_precision)
    submission = Submission(
        job, arguments, None, environment, tuple(extras), dict(variables or {}), tuple(from_node), tuple(sent)
    )
    jobs = Jobs(address)
    return SubmittedJob(jobs.submit(submission, progress=progress), jobs)
