"""Draining of this machine's Ray node before its preemption, so that runs save and continue elsewhere."""

import socket
import time
from collections.abc import Callable

import psutil
from ray.exceptions import RayError

from vaedist.errors import ClusterError
from vaedist.launch.authentication import authorize
from vaedist.launch.doctor.preflight import check_head
from vaedist.launch.ray_internals import ControlStore, find_head
from vaedist.wording import counted

ANSWER_SECONDS = 10.0
WORKER = "RayTrainWorker"  # part of the title of a training worker's process
POLL_SECONDS = 0.5


class OwnNode:
    """The Ray node of this machine.

    Args:
        address: HOST:PORT of the cluster's head; None uses RAY_ADDRESS, or the cluster that this machine belongs to.
        ip: address by which the cluster knows the node; None uses the addresses of this machine.
    """

    def __init__(self, address: str | None = None, ip: str | None = None) -> None:
        self._given, self._ip = address, ip

    def find(self) -> tuple[str, str]:
        """Returns the node's ID and its address.

        It is looked up each time, as a restarted node has a new ID.

        Raises:
            ClusterError: the cluster does not answer, or has no node or several nodes on this machine.
        """
        store = self._control_store()
        found = self._nodes(store)
        if len(found) == 1:
            return found[0]
        here = self._ip or f"{socket.gethostname()}"
        if not found:
            raise ClusterError(f"the Ray cluster at {store.address} has no live node on {here}")
        addresses = ", ".join(sorted(ip for _, ip in found))
        raise ClusterError(f"{len(found)} Ray nodes are on {here}, at {addresses}: name one with --node-ip")

    def drain(self, reason: str, deadline: float) -> str:
        """Announces the preemption of the node to Ray; returns its address.

        Args:
            reason: reason, for Ray's records.
            deadline: UNIX time of the preemption.

        Raises:
            ClusterError: the node is not found (see `find`), or Ray refuses to drain it.
        """
        identity, ip = self.find()
        try:
            refusal = self._control_store().drain(identity, reason, deadline)
        except (RayError, RuntimeError, OSError) as error:
            raise ClusterError(f"Ray does not drain node {ip}: {_first_line(error)}") from error
        if refusal is not None:
            raise ClusterError(f"Ray does not drain node {ip}: {refusal}")
        return ip

    def _control_store(self) -> ControlStore:
        """Returns a client of the cluster's control store; this process does not join the cluster."""
        try:
            # Ray would replace an address of this machine by the one that other machines see.
            address = self._given or find_head(None)
            taken = authorize(address)
            check_head(address)  # Ray's client would log a refused token
            return ControlStore(taken, ANSWER_SECONDS)
        except (RayError, OSError, RuntimeError, ValueError) as error:
            raise ClusterError(f"no Ray cluster answers{self._where()}: {_first_line(error)}") from error

    def _nodes(self, store: ControlStore) -> list[tuple[str, str]]:
        """Returns the ID and the address of each live node on this machine."""
        own = {self._ip} if self._ip else {entry.address for nets in psutil.net_if_addrs().values() for entry in nets}
        try:
            nodes = store.live_nodes()
        except (RayError, RuntimeError, OSError) as error:
            raise ClusterError(f"the Ray cluster{self._where()} does not answer: {_first_line(error)}") from error
        return [(identity, address) for identity, address in nodes if address in own]

    def _where(self) -> str:
        return f" at {self._given}" if self._given else ""


def wait_for_workers(deadline: float, *, notify: Callable[[str], None] = lambda _: None) -> None:
    """Waits until no training worker runs on this machine, or until the deadline, a UNIX time."""
    count = workers()
    if count:
        notify(f"waiting for {counted(count, 'training worker')} to save and end")
    while workers() and time.time() < deadline:
        time.sleep(POLL_SECONDS)


def workers() -> int:
    """Returns the number of training workers on this machine."""
    count = 0
    for process in psutil.process_iter(["cmdline"]):
        count += any(WORKER in word for word in process.info["cmdline"] or ())
    return count


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
