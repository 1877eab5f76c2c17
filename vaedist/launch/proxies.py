"""Proxies of the environment, which what is said to servers of this machine must not go through."""

import os

LOCAL = ("localhost", "127.0.0.1", "::1")
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")
EXCEPTIONS = ("no_proxy", "NO_PROXY")  # some programs read only one of them
GRPC_EXCEPTIONS = "no_grpc_proxy"  # read by gRPC in their place


def bypass_proxies() -> None:
    """Has this process, and those that it starts, speak with this machine's own servers past the proxies that are set.

    Proxies stay what they are for all other hosts. Without any, nothing is changed.
    """
    if not any(os.environ.get(name) or os.environ.get(name.upper()) for name in PROXIES):
        return
    known = next((os.environ[name] for name in EXCEPTIONS if os.environ.get(name)), "")
    for name in EXCEPTIONS:
        os.environ[name] = _with_local(os.environ.get(name) or known)
    if given := os.environ.get(GRPC_EXCEPTIONS):
        os.environ[GRPC_EXCEPTIONS] = _with_local(given)


def _with_local(exceptions: str) -> str:
    """Returns a list of hosts, with commas, to which this machine's names are added; "*" is all hosts already."""
    hosts = [host.strip() for host in exceptions.split(",") if host.strip()]
    return exceptions if "*" in hosts else ",".join([*hosts, *(name for name in LOCAL if name not in hosts)])
