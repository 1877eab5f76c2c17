"""Port of TensorFlow's server in a worker: reserved until the server listens, and closed to other machines.

MultiWorkerMirroredStrategy starts TensorFlow's gRPC server, which binds all interfaces and requires no authentication.
On Linux the kernel lets only the machines of the worker group reach it (see `packet_filter`).

The server is never open to others, not even for a moment. The port is first bound here, by a socket that drops every
packet. TensorFlow's server then shares the port with this socket (SO_REUSEPORT), and the kernel decides by the sender's
address which of the two gets a connection. Once the server listens, it gets its own filter, and the first socket is
closed. Since the port is never free in between, no other process can take it.
"""

import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from vaedist.errors import ClusterError
from vaedist.launch.training.packet_filter import Network, admit, divert, drop_all, dropped, prove

REUSE = "TF_GRPC_REUSE_PORT"  # read by TensorFlow when its server starts
# A port that a worker has just released may be in use for as long as Linux keeps a closed connection, a minute.
WAIT_SECONDS = 61.0
RETRY_SECONDS = 1.0
# For the workers of a group to connect, before a warning; loading TensorFlow over a slow network may take longer.
MEETING_SECONDS = 30.0


class ServerPort:
    """Port for the TensorFlow server of this process.

    Args:
        ports: first and last port of the range to choose from; empty allows any free port.
        seconds: seconds to wait for one of `ports` to become free.

    Raises:
        ClusterError: no port is free.
    """

    def __init__(self, ports: Sequence[int] = (), seconds: float = WAIT_SECONDS) -> None:
        self._family = _family()
        self._holder = _bound(self._family, ports, seconds)
        self.number: int = self._holder.getsockname()[1]

    def close(self) -> None:
        """Releases the port."""
        self._holder.close()

    @contextmanager
    def admitting(self, networks: Sequence[Network], tell: Callable[[str], None]) -> Iterator[None]:
        """Lets TensorFlow's server start within the context, such that only some networks can reach it.

        If the system has no packet filters, the server starts without, and the user is warned that it is open.

        Args:
            networks: networks of the workers.
            tell: called with warnings for the user.

        Raises:
            ClusterError: the server does not listen on the port, or does not share it.
        """
        try:
            prove()
            self._close_to_all_but(networks)
        except OSError as error:
            self.close()
            tell(
                f"TensorFlow's port {self.number} of {socket.gethostname()} is open on all interfaces, without "
                f"authentication: anybody who reaches it can read files and run operations as this user; there is no "
                f"packet filter ({error.strerror or error})"
            )
            yield
            return
        os.environ[REUSE] = "true"
        warning = threading.Timer(MEETING_SECONDS, self._tell_of_strangers, [tell])
        warning.daemon = True
        warning.start()
        try:
            yield
            self._pass_on(networks)
        finally:
            warning.cancel()
            del os.environ[REUSE]
            self.close()

    def _close_to_all_but(self, networks: Sequence[Network]) -> None:
        """Makes the socket drop all packets, and share its port."""
        drop_all(self._holder)
        self._holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._holder.listen()
        divert(self._holder, networks)

    def _pass_on(self, networks: Sequence[Network]) -> None:
        """Attaches the filter to the server's own sockets."""
        found = 0
        for server in _listening(self.number):
            if server.family != self._family:  # the server does not share the port, but has it for itself
                raise ClusterError(f"TensorFlow's port {self.number} is open to everybody, as {server.family.name}")
            if os.fstat(server.fileno()).st_ino != os.fstat(self._holder.fileno()).st_ino:
                admit(server, networks)
                found += 1
        if not found:
            raise ClusterError(f"TensorFlow's server does not listen on port {self.number}, as TF_CONFIG says")

    def _tell_of_strangers(self, tell: Callable[[str], None]) -> None:
        """Warns about dropped packets, if the workers have not connected for `MEETING_SECONDS`."""
        with suppress(OSError):
            if count := dropped(self._holder):
                tell(
                    f"{count} packets for TensorFlow's port {self.number} of {socket.gethostname()} came from none of "
                    f"the run's addresses and were dropped; if a machine of the run has several addresses, name its "
                    f"network in scaling.peer_networks"
                )


def _family() -> socket.AddressFamily:
    """Returns the family of the socket that gRPC opens for all interfaces: IPv6 (for both) if the loopback has IPv6."""
    with suppress(OSError), socket.socket(socket.AF_INET6) as place:
        place.bind(("::1", 0))
        return socket.AF_INET6
    return socket.AF_INET


def _bound(family: socket.AddressFamily, ports: Sequence[int], seconds: float) -> socket.socket:
    """Returns a socket that is bound to one of the ports, on all interfaces, but does not listen yet."""
    deadline = time.monotonic() + seconds
    while True:
        for port in random.sample(range(ports[0], ports[1] + 1), ports[1] + 1 - ports[0]) if ports else [0]:
            holder = socket.socket(family)
            try:
                if family == socket.AF_INET6:
                    holder.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                holder.bind(("", port))
            except OSError:  # the port is in use
                holder.close()
            else:
                return holder
        if time.monotonic() > deadline:
            given = f" of scaling.ports = {list(ports)}" if ports else ""
            raise ClusterError(f"no port{given} is free on {socket.gethostname()}, and each worker needs one")
        time.sleep(RETRY_SECONDS)


def _listening(port: int) -> Iterator[socket.socket]:
    """Yields copies of this process's sockets that listen on a port; closing a copy does not close the socket."""
    for entry in Path("/proc/self/fd").iterdir():
        try:
            if not str(entry.readlink()).startswith("socket:"):
                continue
            copy = socket.socket(fileno=os.dup(int(entry.name)))
        except OSError:  # closed in the meantime
            continue
        with copy:
            if copy.family in (socket.AF_INET, socket.AF_INET6) and _listens(copy, port):
                yield copy


def _listens(place: socket.socket, port: int) -> bool:
    return bool(place.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)) and place.getsockname()[1] == port
