"""Ports of this machine."""

import socket
from contextlib import suppress

from vaedist.errors import ClusterError


def free_port(wanted: int = 0) -> int:
    """A port that nobody listens on, at whatever address: the wanted one if it is free."""
    for port in (wanted, 0):
        with socket.socket() as place, suppress(OSError):
            place.bind(("", port))
            return place.getsockname()[1]
    raise ClusterError("no port is free")
