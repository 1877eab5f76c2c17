"""What Ray Train does for a group of workers before they train: telling each where the others are, and who they are."""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray.train.backend import Backend, BackendConfig

from vaedist.errors import ClusterError, StorageError
from vaedist.launch.addresses import LOOPBACK, host_of, host_port
from vaedist.launch.training.server_port import ServerPort
from vaedist.runs.folder import RunFolder
from vaedist.runs.writer_lease import GROUP, grant_lease, new_group


@dataclass
class TensorflowCluster(BackendConfig):
    """Ray Train's `TensorflowConfig`, but for importing TensorFlow.

    What belongs to `ray.train.tensorflow` imports TensorFlow wherever it is unpickled: in the command, in the
    controller of each run and in each trial of a sweep, none of which computes. That takes seconds and hundreds of MB
    from each.

    Attributes:
        run: path or URI of the run's folder, whose writer lease each new group takes over.
        channel: which is told of it.
        ports: first and last of those that TensorFlow's servers may take; any free ones where there are none.
    """

    run: str
    channel: Any
    ports: tuple[int, ...] = ()

    @property
    def backend_cls(self) -> type[Backend]:
        """What Ray Train makes in the controller of a run."""
        return _TensorflowClusterBackend


class _TensorflowClusterBackend(Backend):
    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Set TF_CONFIG, which MultiWorkerMirroredStrategy reads, and the group's name in each worker.

        Raises nothing that can be expected: Ray Train would leave the group where it is, on the places that the next
        one needs. What is final is told to the channel, where workers look first; a worker that died is found soon.
        """
        group, channel = new_group(), backend_config.channel
        ray.get(channel.listen_to.remote(group))
        try:
            grant_lease(RunFolder.at(backend_config.run).patient(), group)
        except StorageError as error:
            ray.get(channel.fail.remote(error, group))
        try:
            with suppress(ray.exceptions.RayActorError):
                self._introduce(worker_group, group, backend_config.ports)
        except ClusterError as error:
            ray.get(channel.fail.remote(ClusterError(str(getattr(error, "cause", error))), group))

    def _introduce(self, worker_group: Any, group: str, ports: Sequence[int]) -> None:
        """Tells each worker who they are."""
        ray.get(worker_group.execute_async(_join, group=group))
        if len(worker_group) == 1:  # it starts no server
            return
        addresses = common_addresses(worker_group.execute(_reserve, ports=ports))
        ray.get(
            [
                worker_group.execute_single_async(rank, _set_cluster, addresses=addresses, index=rank)
                for rank in range(len(worker_group))
            ]
        )


@dataclass(frozen=True)
class Reserved:
    """Port that a worker has reserved.

    Attributes:
        node: Ray's identity of its node.
        host: the node's address, as the other nodes see it.
        port: for TensorFlow's server.
    """

    node: str
    host: str
    port: int


def common_addresses(places: Sequence[Reserved]) -> list[str]:
    """Returns the address of each worker of a group: the loopback's where all of them are on one node."""
    alone = len({place.node for place in places}) == 1
    return [host_port(LOOPBACK if alone else place.host, place.port) for place in places]


def workers_hosts() -> list[str]:
    """In a worker: returns the hosts of its group."""
    workers = json.loads(os.environ["TF_CONFIG"])["cluster"]["worker"]
    return [host_of(address) for address in workers]


# In a worker: Ray Train reserves the port, in one call, and starts the training, in another.
reserved: ServerPort | None = None


def _join(group: str) -> None:
    os.environ[GROUP] = group


def _reserve(ports: Sequence[int]) -> Reserved:
    global reserved
    reserved = ServerPort(ports)
    return Reserved(ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address(), reserved.number)


def _set_cluster(addresses: list[str], index: int) -> None:
    cluster = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
    os.environ["TF_CONFIG"] = json.dumps(cluster)
