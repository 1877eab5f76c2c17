"""Checks before Ray is joined or started, which report in one line what would make Ray wait or print a page of text."""

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
ANSWER_SECONDS = 40.0  # for the first answer, so that a wrong address is refused within a minute
ATTEMPTS, PAUSE_SECONDS = 3, 1.0  # a starting head closes its first connections
SOCKET_BYTES = 103 if sys.platform == "darwin" else 107  # limit for the path of a Unix socket, without the final null
# Path of a socket below Ray's temporary folder. A process number has at most seven digits.
SOCKET = "session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store"


def connect(address: str) -> None:
    """Opens a connection to HOST:PORT or to the server of a URL, and closes it.

    Raises:
        OSError: nothing listens there.
        ValueError: the port is invalid.
    """
    host, port = host_of(address), _port_of(address)
    socket.create_connection((host, port), CONNECT_SECONDS).close()


def _port_of(address: str) -> int:
    parts = urlsplit(address if "://" in address else f"//{address}")
    return parts.port or {"https": 443}.get(parts.scheme, 80)


def check_dashboard(url: str) -> None:
    """Checks that the server at a URL is the dashboard of a Ray cluster; does not check the token.

    Raises:
        ClusterError: no server answers, or another kind of server does.
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
        reason = "another service answers there"
    except requests.exceptions.Timeout:
        reason = f"the server there has not answered for {ANSWER_SECONDS:.0f} s"
    except requests.exceptions.SSLError as error:
        told = re.search(r"\[SSL[^]]*\] (.+?) \(", str(error))
        reason = f"TLS fails, {told[1]}" if told else "TLS fails"
    except requests.exceptions.ProxyError:
        reason = "the proxy of the environment does not reach it, add the host to no_proxy"
    except (requests.exceptions.RequestException, ValueError, TypeError):
        reason = "another service answers there"
    raise ClusterError(
        f"no Ray dashboard at {url}: {reason}; the default port of a cluster's dashboard is 8265 (6379 is that of its "
        f"head)"
    )


def check_head(address: str) -> None:
    """Checks that the head of a cluster answers at HOST:PORT, accepts the token, and has the versions of this process.

    Raises:
        ClusterError: no server answers, another kind of server does, it refuses the token, or its versions differ.
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
            f"the cluster at {address} runs Ray {found['ray_version']} on Python {found['python_version']}, and this "
            f"machine Ray {ray.__version__} on Python {'.'.join(map(str, sys.version_info[:3]))} ({sys.executable}): "
            f"the versions must be equal; install those of the cluster, or send the job to its dashboard by "
            f"vaedist submit"
        ) from error


def _metadata(address: str) -> dict[str, str] | None:
    """Returns the versions that a head reports, None if it reports none.

    Raises:
        grpc.RpcError: the head does not answer.
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
    """Returns the error message, in one line, for a server that cannot be used as a head."""
    code, details = error.code(), str(error.details()).rpartition(": ")[2]
    if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        return refused_token(address)
    reason = {
        grpc.StatusCode.UNAVAILABLE: f"the server there does not speak Ray's protocol ({details})",
        grpc.StatusCode.UNIMPLEMENTED: "another service answers there",
        grpc.StatusCode.DEADLINE_EXCEEDED: f"the server there has not answered for {ANSWER_SECONDS:.0f} s",
    }.get(code, f"{code.name}: {details}")
    return (
        f"no Ray head at {address}: {reason}; the default port of a cluster's head is 6379 (8265 is that of its "
        f"dashboard), and RAY_USE_TLS must be the same here and there"
    )


def refused_token(address: str) -> str:
    """Returns the error message for a cluster that refuses the token, or requires one if none is sent."""
    what = "refuses the token" if is_token_used() else "requires a token"
    return f"{address} {what}: put the cluster's token into ~/.ray/auth_token, or name its file in RAY_AUTH_TOKEN_PATH"


def check_socket_paths(root: str, below: str, variable: str = "TMPDIR") -> None:
    """Refuses a temporary folder in which the paths of Ray's Unix sockets would be too long for the system.

    Args:
        root: the temporary folder.
        below: the folder in it that Ray uses.
        variable: the environment variable that sets `root`.

    Raises:
        ClusterError: the path is too long.
    """
    allowed = SOCKET_BYTES - len(os.fsencode(f"/{below}/{SOCKET}"))
    if (length := len(os.fsencode(root))) > allowed:
        raise ClusterError(
            f"{variable} = {root}: {length} bytes are too long for the Unix sockets that Ray creates there, at most "
            f"{allowed} are allowed; set {variable} to a shorter path, such as /tmp"
        )
