"""Connects to a Ray cluster, or starts one on this machine, and plans the resources of workers."""

import logging
import os
import re
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from vaedist.config import ScalingSection
from vaedist.errors import ClusterError, VaedistError, WorkerError
from vaedist.launch.addresses import LOOPBACK, ONLY_HERE, free_port
from vaedist.launch.authentication import IN_JOB, authorize, has_token, require_variables, secure_local
from vaedist.launch.doctor.preflight import check_head, check_socket_paths
from vaedist.launch.ray_internals import default_temp_folder, find_head, loopback_only, own_sessions, patient_start
from vaedist.launch.signals import suspended_together
from vaedist.launch.training.proxies import bypass_proxies
from vaedist.launch.user_code import check_importable, python_path, staged
from vaedist.storage.filesystem import first_line
from vaedist.storage.uri import require_utf8
from vaedist.wording import counted

# Ray's logger keeps the stderr of its import, which `output_to` cannot redirect in a notebook.
LOGGED = logging.WARNING
RAYLET_SECONDS = 120  # for the raylet to start
# Ray's default of 30 s is too short on a machine that swaps or sleeps: processes that wait for the head would exit,
# such as the actor that frees the workers of a run whose controller died.
HEAD_SECONDS = 300
# For the processes of a Ray on this machine, unless the variables are set. The head and the raylet wait for each other
# if one of them gets no processor time; by default the raylet ends after 60 s, and with it, without a message, the
# command. Clusters do not get them, as they would notice a lost machine later.
PATIENCE = {
    "RAY_gcs_rpc_server_reconnect_timeout_s": str(HEAD_SECONDS),
    "RAY_health_check_failure_threshold": "30",  # checks, every 3 s, that wait up to 10 s for an answer
}
# Ray starts workers at niceness 15. With 0, computing workers have priority over the many coordinating processes, each
# of which wakes up a hundred times a second and delays parallel loops.
COMPUTING = {"env_vars": {"RAY_worker_niceness": "0"}}


@contextmanager
def ray_session(address: str | None = None, packages: Sequence[Path] = ()) -> Iterator[None]:
    """Connects to Ray within the context; an existing connection is used as it is.

    Args:
        address: see `connect`; a local Ray that is started ends with the context.
        packages: see `connect`.

    Raises:
        ConfigError, ClusterError: see `connect`.
        WorkerError: within the context, Ray raised an error, as when this machine's Ray has ended.
    """
    if connect(address, packages):
        try:
            with suspended_together():
                yield
        except ray.exceptions.RayError as error:
            raise WorkerError(f"Ray failed: {first_line(error)}") from error
        finally:
            ray.shutdown()
    else:
        yield


def connect(address: str | None = None, packages: Sequence[Path] = ()) -> bool:
    """Connects this process to Ray; an existing connection is used as it is.

    Args:
        address: HOST:PORT of a cluster, or "auto" for the one on this machine. None uses RAY_ADDRESS, or if it is not
            set starts a local Ray that ends with this process.
        packages: the user's packages, for workers to import. A local Ray reads them in place, and a cluster gets
            copies. A job's packages are on the cluster already, and those of an existing connection must be.

    Returns:
        True if there was no connection.

    Raises:
        ConfigError: a package cannot be read.
        ClusterError: the cluster cannot be reached, `authorize` refuses the address, or workers of an existing
            connection cannot import a package.
    """
    if ray.is_initialized():
        check_importable(packages)
        return False
    require_variables()
    source = "" if address else "RAY_ADDRESS: "
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    on_sigterm = signal.getsignal(signal.SIGTERM)
    failed = "cannot start Ray" if address == "local" else f"cannot join the Ray cluster at {address}"
    try:
        if address == "local":
            start_ray(packages)
        else:
            _join(address, () if IN_JOB in os.environ else packages)
    except ClusterError as error:
        raise ClusterError(f"{source if address != 'local' else ''}{error}") from error
    except VaedistError:
        raise
    except Exception as error:  # Ray also raises plain exceptions
        raise ClusterError(f"{failed}: {_reason(error)}") from error
    if callable(on_sigterm):  # Ray has replaced it with a handler that ends the process at once
        signal.signal(signal.SIGTERM, on_sigterm)
    return True


def _join(address: str, packages: Sequence[Path]) -> None:
    """Connects to a running cluster, and uploads the user's packages for the workers of this connection."""
    with staged(packages) as copies:
        ray.init(
            address=_reached(address),
            runtime_env={"py_modules": copies} if copies else None,
            logging_level=LOGGED,
        )


