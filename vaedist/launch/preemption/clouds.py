"""Preemption notices of the clouds' metadata services: AWS, Google Cloud and Azure.

Each cloud announces over HTTP, at a link-local address, that a machine is about to be reclaimed. This module only reads
the notices; `vaedist.launch.preemption.watch` acts on them. It does not need Ray.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import Message
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from typing import Protocol
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit
from urllib.request import ProxyHandler, Request, build_opener

from vaedist.errors import ClusterError, ConfigError

METADATA_URL = "http://169.254.169.254"  # the same in all three clouds
ANSWER_SECONDS = 5.0  # for the service to answer
DETECT_SECONDS = 2.0  # for the first answer, which never comes outside the cloud


@dataclass(frozen=True)
class Announcement:
    """Notice that this machine will be reclaimed.

    Attributes:
        reason: the notice in words, on one line.
        deadline: UNIX time at which the machine will be reclaimed.
    """

    reason: str
    deadline: float


@dataclass(frozen=True)
class Answer:
    """An HTTP response."""

    status: int
    text: str
    headers: Message


class Cloud(Protocol):
    """One cloud's metadata service."""

    name: str

    def is_here(self) -> bool:
        """Returns True if this cloud's service answers."""

    def announcement(self, wait: float) -> Announcement | None:
        """Returns the current notice, if any.

        Args:
            wait: seconds that the request may last, if the service can wait for a change.

        Raises:
            ClusterError: the service did not answer, or not as documented.
        """


class Metadata:
    """HTTP client of a metadata service; it ignores proxies, as the address is link-local.

    Raises:
        ConfigError: it is not an HTTP URL.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.netloc:
            raise ConfigError(f"metadata service {url}: must be a URL such as {METADATA_URL}")
        self.url = url.rstrip("/")
        self._opener = build_opener(ProxyHandler({}))

    def ask(
        self, path: str, headers: Mapping[str, str], *, method: str = "GET", seconds: float = ANSWER_SECONDS
    ) -> Answer:
        """Returns the response to a request, including error responses.

        Raises:
            ClusterError: the service did not answer.
        """
        request = Request(self.url + path, headers=dict(headers), method=method)
        try:
            with self._opener.open(request, timeout=seconds) as response:
                return Answer(response.status, response.read().decode(errors="replace"), response.headers)
        except HTTPError as error:
            with error:
                return Answer(error.code, error.read().decode(errors="replace"), error.headers)
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise ClusterError(f"the metadata service at {self.url} does not answer: {reason}") from error

    def fault(self, answer: Answer, path: str) -> ClusterError:
        """Returns the error for an undocumented response."""
        return ClusterError(f"the metadata service at {self.url} answers {path} with HTTP status {answer.status}")


class Aws:
    """Spot interruptions of EC2, two minutes ahead, from version 2 of the instance metadata service (IMDSv2).

    Rebalance recommendations are not notices, as most of these machines are not reclaimed.
    """

    name = "aws"
    TOKEN_SECONDS = 21_600  # the maximum of the service

    def __init__(self, metadata: Metadata, now: Callable[[], float] = time.monotonic) -> None:
        self._metadata, self._now = metadata, now
        self._token, self._renew_at = "", 0.0

    def is_here(self) -> bool:
        """Returns True if the service issues a session token."""
        return self._new_token(DETECT_SECONDS)

    def announcement(self, wait: float) -> Announcement | None:
        """Returns the interruption of this instance, if one is scheduled."""
        path = "/latest/meta-data/spot/instance-action"
        if self._now() >= self._renew_at:
            self._new_token()
        answer = self._get(path)
        if answer.status == 401 and self._new_token():  # the token expired early
            answer = self._get(path)
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise self._metadata.fault(answer, path)
        try:
            said = json.loads(answer.text)
            when = datetime.fromisoformat(said["time"])
            action = str(said["action"])
        except (ValueError, TypeError, KeyError) as error:
            raise ClusterError(f"the metadata service at {self._metadata.url} sends {answer.text[:200]!r}") from error
        return Announcement(f"AWS will {action} this spot instance", _utc(when))

    def _get(self, path: str) -> Answer:
        return self._metadata.ask(path, {"X-aws-ec2-metadata-token": self._token})

    def _new_token(self, seconds: float = ANSWER_SECONDS) -> bool:
        """Requests a session token; returns False if the service issues none."""
        header = {"X-aws-ec2-metadata-token-ttl-seconds": str(self.TOKEN_SECONDS)}
        answer = self._metadata.ask("/latest/api/token", header, method="PUT", seconds=seconds)
        if answer.status != 200 or not answer.text.strip():
            return False
        self._token, self._renew_at = answer.text.strip(), self._now() + self.TOKEN_SECONDS / 2
        return True


class Gcp:
    """Preemptions of Compute Engine, 30 s ahead, and host maintenance that terminates the machine."""

    name = "gcp"
    HEADER: Mapping[str, str] = {"Metadata-Flavor": "Google"}
    INSTANCE = "/computeMetadata/v1/instance"
    PREEMPTION_SECONDS = 30.0
    MAINTENANCE_SECONDS = 60.0  # at least; an hour for machines with GPUs

    def __init__(self, metadata: Metadata, now: Callable[[], float] = time.time) -> None:
        self._metadata, self._now = metadata, now
        self._etag = ""
        self._first_seen: dict[str, float] = {}

    def is_here(self) -> bool:
        """Returns True if the service identifies itself as Google's."""
        answer = self._metadata.ask(f"{self.INSTANCE}/preempted", self.HEADER, seconds=DETECT_SECONDS)
        return answer.status == 200 and answer.headers.get("Metadata-Flavor") == "Google"

    def announcement(self, wait: float) -> Announcement | None:
        """Returns the announced preemption or termination, if any; returns early when it changes."""
        path = f"{self.INSTANCE}/preempted"
        if self._etag:
            path += f"?wait_for_change=true&timeout_sec={max(1, round(wait))}&last_etag={quote(self._etag)}"
        preempted = self._read(path, seconds=wait + ANSWER_SECONDS)
        self._etag = preempted.headers.get("ETag", "")
        if preempted.text.strip().upper() == "TRUE":
            return self._since("Google Cloud preempts this machine", self.PREEMPTION_SECONDS)
        event = self._read(f"{self.INSTANCE}/maintenance-event").text.strip()
        if event == "TERMINATE_ON_HOST_MAINTENANCE":
            return self._since("Google Cloud terminates this machine for maintenance", self.MAINTENANCE_SECONDS)
        self._first_seen.clear()
        return None

    def _read(self, path: str, seconds: float = ANSWER_SECONDS) -> Answer:
        answer = self._metadata.ask(path, self.HEADER, seconds=seconds)
        if answer.status != 200:
            raise self._metadata.fault(answer, path.partition("?")[0])
        return answer

    def _since(self, reason: str, seconds: float) -> Announcement:
        """Returns an announcement with a deadline relative to when it was first seen, as the service gives no time."""
        return Announcement(reason, self._first_seen.setdefault(reason, self._now()) + seconds)


