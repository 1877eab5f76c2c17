"""Jobs on a cluster, by Ray's Jobs API: vaedist and an experiment are sent there, and their log is followed from here.

What a job runs is `vaedist train` or `vaedist tune` itself, on the head; its workers are where the CPUs and GPUs are.
"""

import logging
import os
import re
import secrets
import shlex
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vaedist import __version__
from vaedist.errors import ClusterError, VaedistError
from vaedist.launch.authentication import authorize
from vaedist.launch.doctor.preflight import check_dashboard, connect, refused_token
from vaedist.launch.jobs.log import follow_log
from vaedist.launch.jobs.package import copy_code
from vaedist.launch.jobs.submission import JOB_FILE, Submission
from vaedist.launch.local.cluster import local_clusters

ADDRESS = "RAY_API_SERVER_ADDRESS"  # as Ray's own commands name it
REQUEST_SECONDS = (5.0, 45.0)  # to be connected, and to be answered
NOT_FOUND = "Request failed with status code 404"  # as Ray's client words it
NO_PIP = r"No module named '?pip\b|No such file or directory: '?pip\b"
ENDED = ("SUCCEEDED", "STOPPED", "FAILED")
CHATTY = ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging")


@dataclass(frozen=True)
class Job:
    """A job on a cluster.

    Attributes:
        id: by which it is found.
        status: PENDING, RUNNING, SUCCEEDED, STOPPED or FAILED.
        message: what Ray says of it.
        entrypoint: the command that it runs.
        metadata: of a job that vaedist submitted, its run, user, job file, versions, revision and data.
        started, ended: seconds since 1970; None if not yet.
        exit_code: of the command, once it has ended by itself.
    """

    id: str
    status: str
    message: str
    entrypoint: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    started: float | None = None
    ended: float | None = None
    exit_code: int | None = None

    @property
    def run(self) -> str:
        """The run or the sweep that it is about; empty if it is not vaedist's."""
        return self.metadata.get("run", "")

    @property
    def has_ended(self) -> bool:
        """Whether it is over."""
        return self.status in ENDED


def known_address() -> str | None:
    """The dashboard's URL where none is given: RAY_API_SERVER_ADDRESS, or that of the one local cluster."""
    if address := os.environ.get(ADDRESS):
        return address
    clusters = local_clusters()
    return clusters[0].dashboard if len(clusters) == 1 else None


def jobs_address(address: str | None) -> str:
    """The dashboard's URL to use.

    Raises:
        ClusterError: none is given and there is none, or there are several to choose from.
    """
    if address := address or known_address():
        return address
    there = ", ".join(cluster.dashboard for cluster in local_clusters()) or "none"
    raise ClusterError(f"which cluster? give --address http://HEAD:8265, or set {ADDRESS}; local clusters: {there}")


