"""The function that Ray Train runs on each worker of a group: trains, and reports errors."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from vaedist.training.worker import Worker

SHOWN = 8  # networks that the warning lists at most


def work(config: dict[str, Any]) -> None:
    """Trains as one worker of the group.

    A `VaedistError` is final, as restarting the workers would only repeat it. It is reported through the channel. If
    Ray Train starts another group after it, the workers of that group return at once.

    Args:
        config: "experiment" as TOML, the path or URI of the run's folder as "run", the "channel", the number of
            "threads" to compute with, and whether the run is a "trial" of a sweep.
    """
    line = WorkerLine(config["channel"], os.environ[GROUP])
    if line.given_up():
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    bypass_proxies_among_workers()
    from vaedist.training.worker import train  # importing TensorFlow takes seconds, and reads the environment

    run, experiment = RunFolder.at(config["run"]), Experiment.from_toml(config["experiment"])
    worker = _worker(experiment, run, line, config["threads"], trial=config["trial"])
    with _reporting(line, worker.rank):
        require_variables()
        train(experiment, run, worker)


def _worker(experiment: Experiment, run: RunFolder, line: WorkerLine, threads: int, *, trial: bool) -> "Worker":
    """Returns the worker's rank and resources, and its callbacks."""
    from vaedist.training.worker import Worker

    def notify(text: str) -> None:
        line.notify(Notice(text))

    context, preemption = ray.train.get_context(), Preemption(notify)
    rank = context.get_world_rank()
    return Worker(
        rank=rank,
        workers=context.get_world_size(),
        threads=threads,
        notify=line.notify,
        should_stop=line.should_stop,
        should_save=lambda: line.should_save() or preemption.save_now(),
        agree=broadcast_from_rank_zero,
        may_write=WriterLease(run.patient(notify), os.environ[GROUP]).check,
        guard=_guard(experiment, rank, line),
        trial=trial,
    )


@contextmanager
def _reporting(line: WorkerLine, rank: int) -> Iterator[None]:
    """Reports errors of the training through the channel."""
    try:
        yield
    except (Interrupted, NonFiniteError) as error:  # raised by all workers after the same step; rank 0 reports it
        if rank == 0:
            line.fail(error)
    except VaedistError as error:  # raised by this worker only; the others wait for it until Ray Train ends them
        line.fail(error)
        raise
    except Exception as error:
        # Raised as a plain error: to unpickle one of TensorFlow's, the controller would have to import TensorFlow,
        # which delays the next group.
        raise RuntimeError(f"{type(error).__name__}: {error}") from error


@contextmanager
def _guard(experiment: Experiment, rank: int, line: WorkerLine) -> Iterator[None]:
    """Lets only the group's machines reach TensorFlow's server, which a group of several workers starts."""
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
    """Returns the warning that users of the group's machines can reach TensorFlow's ports."""
    shown = [str(network.network_address) if network.num_addresses == 1 else str(network) for network in networks]
    named = ", ".join(shown[:SHOWN]) + (f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else "")
    return (
        f"several machines: TensorFlow's ports accept connections without authentication from {named}; "
        f"anybody with an account there can read files and run operations as this user"
    )
