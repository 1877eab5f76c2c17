"""Client of the Jobs API of a cluster's dashboard, with timeouts and one-line errors."""

from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from vaedist.errors import ClusterError
from vaedist.launch.authentication import authorize
from vaedist.launch.doctor.preflight import check_dashboard, connect, refused_token
from vaedist.launch.jobs.address import checked_url
from vaedist.launch.jobs.job import Job
from vaedist.launch.ray_internals import job_client

REQUEST_SECONDS = (5.0, 45.0)  # for the connection, and for the answer
NOT_FOUND = "Request failed with status code 404"  # beginning of the message of Ray's client


class Dashboard:
    """The dashboard of a cluster; its methods raise ClusterError if it refuses a request, fails or does not answer.

    Args:
        address: URL of the dashboard.
        client: Ray's client of the dashboard.
    """

    def __init__(self, address: str, client: Any) -> None:
        self.address, self._client = address, client

    @classmethod
    def connect(cls, address: str) -> "Dashboard":
        """Returns the dashboard at a URL.

        Raises:
            ClusterError: the dashboard cannot be reached, or refuses the token.
        """
        address = checked_url(address)
        authorize(address)
        check_dashboard(address)
        with _errors(address):
            return cls(address, job_client(address, REQUEST_SECONDS))

    def jobs(self) -> list[Job]:
        """Returns all jobs that were submitted to the cluster."""
        with _errors(self.address):
            return [Job.from_details(details) for details in self._client.list_jobs() if details.submission_id]

    def submit(self, entrypoint: str, name: str, runtime_env: Mapping[str, Any], metadata: Mapping[str, str]) -> str:
        """Submits a job, and returns its ID.

        Args:
            entrypoint: shell command of the job.
            name: ID of the job.
            runtime_env: Ray's runtime environment; local folders are uploaded.
            metadata: metadata of the job.
        """
        with _errors(self.address):
            return self._client.submit_job(
                entrypoint=entrypoint, submission_id=name, runtime_env=dict(runtime_env), metadata=dict(metadata)
            )

    def info(self, name: str) -> Job:
        """Returns the current state of a job, by its ID."""
        with _errors(self.address):
            return Job.from_details(self._client.get_job_info(name))

    def log(self, name: str) -> str:
        """Returns a job's log so far."""
        with _errors(self.address):
            return self._client.get_job_logs(name)

    def stop(self, name: str) -> bool:
        """Asks a job to stop, and returns True if it was running; does not wait."""
        with _errors(self.address):
            return self._client.stop_job(name)

    def pieces(self, name: str) -> AsyncGenerator[str, None]:
        """Yields a job's log from its beginning in pieces, over one connection; raises Ray's own errors."""
        return self._client.tail_job_logs(name)

    def gone(self, name: str) -> str | None:
        """Returns the reason why a job certainly no longer exists; None if it may still exist."""
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


@contextmanager
def _errors(address: str) -> Iterator[None]:
    """Turns exceptions of Ray's client into one-line ClusterErrors."""
    import requests
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        raise ClusterError(refused_token(address)) from error
    except requests.exceptions.Timeout as error:
        raise ClusterError(f"{address} has not answered for {sum(REQUEST_SECONDS):.0f} s") from error
    except (requests.exceptions.RequestException, ConnectionError, RuntimeError, ValueError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ClusterError(f"{address}: {lines[-1] if lines else type(error).__name__}") from error
