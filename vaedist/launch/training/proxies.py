"""Proxies of the environment, which what is said to this machine and among workers must not go through."""

import json
import os

from vaedist.launch.addresses import host_of

LOCAL = ("localhost", "127.0.0.1", "::1")
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")
EXCEPTIONS = ("no_proxy", "NO_PROXY")  # some programs read only one of them
GRPC_EXCEPTIONS = "no_grpc_proxy"  # read by gRPC in their place


def bypass_proxies(*hosts: str) -> None:
    """Has this process, and those that it starts, speak with this machine's own servers past the proxies that are set.

    Proxies stay what they are for all other hosts. Without any, nothing is changed.

    Args:
        hosts: that are to be spoken with directly, too.
    """
    if not any(os.environ.get(name) or os.environ.get(name.upper()) for name in PROXIES):
        return
    known = next((os.environ[name] for name in EXCEPTIONS if os.environ.get(name)), "")
    for name in EXCEPTIONS:
        os.environ[name] = _with(os.environ.get(name) or known, (*LOCAL, *hosts))
    if given := os.environ.get(GRPC_EXCEPTIONS):
        os.environ[GRPC_EXCEPTIONS] = _with(given, (*LOCAL, *hosts))


def bypass_proxies_among_workers() -> None:
    """Has a worker speak directly with the others of its group: TensorFlow's gRPC would go through `http_proxy`."""
    workers = json.loads(os.environ.get("TF_CONFIG", "{}")).get("cluster", {}).get("worker", [])
    bypass_proxies(*dict.fromkeys(map(host_of, workers)))


def _with(exceptions: str, hosts: tuple[str, ...]) -> str:
    """Returns a list of hosts, with commas, to which others are added; "*" is all hosts already."""
    given = [host.strip() for host in exceptions.split(",") if host.strip()]
    return exceptions if "*" in given else ",".join([*given, *(host for host in hosts if host not in given)])
