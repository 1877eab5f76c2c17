"""Ray Train worker: runs the training as one worker of a group, and reports its errors."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_network
from typing import Any

import ray
import ray.train
from ray.train.collective import broadcast_from_rank_zero

from vaedist.config import Experiment
from vaedist.errors import Interrupted, NonFiniteError, VaedistError
from vaedist.launch.authentication import require_variables
from vaedist.launch.preemption.notice import Preemption
from vaedist.launch.training import backend
from vaedist.launch.training.channel import WorkerLine
from vaedist.launch.training.packet_filter import LOOPBACK_NETWORKS, Network, networks_of
from vaedist.launch.training.proxies import bypass_proxies_among_workers
from vaedist.monitor.events import Notice
from vaedist.runs.folder import RunFolder
from vaedist.runs.writer_lease import GROUP, WriterLease

SHOWN = 8  # networks that the warning lists


def work(config: dict[str, Any]) -> None:
    """Trains as one worker of the group.

    A `VaedistError` is final: restarting the workers would only repeat it. It is reported through the channel, and a
    group that Ray Train starts after it ends at once.

    Args:
        config: "experiment" as TOML, the path or URI of the run's folder as "run", the "channel", and the number of
            "threads" to compute with.
    """
    run = RunFolder.at(config["run"])
    group = os.environ[GROUP]
    line = WorkerLine(config["channel"], group)
    lease = WriterLease(run.patient(lambda text: line.notify(Notice(text))), group)
    if line.given_up():
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    bypass_proxies_among_workers()
    from vaedist.training.worker import Worker, train  # TensorFlow takes seconds, and reads the environment

    context = ray.train.get_context()
    preemption = Preemption(lambda text: line.notify(Notice(text)))
    experiment = Experiment.from_toml(config["experiment"])
    worker = Worker(
        rank=context.get_world_rank(),
        workers=context.get_world_size(),
        threads=config["threads"],
        notify=line.notify,
        should_stop=line.should_stop,
        should_save=lambda: line.should_save() or preemption.save_now(),
        agree=broadcast_from_rank_zero,
        may_write=lease.check,
        guard=_guard(experiment, context.get_world_rank(), line),
    )
    try:
        require_variables()
        train(experiment, run, worker)
    except (Interrupted, NonFiniteError) as error:  # in all workers, after the same step; rank 0 reports it
        if worker.rank == 0:
            line.fail(error)
    except VaedistError as error:  # in this worker alone: the others wait for it, until Ray Train ends them
        line.fail(error)
        raise
    except Exception as error:
        # Raised as a plain error: to unpickle TensorFlow's own, the controller would have to import TensorFlow, which
        # delays the next group.
        raise RuntimeError(f"{type(error).__name__}: {error}") from error


@contextmanager
def _guard(experiment: Experiment, rank: int, line: WorkerLine) -> Iterator[None]:
    """Opens the port of TensorFlow's server, if the group has several workers, to the group's machines alone."""
    if backend.reserved is None:
        yield
        return
    hosts = backend.workers_hosts()
    networks: list[Network] = [*networks_of(hosts), *map(ip_network, experiment.scaling.peer_networks)]
    strangers = [network for network in networks if not network.is_loopback]
    if strangers and rank == 0:
        line.notify(Notice(_warning(strangers)))
    with backend.reserved.admitting([*LOOPBACK_NETWORKS, *networks], lambda text: line.notify(Notice(text))):
        yield


def _warning(networks: list[Network]) -> str:
    """Returns the warning that TensorFlow's ports are open to the users of the group's machines."""
    shown = [str(network.network_address) if network.num_addresses == 1 else str(network) for network in networks]
    named = ", ".join(shown[:SHOWN]) + (f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else "")
    return (
        f"several machines: TensorFlow's ports take connections without authentication from {named}; "
        f"whoever has an account there reads files and runs operations as this user"
    )
