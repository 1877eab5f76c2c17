"""Client for jobs on a cluster: submits vaedist and an experiment as a job, finds jobs, and follows their logs.

A job runs `vaedist train` or `vaedist tune` on the head; its workers run on the nodes with CPUs and GPUs.
"""

import re
import secrets
import shlex
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from vaedist import __version__
from vaedist.errors import ClusterError, Interrupted, JobError, VaedistError
from vaedist.launch.jobs.address import jobs_address
from vaedist.launch.jobs.dashboard import Dashboard
from vaedist.launch.jobs.job import Job
from vaedist.launch.jobs.log import follow_log
from vaedist.launch.jobs.package import copy_code
from vaedist.launch.jobs.submission import JOB_FILE, Submission
from vaedist.launch.ray_internals import upload_limit
from vaedist.packages import copy_package

NO_PIP = r"No module named '?pip\b|No such file or directory: '?pip\b"


class Jobs:
    """The jobs of a cluster.

    Args:
        address: URL of its dashboard; None uses the default of `jobs_address`.

    Raises:
        ClusterError: the dashboard cannot be reached, or refuses the token.
    """

    def __init__(self, address: str | None = None) -> None:
        self._dashboard = Dashboard.connect(jobs_address(address))

    @property
    def address(self) -> str:
        """URL of the dashboard."""
        return self._dashboard.address

    def list(self, *, every: bool = False) -> list[Job]:
        """Returns the jobs that vaedist submitted, or every job; the newest first."""
        chosen = [job for job in self._dashboard.jobs() if every or "vaedist" in job.metadata]
        return sorted(chosen, key=lambda job: -(job.started or float("inf")))

    def get(self, name: str) -> Job:
        """Returns a job by its ID, or by the name of its run: the one that has not ended, else the newest.

        Raises:
            ClusterError: there is no such job, or several jobs of the run have not ended.
        """
        jobs = self.list(every=True)
        if exact := [job for job in jobs if job.id == name]:
            return exact[0]
        of_run = [job for job in jobs if job.run == name]
        at_work = [job for job in of_run if not job.has_ended]
        if len(at_work) > 1:
            told = ", ".join(f"{job.id} ({job.status})" for job in at_work)
            raise ClusterError(f"{len(at_work)} jobs of run {name!r} have not ended, use the ID of one: {told}")
        for job in at_work or of_run:
            return job
        raise ClusterError(f"no job {name!r} at {self.address}; `vaedist jobs list` shows all jobs")

    def submit(self, submission: Submission, progress: Callable[[str], None] = lambda _: None) -> str:
        """Submits a training or a sweep, and returns the job's ID.

        Args:
            submission: the training or the sweep.
            progress: called with a description of the upload.

        Raises:
            ConfigError: an extra does not exist.
            ClusterError: the cluster refuses the job.
        """
        return self.run(
            entrypoint(submission.arguments),
            name=submission.job.run.name,
            metadata=submission.metadata(),
            files={JOB_FILE: submission.job.to_toml()},
            runtime_env=submission.runtime_env(),
            packages=submission.packages,
            progress=progress,
        )

    def run(
        self,
        command: str,
        *,
        name: str,
        metadata: Mapping[str, str],
        files: Mapping[str, str] | None = None,
        runtime_env: Mapping[str, Any] | None = None,
        packages: Sequence[Path] = (),
        progress: Callable[[str], None] = lambda _: None,
    ) -> str:
        """Submits a command that uses this process's version of vaedist's code, and returns the job's ID.

        Args:
            command: shell command, as `entrypoint` returns it.
            name: prefix of the job's ID.
            metadata: metadata of the job.
            files: text files in the job's working directory, by name.
            runtime_env: further settings of Ray's runtime environment.
            packages: folders of the user's packages, made importable for the job.
            progress: called with a description of the upload.

        Raises:
            ConfigError: a package cannot be read.
            ClusterError: the job is too large, or the cluster refuses it.
        """
        with tempfile.TemporaryDirectory(prefix="vaedist-") as place:
            folder = Path(place) / "job"
            folder.mkdir()
            for file, text in (files or {}).items():
                (folder / file).write_text(text, encoding="utf-8")
            copies = [copy_package(package, Path(place) / "packages") for package in packages]
            modules = [str(copy_code(Path(place))), *map(str, copies)]
            size = _checked_size(Path(place))
            told = " and ".join([f"vaedist {__version__}", *(package.name for package in packages), *(files or {})])
            progress(f"sending {told}, {size / 1024:.0f} KiB, to {self.address}")
            return self._dashboard.submit(
                command,
                f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}",
                {**(runtime_env or {}), "working_dir": str(folder), "py_modules": modules},
                metadata,
            )

    def follow(self, name: str, write: Callable[[str], None], notice: Callable[[str], None] = lambda _: None) -> Job:
        """Streams a job's log until the job has ended, and returns the ended job; see `follow_log`.

        Args:
            name: ID of the job.
            write: called with pieces of the log.
            notice: called when the connection is lost, and when it is restored.

        Raises:
            ClusterError: the cluster is gone.
        """
        return follow_log(self._dashboard, name, write, notice)

    def wait(self, name: str, notice: Callable[[str], None] = lambda _: None) -> Job:
        """Waits until a job has ended, and returns it."""
        return self.follow(name, lambda _: None, notice)

    def log(self, name: str) -> str:
        """Returns a job's log so far."""
        return self._dashboard.log(name)

    def stop(self, name: str) -> bool:
        """Asks a job to save a checkpoint and stop, and returns True if it was running; does not wait."""
        return self._dashboard.stop(name)

    def check_succeeded(self, job: Job) -> None:
        """Checks that a job that has ended has succeeded.

        Raises:
            JobError: the job failed; the message has the reason.
            Interrupted: the job was stopped.
        """
        if job.status == "FAILED":
            raise JobError(f"job {job.id} failed: {self.reason(job)}")
        if job.status == "STOPPED":
            raise Interrupted(f"job {job.id} was stopped")

    def reason(self, job: Job) -> str:
        """Returns the reason why a job failed, in one line."""
        with suppress(VaedistError):
            lines = [line.strip() for line in self.log(job.id).splitlines() if line.strip()]
            said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
            if said:
                return said[-1]
            if job.exit_code is not None and lines:
                return lines[-1]
        if re.search(NO_PIP, job.message):
            return "Ray's Python on the cluster has no pip, which the job's environment needs: install it there"
        errors = [line.strip() for line in job.message.splitlines() if line.strip().startswith("ERROR: ")]  # pip's
        return " ".join((errors[-1] if errors else job.message).split())[:500] or "no reason is known"


def entrypoint(arguments: Sequence[str]) -> str:
    """Returns the shell command of a job, `vaedist ARGUMENTS`, with the arguments quoted."""
    # With `exec`, Ray's signal to stop reaches the process of vaedist.
    return shlex.join(["exec", "python", "-m", "vaedist", *arguments])


def _checked_size(folder: Path) -> int:
    """Returns the size of the files in a folder in bytes.

    Raises:
        ClusterError: Ray does not accept an upload of that size.
    """
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > (limit := upload_limit()):
        raise ClusterError(f"the job is {size / 2**20:.0f} MiB, and Ray takes at most {limit / 2**20:.0f} MiB")
    return size
