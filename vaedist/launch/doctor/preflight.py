"""Checks before joining or starting Ray: they report in one line what would make Ray wait or print a page."""

import json
import os
import re
import socket
import sys
import time
from contextlib import suppress
from urllib.parse import urlsplit

import grpc

from vaedist.errors import ClusterError
from vaedist.launch.addresses import host_of
from vaedist.launch.ray_internals import check_versions, head_metadata, is_token_used

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 40.0  # for the first answer; with what follows, less than a minute until a wrong address is refused
ATTEMPTS, PAUSE_SECONDS = 3, 1.0  # a head that is being started closes its first connections
SOCKET_BYTES = 103 if sys.platform == "darwin" else 107  # of the path of a Unix socket, without the null at its end
# What Ray puts below its temporary folder. A process number has seven digits at most.
SOCKET = "session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store"


def connect(address: str) -> None:
    """Opens a connection to HOST:PORT or to the server of a URL, and closes it again.

    Raises:
        OSError: nothing listens there.
        ValueError: there is no such port.
    """
    host, port = host_of(address), _port_of(address)
    socket.create_connection((host, port), CONNECT_SECONDS).close()


def _port_of(address: str) -> int:
    parts = urlsplit(address if "://" in address else f"//{address}")
    return parts.port or {"https": 443}.get(parts.scheme, 80)


def check_dashboard(url: str) -> None:
    """Checks that the server at a URL is the dashboard of a Ray cluster; the token is not checked here.

    Raises:
        ClusterError: nobody answers, or something else does.
    """
    import requests

    try:
        connect(url)
    except (OSError, ValueError, OverflowError) as error:
        raise ClusterError(f"no Ray dashboard answers at {url}: {error}") from error
    try:
        answer = requests.get(f"{url}/api/version", timeout=(CONNECT_SECONDS, ANSWER_SECONDS))
        if answer.status_code in (401, 403) or "ray_version" in answer.json():
            return
        reason = "what answers there is none"
    except requests.exceptions.Timeout:
        reason = f"what listens there has not answered for {ANSWER_SECONDS:.0f} s"
    except requests.exceptions.SSLError as error:
        told = re.search(r"\[SSL[^]]*\] (.+?) \(", str(error))
        reason = f"TLS fails, {told[1]}" if told else "TLS fails"
    except requests.exceptions.ProxyError:
        reason = "the proxy of the environment does not reach it, add the host to no_proxy"
    except (requests.exceptions.RequestException, ValueError, TypeError):
        reason = "what answers there is none"
    raise ClusterError(
        f"no Ray dashboard at {url}: {reason}; the port of a cluster's dashboard is 8265 unless it was chosen "
        f"otherwise, not that of its head, 6379, nor another service's"
    )


def check_head(address: str) -> None:
    """Checks that the head of a cluster answers at HOST:PORT, takes the token, and has the versions of this process.

    Raises:
        ClusterError: nobody answers, something else does, it refuses the token, or its versions are others.
    """
    try:
        connect(address)
    except (OSError, ValueError, OverflowError) as error:
        raise ClusterError(f"no Ray cluster answers at {address}: {error}") from error
    try:
        found = _metadata(address)
    except grpc.RpcError as error:
        raise ClusterError(_refusal(address, error)) from error
    if found is None:
        return
    try:
        check_versions(found)
    except RuntimeError as error:
        import ray

        raise ClusterError(
            f"the cluster at {address} runs Ray {found['ray_version']} on Python {found['python_version']}, and here "
            f"are Ray {ray.__version__} and Python {'.'.join(map(str, sys.version_info[:3]))} ({sys.executable}): "
            f"whoever joins it must have the same; install those, or send the job to its dashboard by vaedist submit"
        ) from error


def _metadata(address: str) -> dict[str, str] | None:
    """Returns the versions that a head reports, None if it reports nothing.

    Raises:
        grpc.RpcError: it does not answer.
    """
    deadline = time.monotonic() + ANSWER_SECONDS
    for left in reversed(range(ATTEMPTS)):
        try:
            metadata = head_metadata(address, deadline - time.monotonic())
        except grpc.RpcError as error:
            if not left or error.code() != grpc.StatusCode.UNAVAILABLE or time.monotonic() + PAUSE_SECONDS > deadline:
                raise
        else:
            with suppress(ValueError):
                return json.loads(metadata)
            return None
        time.sleep(PAUSE_SECONDS)
    raise AssertionError("the last attempt returns or raises")


def _refusal(address: str, error: grpc.RpcError) -> str:
    """Describes in one line why what answers at an address cannot be used as a head."""
    code, details = error.code(), str(error.details()).rpartition(": ")[2]
    if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        return refused_token(address)
    reason = {
        grpc.StatusCode.UNAVAILABLE: f"what answers there does not speak as one ({details})",
        grpc.StatusCode.UNIMPLEMENTED: "what answers there is another service",
        grpc.StatusCode.DEADLINE_EXCEEDED: f"what listens there has not answered for {ANSWER_SECONDS:.0f} s",
    }.get(code, f"{code.name}: {details}")
    return (
        f"no Ray head at {address}: {reason}; the port of a cluster's head is 6379 unless it was chosen otherwise, "
        f"not that of its dashboard, 8265, nor another service's, and RAY_USE_TLS must be as it is there"
    )


def refused_token(address: str) -> str:
    """Returns the message for a cluster that refuses the token, or asks for one where none is shown."""
    what = "the token" if is_token_used() else "whoever shows no token"
    return (
        f"{address} refuses {what}: put the cluster's into ~/.ray/auth_token, or name its file in RAY_AUTH_TOKEN_PATH"
    )


def check_socket_paths(root: str, below: str, variable: str = "TMPDIR") -> None:
    """Refuses a temporary folder below which the paths of Ray's Unix sockets are longer than the system allows.

    Args:
        root: the temporary folder.
        below: the folder in it that Ray uses.
        variable: of the environment, that names `root`.

    Raises:
        ClusterError: it is too long.
    """
    allowed = SOCKET_BYTES - len(os.fsencode(f"/{below}/{SOCKET}"))
    if (length := len(os.fsencode(root))) > allowed:
        raise ClusterError(
            f"{variable} = {root}: {length} bytes are too long for the Unix sockets that Ray makes below it, at most "
            f"{allowed} are allowed; set {variable} to a shorter folder, such as /tmp"
        )
