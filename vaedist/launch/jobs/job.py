"""A job on a cluster, as Ray's Jobs API reports it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ENDED = ("SUCCEEDED", "STOPPED", "FAILED")


@dataclass(frozen=True)
class Job:
    """A job on a cluster.

    Attributes:
        id: unique ID on the cluster.
        status: PENDING, RUNNING, SUCCEEDED, STOPPED or FAILED.
        message: Ray's explanation of the status.
        entrypoint: the job's command.
        metadata: for a job that vaedist submitted, its run, user, job file, versions, revision and data.
        started, ended: seconds since 1970; None if it has not started or ended yet.
        exit_code: exit code of the command, if it ended by itself.
    """

    id: str
    status: str
    message: str
    entrypoint: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    started: float | None = None
    ended: float | None = None
    exit_code: int | None = None

    @classmethod
    def from_details(cls, details: Any) -> "Job":
        """Makes a job from Ray's `JobDetails`."""
        seconds = {"started": details.start_time, "ended": details.end_time}
        return cls(
            id=details.submission_id,
            status=str(getattr(details.status, "value", details.status)),
            message=details.message or "",
            entrypoint=details.entrypoint,
            metadata=details.metadata or {},
            exit_code=details.driver_exit_code,
            **{name: value / 1000 if value else None for name, value in seconds.items()},
        )

    @property
    def run(self) -> str:
        """Name of its run or sweep; empty if vaedist did not submit it."""
        return self.metadata.get("run", "")

    @property
    def has_ended(self) -> bool:
        """True once it has succeeded, failed or been stopped."""
        return self.status in ENDED