class Azure:
    """Scheduled events of Azure that end this machine, such as evictions of spot machines, at least 30 s ahead."""

    name = "azure"
    HEADER: Mapping[str, str] = {"Metadata": "true"}
    NAME = "/metadata/instance/compute/name?api-version=2021-02-01&format=text"
    EVENTS = "/metadata/scheduledevents?api-version=2020-07-01"
    ENDING = ("Preempt", "Terminate", "Redeploy", "Reboot")  # a machine resumes after Freeze
    SOON_SECONDS = 30.0  # until an event without a time, which starts immediately
    FIRST_SECONDS = 150.0  # for the first answer: the first request enables the events, which may take two minutes

    def __init__(self, metadata: Metadata, now: Callable[[], float] = time.time) -> None:
        self._metadata, self._now = metadata, now
        self._machine = ""
        self._answered = False
        self._first_seen: dict[str, float] = {}

    def is_here(self) -> bool:
        """Returns True if the service returns this machine's name."""
        answer = self._metadata.ask(self.NAME, self.HEADER, seconds=DETECT_SECONDS)
        self._machine = answer.text.strip() if answer.status == 200 else ""
        return bool(self._machine)

    def announcement(self, wait: float) -> Announcement | None:
        """Returns the first event that ends this machine; the service also lists those of others in its scale set."""
        if not self._machine and not self.is_here():
            raise ClusterError(f"the metadata service at {self._metadata.url} does not tell this machine's name")
        answer = self._metadata.ask(
            self.EVENTS, self.HEADER, seconds=ANSWER_SECONDS if self._answered else self.FIRST_SECONDS
        )
        if answer.status != 200:
            raise self._metadata.fault(answer, self.EVENTS.partition("?")[0])
        self._answered = True
        try:
            events = [self._read(event) for event in json.loads(answer.text)["Events"] if self._ends_this(event)]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ClusterError(f"the metadata service at {self._metadata.url} sends {answer.text[:200]!r}") from error
        return min(events, key=lambda event: event.deadline, default=None)

    def _ends_this(self, event: Mapping[str, object]) -> bool:
        resources = event["Resources"]
        assert isinstance(resources, list)
        return event["EventType"] in self.ENDING and self._machine in resources

    def _read(self, event: Mapping[str, str]) -> Announcement:
        reason = f"Azure announces the event {event['EventType']} of this machine"
        if event.get("NotBefore"):
            return Announcement(reason, _utc(parsedate_to_datetime(event["NotBefore"])))
        seen = self._first_seen.setdefault(event["EventId"], self._now())
        return Announcement(reason, seen + self.SOON_SECONDS)


CLOUDS: Mapping[str, Callable[[Metadata], Cloud]] = {"aws": Aws, "gcp": Gcp, "azure": Azure}


def find_cloud(name: str, url: str) -> Cloud | None:
    """Returns the metadata service of a cloud, or None if it does not answer.

    Args:
        name: name of the cloud, or "auto" for the first that answers.
        url: URL of the service.

    Raises:
        ConfigError: it is not an HTTP URL.
    """
    metadata = Metadata(url)
    for cloud in [made(metadata) for key, made in CLOUDS.items() if name in (key, "auto")]:
        try:
            if cloud.is_here():
                return cloud
        except ClusterError:
            continue
    return None


def _utc(when: datetime) -> float:
    """Returns the UNIX time of a date, which is in UTC if it has no time zone."""
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
