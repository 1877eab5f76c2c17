"""Network addresses and ports."""

import ipaddress
import os
import socket
from contextlib import suppress
from itertools import chain, count

from vaedist.errors import ClusterError

LOOPBACK = "127.0.0.1"
# Ray replaces 127.0.0.1 by the address that other machines see, and then listens on all interfaces. With this variable
# it assumes that there are no other machines, and does not.
ONLY_HERE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
FIRST_PORT, PORTS, PROCESSES = 20_000, 8, 1_500
_calls = count()


def host_port(host: str, port: int) -> str:
    """Returns HOST:PORT, the host in brackets if it is an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def host_of(address: str) -> str:
    """Returns the host of HOST:PORT or of SCHEME://HOST:PORT."""
    place = address.partition("://")[2] or address
    return place.partition("/")[0].rpartition(":")[0].strip("[]") or place


def is_loopback(address: str) -> bool:
    """Returns True if an address is a loopback address; names other than "localhost" are not looked up."""
    host = host_of(address)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def free_port(wanted: int = 0) -> int:
    """Returns a port that is free on all interfaces: the wanted one if possible.

    Another process may take the port before it is used. To make this unlikely, each process first tries a few ports
    that are derived from its process number, a different one at each call. Processes with close numbers share none of
    them, and all are below the range of the system's ephemeral ports.
    """
    first = FIRST_PORT + PORTS * (os.getpid() % PROCESSES)
    own = (first + next(_calls) % PORTS for _ in range(PORTS))
    for port in chain([wanted] if wanted else [], own, [0]):
        with socket.socket() as place, suppress(OSError):
            place.bind(("", port))
            return place.getsockname()[1]
    raise ClusterError("no port is free")
