"""Ports of this machine."""

import socket
from contextlib import suppress

from vaedist.errors import ClusterError


def free_port(wanted: int = 0) -> int:
    """A port of the loopback that nobody listens on: the wanted one if it is free."""
    for port in (wanted, 0):
        with socket.socket() as place, suppress(OSError):
            place.bind(("127.0.0.1", port))
            return place.getsockname()[1]
    raise ClusterError("no port is free")