class Jobs:
    """The jobs of a cluster.

    Args:
        address: URL of its dashboard; None as `jobs_address` says.

    Raises:
        ClusterError: it cannot be reached, or refuses the token.
    """

    def __init__(self, address: str | None = None) -> None:
        self.address = _checked(jobs_address(address))
        authorize(self.address)
        check_dashboard(self.address)
        with self._errors():
            self._client = _client(self.address)
        for module in CHATTY:  # which set their levels when they are imported
            logging.getLogger(f"ray.{module}").setLevel(logging.WARNING)

    def list(self, *, every: bool = False) -> list[Job]:
        """Jobs that vaedist submitted, or `every` one; the newest first."""
        with self._errors():
            found = [_job(details) for details in self._client.list_jobs() if details.submission_id]
        chosen = [job for job in found if every or "vaedist" in job.metadata]
        return sorted(chosen, key=lambda job: -(job.started or float("inf")))

    def get(self, name: str) -> Job:
        """Returns a job by its id, or by the name of its run: the one that has not ended, else the newest.

        Raises:
            ClusterError: there is none; or several of the run have not ended.
        """
        jobs = self.list(every=True)
        if exact := [job for job in jobs if job.id == name]:
            return exact[0]
        of_run = [job for job in jobs if job.run == name]
        at_work = [job for job in of_run if not job.has_ended]
        if len(at_work) > 1:
            told = ", ".join(f"{job.id} ({job.status})" for job in at_work)
            raise ClusterError(f"{len(at_work)} jobs of run {name!r} have not ended, give the id of one: {told}")
        for job in at_work or of_run:
            return job
        raise ClusterError(f"no job {name!r} at {self.address}; `vaedist jobs list` lists those that there are")

    def submit(self, submission: Submission, progress: Callable[[str], None] = lambda _: None) -> str:
        """Send a job, and return its id.

        Args:
            submission: what it is.
            progress: told what is sent, and how much.

        Raises:
            ConfigError: there is no such extra.
            ClusterError: the cluster refuses the job.
        """
        return self.run(
            submission.arguments,
            name=submission.job.run.name,
            metadata=submission.metadata(),
            files={JOB_FILE: submission.job.to_toml()},
            runtime_env=submission.runtime_env(),
            progress=progress,
        )

    def run(
        self,
        arguments: Sequence[str],
        *,
        name: str,
        metadata: Mapping[str, str],
        files: Mapping[str, str] | None = None,
        runtime_env: Mapping[str, Any] | None = None,
        progress: Callable[[str], None] = lambda _: None,
    ) -> str:
        """Have the cluster run `vaedist ARGUMENTS`, as it is here, and return the job's id.

        Args:
            arguments: of vaedist.
            name: that the id begins with.
            metadata: are kept with the job.
            files: texts in the folder that it runs in, by their names.
            runtime_env: what else Ray is to set up.
            progress: told what is sent, and how much.

        Raises:
            ClusterError: the cluster refuses the job.
        """
        with tempfile.TemporaryDirectory(prefix="vaedist-") as place:
            folder = Path(place) / "job"
            folder.mkdir()
            for file, text in (files or {}).items():
                (folder / file).write_text(text, encoding="utf-8")
            code = copy_code(Path(place))
            size = sum(path.stat().st_size for path in Path(place).rglob("*") if path.is_file())
            self._check_size(size)
            told = " and ".join([f"vaedist {__version__}", *(files or {})])
            progress(f"sending {told}, {size / 1024:.0f} KiB, to {self.address}")
            with self._errors():
                return self._client.submit_job(
                    entrypoint=entrypoint(arguments),
                    submission_id=f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}",
                    runtime_env={**(runtime_env or {}), "working_dir": str(folder), "py_modules": [str(code)]},
                    metadata=dict(metadata),
                )

    def follow(self, name: str, write: Callable[[str], None], notice: Callable[[str], None] = lambda _: None) -> Job:
        """Passes on a job's log as it comes, until the job has ended, and returns the job as it ended.

        `follow_log` says when a job is given up whose cluster is not heard any more.

        Args:
            name: the job's id.
            write: is given pieces of the log.
            notice: is told when the connection is lost, and when it is there again.

        Raises:
            ClusterError: the cluster is gone.
        """
        return follow_log(self, name, write, notice)

    def info(self, name: str) -> Job:
        """Returns the job of that id as it is now."""
        with self._errors():
            return _job(self._client.get_job_info(name))

    def pieces(self, name: str) -> AsyncGenerator[str, None]:
        """Gives a job's log from its beginning, a piece at a time, over one connection."""
        return self._client.tail_job_logs(name)

    def gone(self, name: str) -> str | None:
        """Returns how the cluster's address answers that a job is not there any more; None if it does not say so."""
        from ray.exceptions import AuthenticationError

        try:
            connect(self.address)
            self._client.get_job_info(name)
        except ConnectionRefusedError:
            return f"nothing has listened at {self.address}"
        except AuthenticationError:
            return f"{self.address} has refused the token"
        except (OSError, RuntimeError, ValueError) as error:
            if str(error).startswith(NOT_FOUND):
                return f"{self.address} has had no such job"
        return None

    def log(self, name: str) -> str:
        """All that a job has printed so far."""
        with self._errors():
            return self._client.get_job_logs(name)

    def stop(self, name: str) -> bool:
        """Ask a job to stop, after it has saved what it is at; returns whether it was running. Does not wait."""
        with self._errors():
            return self._client.stop_job(name)

    def wait(self, name: str, notice: Callable[[str], None] = lambda _: None) -> Job:
        """Wait until a job has ended."""
        return self.follow(name, lambda _: None, notice)

    def reason(self, job: Job) -> str:
        """Why a job failed, in one line."""
        with suppress(VaedistError):
            lines = [line.strip() for line in self.log(job.id).splitlines() if line.strip()]
            said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
            if said:
                return said[-1]
            if job.exit_code is not None and lines:
                return lines[-1]
        if re.search(NO_PIP, job.message):
            return "Ray's Python on the cluster has no pip, which installs what a job brings with it: install it there"
        errors = [line.strip() for line in job.message.splitlines() if line.strip().startswith("ERROR: ")]  # pip's
        return " ".join((errors[-1] if errors else job.message).split())[:500] or "no reason is known"

    @staticmethod
    def _check_size(size: int) -> None:
        from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE

        if size > GCS_STORAGE_MAX_SIZE:
            raise ClusterError(f"the job is {size / 2**20:.0f} MiB, and Ray takes {GCS_STORAGE_MAX_SIZE / 2**20:.0f}")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """What Ray's client raises, as a ClusterError of one line."""
        import requests
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            raise ClusterError(refused_token(self.address)) from error
        except requests.exceptions.Timeout as error:
            raise ClusterError(f"{self.address} has not answered for {sum(REQUEST_SECONDS):.0f} s") from error
        except (requests.exceptions.RequestException, ConnectionError, RuntimeError, ValueError) as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise ClusterError(f"{self.address}: {lines[-1] if lines else type(error).__name__}") from error


def entrypoint(arguments: Sequence[str]) -> str:
    """Returns the shell command that a job runs, `vaedist ARGUMENTS`, whatever characters are in them."""
    # With `exec`, the process that Ray signals to stop is vaedist's.
    return shlex.join(["exec", "python", "-m", "vaedist", *arguments])


def _checked(address: str) -> str:
    """Returns an address that is a URL without secrets, and without a slash at its end."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ClusterError(f"address {address}: must be the URL of the cluster's dashboard, as in http://HEAD:8265")
    if parts.username or parts.password:
        raise ClusterError(f"address of {parts.hostname}: must not hold a name or a password")
    return address.rstrip("/")


def _client(address: str) -> Any:
    """Returns Ray's client of a dashboard, but for its waiting for an answer without an end."""
    from ray.job_submission import JobSubmissionClient

    class Client(JobSubmissionClient):
        def _do_request(self, *arguments: Any, **options: Any) -> Any:
            return super()._do_request(*arguments, **{"timeout": REQUEST_SECONDS} | options)

    return Client(address)


def _job(details: Any) -> Job:
    """Ray's record of a job as ours."""
    seconds = {"started": details.start_time, "ended": details.end_time}
    return Job(
        id=details.submission_id,
        status=str(getattr(details.status, "value", details.status)),
        message=details.message or "",
        entrypoint=details.entrypoint,
        metadata=details.metadata or {},
        exit_code=details.driver_exit_code,
        **{name: value / 1000 if value else None for name, value in seconds.items()},
    )
