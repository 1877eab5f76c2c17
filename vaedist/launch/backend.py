"""What Ray Train does for a group of workers before they train: telling each where the others are, and who they are."""

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray._common.network_utils import build_address
from ray.train._internal.utils import get_address_and_port
from ray.train.backend import Backend, BackendConfig

from vaedist.errors import StorageError
from vaedist.launch.fence import GROUP, let_write, new_group
from vaedist.training.run_folder import RunFolder


@dataclass
class TensorflowCluster(BackendConfig):
    """Ray Train's `TensorflowConfig`, but for importing TensorFlow.

    What belongs to `ray.train.tensorflow` imports TensorFlow wherever it is unpickled: in the command, in the
    controller of each run and in each trial of a sweep, none of which computes. That takes seconds and hundreds of MB
    from each.

    Attributes:
        run: the run's place, in which each new group takes the place of the one before.
        channel: which is told of it.
    """

    run: str
    channel: Any

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
            let_write(RunFolder.at(backend_config.run), group)
        except StorageError as error:
            ray.get(channel.fail.remote(error, group))
        with suppress(ray.exceptions.RayActorError):
            self._introduce(worker_group, group)

    def _introduce(self, worker_group: Any, group: str) -> None:
        """Tell each worker who they are."""
        addresses = worker_group.execute(_free_address)
        ray.get(
            [
                worker_group.execute_single_async(rank, _set_environment, addresses=addresses, index=rank, group=group)
                for rank in range(len(worker_group))
            ]
        )


def _free_address() -> str:
    return build_address(*get_address_and_port())


def _set_environment(addresses: list[str], index: int, group: str) -> None:
    cluster = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
    os.environ["TF_CONFIG"] = json.dumps(cluster)
    os.environ[GROUP] = group