def start_ray(packages: Sequence[Path] = (), **options: Any) -> None:
    """Starts a local Ray that ends with this process, and connects to it.

    Args:
        packages: the user's packages, for workers to import.
        options: options of `ray.init`; by default there is no dashboard.

    Raises:
        ClusterError: Ray cannot start workers with this Python, or create sockets in the temporary folder.
        StorageError: the path of the current folder is not UTF-8.
    """
    _check_interpreter()
    require_utf8(Path.cwd())
    check_socket_paths(default_temp_folder(), "ray", "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ else "TMPDIR")
    bypass_proxies()
    secure_local()
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # this machine is not preempted
    os.environ.setdefault("RAY_py_gcs_connect_timeout_s", str(HEAD_SECONDS))  # read by each process of Ray
    # A process of Ray that searches for its cluster fails if several run on the machine. Choosing the port here allows
    # to pass the address to it.
    port = free_port()
    address = f"{LOOPBACK}:{port}"
    with (
        environment(
            RAY_GCS_SERVER_PORT=str(port),
            RAY_ADDRESS=address,
            **ONLY_HERE,
            **python_path(packages),
            **{name: os.environ.get(name, value) for name, value in PATIENCE.items()},
        ),
        loopback_only(),
        own_sessions(),
        patient_start(RAYLET_SECONDS),
    ):
        ray.init(address="local", logging_level=LOGGED, **{"include_dashboard": False} | options)


def _reason(error: Exception) -> str:
    """Returns the reason of a failed start in one line; Ray's own first line announces others, which may be none."""
    log = re.search(r"Please check (\S+) for details", str(error))
    return f"{first_line(error).partition('. ')[0]}; see {log[1]}" if log else first_line(error)


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Sets environment variables within the context, for the processes that are started in it."""
    before = os.environ.copy()
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]
            if name in before:
                os.environ[name] = before[name]


def _check_interpreter() -> None:
    """Refuses a Python whose path has a space: Ray passes it to a shell unquoted, and would wait forever."""
    if any(letter.isspace() for letter in sys.executable):
        raise ClusterError(f"Ray cannot start workers from {sys.executable}: its path must have no space")


def _reached(address: str) -> str:
    """Returns an address in Ray's form, after checks of the head, without which Ray would retry for minutes."""
    if address == "auto":
        found = find_head(address)
        if has_token():
            secure_local()
        check_head(found)
        return address
    if "://" in address:
        raise ClusterError(f"address {address}: must be HOST:PORT of the cluster's head, or auto")
    _, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        raise ClusterError(f"address {address}: must be HOST:PORT of the cluster's head, as in 10.0.0.1:6379, or auto")
    taken = authorize(address)
    check_head(address)
    return taken


def resources_per_worker(
    scaling: ScalingSection, nodes: Sequence[Mapping[str, float]] | None = None, *, jobs: int = 1
) -> dict[str, float]:
    """Returns the resources that each worker reserves; by default the CPUs are divided among all workers.

    Args:
        scaling: settings of the experiment.
        nodes: resources of each node; None uses those of the connected cluster.
        jobs: number of such jobs that run at the same time, if there is room.

    Raises:
        ClusterError: the cluster has no room for the workers.
    """
    nodes = node_resources() if nodes is None else nodes
    cpus, gpus = scaling.cpus_per_worker, scaling.gpus_per_worker
    fewest, most = scaling.bounds
    if not cpus:
        largest = int(max((node.get("CPU", 0) for node in nodes), default=0))
        wanted = min(jobs * most, max(places(1, gpus, nodes), fewest))
        fitting = [c for c in range(largest, 0, -1) if places(c, gpus, nodes) >= wanted]
        cpus = fitting[0] if fitting else 1
    if not scaling.autoscaling:
        wish = f"scaling.workers = {fewest}" + (" at least" if scaling.elastic else "")
        advice = "ask for less, or set scaling.autoscaling = true if the cluster adds nodes on demand"
        check_room(fewest, cpus, gpus, nodes, wish=wish, advice=advice)
    return {"CPU": float(cpus)} | ({"GPU": float(gpus)} if gpus else {})


def check_room(
    workers: int,
    cpus: float,
    gpus: float,
    nodes: Sequence[Mapping[str, float]] | None = None,
    *,
    wish: str = "",
    advice: str = "ask for fewer workers",
) -> None:
    """Checks that the cluster has room for workers.

    Args:
        workers: number of workers.
        cpus: CPUs of each.
        gpus: GPUs of each, or the fraction of one.
        nodes: resources of each node; None uses those of the connected cluster.
        wish: how the number of workers was requested, for the message.
        advice: what to do if there is no room.

    Raises:
        ClusterError: there is no room.
    """
    nodes = node_resources() if nodes is None else nodes
    if (room := places(cpus, gpus, nodes)) < workers:
        each = f"{cpus:g} CPU" + (f" and {gpus:g} GPU" if gpus else "")
        raise ClusterError(
            f"the cluster has no room for the job: {wish or counted(workers, 'worker')}, each of {each}, and "
            f"{describe(nodes)} in all fit {room}; {advice}"
        )


def jobs_at_once(scaling: ScalingSection, resources: Mapping[str, float]) -> int:
    """Returns the number of jobs that fit into the cluster, if each worker reserves `resources`; at least 1."""
    return max(1, places(resources["CPU"], resources.get("GPU", 0)) // scaling.bounds[0])


def node_resources() -> list[Mapping[str, float]]:
    """Returns the resources of each live node of the connected cluster."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def describe(nodes: Sequence[Mapping[str, float]]) -> str:
    """Returns the number of nodes and their total resources in words."""
    return f"{counted(len(nodes), 'node')} with " + ", ".join(
        f"{total(nodes, kind):g} {kind}" for kind in ("CPU", "GPU")
    )


def total(nodes: Sequence[Mapping[str, Any]], kind: str) -> float:
    """Returns the total of a resource over the nodes."""
    return sum(node.get(kind, 0) for node in nodes)


def places(cpus: float, gpus: float, nodes: Sequence[Mapping[str, float]] | None = None) -> int:
    """Returns the number of workers with these resources that fit on the nodes; None: on the connected cluster."""
    nodes = node_resources() if nodes is None else nodes
    return sum(min(_times(node.get("CPU", 0), cpus), _on_gpus(node.get("GPU", 0), gpus)) for node in nodes)


def _on_gpus(count: float, each: float) -> int:
    """Returns the number of workers that GPUs have room for; a part of a GPU comes from a single one."""
    if not 0 < each < 1:
        return _times(count, each)
    return int(count) * _times(1, each) + _times(count % 1, each)


def _times(amount: float, each: float) -> int:
    """Returns how many times an amount holds another."""
    return int(amount / each + 1e-9) if each else sys.maxsize
