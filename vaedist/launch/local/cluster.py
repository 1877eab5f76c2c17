"""Records of the Ray clusters of several nodes on this machine, their processes and their state.

What was started is written down, by process number and time of birth, so that any other process can end it, and ends
nothing else. A birth is counted from the machine's start, as a date would change with the clock.
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
STATE = "VAEDIST_STATE"  # where to write down which clusters there are
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # on Linux: another one after each start of the machine
MARK = "VAEDIST_CLUSTER"  # in the environment of all processes of a cluster


@dataclass(frozen=True)
class LocalNode:
    """A node of a local cluster, and the process that was started for it.

    Attributes:
        role: "head" or "worker".
        cpus: that Ray may give away on it.
        pid: process number.
        born: when the process was started, as `birth_of` tells it: numbers are used again.
        log: what the process prints.
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
    """Returns an identity of a process that no other process of the same number has, even if the clock is set.

    Linux knows when a process was started in ticks since the machine was; psutil makes a date of it, which moves when
    the clock is set. Elsewhere the date is what the system keeps.

    Raises:
        psutil.Error: there is no such process.
    """
    started = psutil.boot_time()  # first: some versions of psutil take the date of a process from the last look
    born = process.create_time()
    if not BOOT_ID.exists():
        return f"{born:.2f}"
    return f"{BOOT_ID.read_text(encoding='ascii').strip()} {born - started:.2f}"


@dataclass(frozen=True)
class LocalCluster:
    """A cluster on this machine.

    Attributes:
        name: by which it is found.
        mark: a word of its own, in the environment of its processes.
        address: HOST:PORT that drivers and nodes join at.
        dashboard: URL of the dashboard and the Jobs API.
        token: file of the token.
        scratch: Ray's files.
        nodes: the head first.
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
        """The folder of its record."""
        return clusters_folder() / self.name

    def save(self) -> None:
        """Writes its record."""
        replace_file(self.folder / "cluster.json", json.dumps(asdict(self), indent=1))

    def processes(self) -> list[psutil.Process]:
        """Returns all its processes: those that were started, their descendants, and those that lost their parent."""
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
    """Returns the clusters that were started and not ended."""
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
        ClusterError: there is none of that name.
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
    """Returns the local cluster at HOST:PORT or at a dashboard's URL, None if vaedist started none there."""
    if host_of(address) not in (LOOPBACK, "localhost"):
        return None
    port = address.rstrip("/").rpartition(":")[2]
    for cluster in local_clusters():
        if port in (cluster.address.rpartition(":")[2], cluster.dashboard.rpartition(":")[2]):
            return cluster
    return None


def nodes_of(cluster: LocalCluster) -> list[dict[str, Any]]:
    """Returns the nodes as the cluster's dashboard lists them: state, resources_total, is_head_node, and more.

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
    """Returns how many live nodes the head counts, None if it does not answer."""
    with suppress(OSError, ValueError, KeyError):
        return sum(node["state"] == "ALIVE" for node in nodes_of(cluster))
    return None
