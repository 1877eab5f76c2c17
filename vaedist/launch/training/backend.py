"""Ray Train's backend for TensorFlow: sets TF_CONFIG in each worker of a group before training starts."""

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
    """Counterpart of Ray Train's `TensorflowConfig` that does not import TensorFlow.

    Unpickling anything of `ray.train.tensorflow` imports TensorFlow, which takes seconds and hundreds of MB. That would
    happen in the command, in the controller of each run, and in each trial of a sweep, none of which computes.

    Attributes:
        run: path or URI of the run's folder, whose writer lease each new group takes over.
        channel: channel of the run, which is notified of each new worker group.
        ports: first and last port that TensorFlow's servers may use; empty allows any free port.
    """

    run: str
    channel: Any
    ports: tuple[int, ...] = ()

    @property
    def backend_cls(self) -> type[Backend]:
        """Class that Ray Train instantiates in the controller of a run."""
        return _TensorflowClusterBackend


class _TensorflowClusterBackend(Backend):
    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Sets TF_CONFIG, which MultiWorkerMirroredStrategy reads, and the group's name in each worker.

        Expected errors are not raised, because the group would then keep the resources that the next one needs. Final
        errors are reported to the channel, which workers check first. Ray Train itself notices a worker that died.
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
        """Sends each worker the addresses of its group, and its own rank."""
        ray.get(worker_group.execute_async(_join, group=group))
        if len(worker_group) == 1:  # a single worker starts no server
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
        node: Ray's ID of the worker's node.
        host: address of the node, as other nodes see it.
        port: port for TensorFlow's server.
    """

    node: str
    host: str
    port: int


def common_addresses(places: Sequence[Reserved]) -> list[str]:
    """Returns the address of each worker of a group: on the loopback interface if all workers are on one node."""
    alone = len({place.node for place in places}) == 1
    return [host_port(LOOPBACK if alone else place.host, place.port) for place in places]


def workers_hosts() -> list[str]:
    """Returns, in a worker, the hosts of its group."""
    workers = json.loads(os.environ["TF_CONFIG"])["cluster"]["worker"]
    return [host_of(address) for address in workers]


# In a worker: one call by Ray Train reserves the port, and another starts the training.
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
