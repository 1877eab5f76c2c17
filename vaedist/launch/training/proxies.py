"""Exemption of connections to this machine and among workers from the proxies of the environment."""

import json
import os

from vaedist.launch.addresses import host_of

LOCAL = ("localhost", "127.0.0.1", "::1")
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")
EXCEPTIONS = ("no_proxy", "NO_PROXY")  # some programs read only one of them
GRPC_EXCEPTIONS = "no_grpc_proxy"  # gRPC reads it instead


def bypass_proxies(*hosts: str) -> None:
    """Makes this process and its children connect to servers on this machine without a proxy.

    Connections to other hosts still use the proxies. Nothing is changed if no proxy is set.

    Args:
        hosts: further hosts to connect to without a proxy.
    """
    if not any(os.environ.get(name) or os.environ.get(name.upper()) for name in PROXIES):
        return
    known = next((os.environ[name] for name in EXCEPTIONS if os.environ.get(name)), "")
    for name in EXCEPTIONS:
        os.environ[name] = _with(os.environ.get(name) or known, (*LOCAL, *hosts))
    if given := os.environ.get(GRPC_EXCEPTIONS):
        os.environ[GRPC_EXCEPTIONS] = _with(given, (*LOCAL, *hosts))


def bypass_proxies_among_workers() -> None:
    """Makes a worker connect to its group without a proxy; TensorFlow's gRPC would use `http_proxy`."""
    workers = json.loads(os.environ.get("TF_CONFIG", "{}")).get("cluster", {}).get("worker", [])
    bypass_proxies(*dict.fromkeys(map(host_of, workers)))


def _with(exceptions: str, hosts: tuple[str, ...]) -> str:
    """Returns a comma-separated list of hosts with others added; "*" already covers all hosts."""
    given = [host.strip() for host in exceptions.split(",") if host.strip()]
    return exceptions if "*" in given else ",".join([*given, *(host for host in hosts if host not in given)])
