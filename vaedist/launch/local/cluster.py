"""Records of the local Ray clusters of several nodes, of their processes and their state.

A record holds the number and the start time of each process, so that any process can end the cluster, and ends nothing
else. Start times are relative to the machine's boot, as absolute ones change when the clock is set.
"""

import json
import os
import re
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import platformdirs
import psutil
from pydantic import TypeAdapter

from vaedist.errors import ClusterError
from vaedist.files import replace_file
from vaedist.launch.addresses import LOOPBACK, host_of
from vaedist.launch.training.proxies import bypass_proxies

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
STATE = "VAEDIST_STATE"  # variable that sets the folder for records
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # on Linux, a new one at each boot
MARK = "VAEDIST_CLUSTER"  # variable in the environment of all processes of a cluster


@dataclass(frozen=True)
class LocalNode:
    """Node of a local cluster, with the process that was started for it.

    Attributes:
        role: "head" or "worker".
        cpus: CPUs that Ray can assign on the node.
        pid: number of the process.
        born: start time of the process, from `birth_of`, as process numbers are reused.
        log: file with the output of the process.
    """

    role: str
    cpus: int
    pid: int
    born: str
    log: str

    @property
    def alive(self) -> bool:
        """True while its process runs."""
        return self.process() is not None

    def process(self) -> psutil.Process | None:
        """Returns its process, None if that has ended."""
        with suppress(psutil.Error):
            process = psutil.Process(self.pid)
            if birth_of(process) == self.born and process.status() != psutil.STATUS_ZOMBIE:
                return process
        return None


def birth_of(process: psutil.Process) -> str:
    """Returns the start time of a process, which distinguishes processes of the same number.

    Linux keeps it in ticks since boot. psutil converts it to an absolute time, which changes when the clock is set;
    this is undone here. Other systems keep the absolute time.

    Raises:
        psutil.Error: there is no such process.
    """
    started = psutil.boot_time()  # call it first: in some versions of psutil, create_time depends on the last call
    born = process.create_time()
    if not BOOT_ID.exists():
        return f"{born:.2f}"
    return f"{BOOT_ID.read_text(encoding='ascii').strip()} {born - started:.2f}"


@dataclass(frozen=True)
class LocalCluster:
    """Cluster on this machine.

    Attributes:
        name: its name.
        mark: unique value of the variable `MARK` in the environment of its processes.
        address: HOST:PORT of the head, for drivers and nodes.
        dashboard: URL of the dashboard and the Jobs API.
        token: file of the token.
        scratch: folder of Ray's files.
        nodes: its nodes, the head first.
    """

    name: str
    mark: str
    address: str
    dashboard: str
    token: str
    scratch: str
    nodes: tuple[LocalNode, ...] = ()

    @property
    def folder(self) -> Path:
        """Folder of its record."""
        return clusters_folder() / self.name

    def save(self) -> None:
        """Writes its record."""
        replace_file(self.folder / "cluster.json", json.dumps(asdict(self), indent=1))

    def processes(self) -> list[psutil.Process]:
        """Returns all its processes: those of the nodes, their descendants, and orphaned ones."""
        found: dict[int, psutil.Process] = {}
        for node in self.nodes:
            if (process := node.process()) is not None:
                with suppress(psutil.Error):
                    found |= {child.pid: child for child in [process, *process.children(recursive=True)]}
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.pid not in found and self._is_mine(process):
                    found[process.pid] = process
        return list(found.values())

    def _is_mine(self, process: psutil.Process) -> bool:
        if process.environ().get(MARK) == self.mark:
            return True
        return any(self.scratch in argument for argument in process.cmdline())


def clusters_folder() -> Path:
    """Returns the folder that holds the records of this machine's clusters."""
    return Path(os.environ.get(STATE) or platformdirs.user_state_path("vaedist")) / "clusters"


def local_clusters() -> list[LocalCluster]:
    """Returns the clusters that were started and have not been ended."""
    records = sorted(clusters_folder().glob("*/cluster.json"))
    return [cluster for record in records if (cluster := _read(record)) is not None]


def _read(record: Path) -> LocalCluster | None:
    """Reads the record of a cluster; returns None if it cannot be read."""
    try:
        return TypeAdapter(LocalCluster).validate_json(record.read_bytes())
    except (OSError, ValueError):
        return None


def get_cluster(name: str) -> LocalCluster:
    """Returns a cluster by its name.

    Raises:
        ClusterError: there is no such cluster.
    """
    record = clusters_folder() / name / "cluster.json"
    cluster = _read(record) if NAME.fullmatch(name) else None
    if cluster is None and NAME.fullmatch(name) and record.parent.exists():
        raise ClusterError(
            f"cluster {name!r}: {record} is missing or cannot be read; end the processes that have "
            f"RAY_AUTH_TOKEN_PATH={record.parent / 'token'} in their environment, and remove {record.parent}"
        )
    if cluster is None:
        there = ", ".join(found.name for found in local_clusters()) or "none"
        raise ClusterError(f"there is no local cluster {name!r} (there: {there}); `vaedist cluster up` starts one")
    return cluster


def find_cluster(address: str) -> LocalCluster | None:
    """Returns the local cluster at HOST:PORT or at a dashboard's URL, None if there is none."""
    if host_of(address) not in (LOOPBACK, "localhost"):
        return None
    port = address.rstrip("/").rpartition(":")[2]
    for cluster in local_clusters():
        if port in (cluster.address.rpartition(":")[2], cluster.dashboard.rpartition(":")[2]):
            return cluster
    return None


def nodes_of(cluster: LocalCluster) -> list[dict[str, Any]]:
    """Returns the nodes as listed by the cluster's dashboard, with state, resources_total, is_head_node, and more.

    Raises:
        OSError: the dashboard does not answer, or refuses the token.
    """
    import requests

    bypass_proxies()
    token = Path(cluster.token).read_text(encoding="ascii").strip()
    answer = requests.get(f"{cluster.dashboard}/api/v0/nodes", headers={"Authorization": f"Bearer {token}"}, timeout=10)
    answer.raise_for_status()
    return answer.json()["data"]["result"]["result"]


def joined(cluster: LocalCluster) -> int | None:
    """Returns the number of live nodes according to the head, None if it does not answer."""
    with suppress(OSError, ValueError, KeyError):
        return sum(node["state"] == "ALIVE" for node in nodes_of(cluster))
    return None
