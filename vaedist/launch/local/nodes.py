"""Starts and ends Ray clusters of several nodes on this machine.

Every node is a `ray start --block` of its own. Ray's processes listen on the loopback only, and ask for a token.
TensorFlow's servers in a job's workers do neither; `server_port` says who reaches them.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import psutil

from vaedist.errors import ClusterError, StorageError
from vaedist.launch.addresses import LOOPBACK, ONLY_HERE, free_port
from vaedist.launch.authentication import make_token
from vaedist.launch.doctor.preflight import check_socket_paths
from vaedist.launch.local.cluster import MARK, NAME, LocalCluster, LocalNode, birth_of, clusters_folder, joined
from vaedist.launch.training.proxies import bypass_proxies
from vaedist.wording import counted

SCRATCH = "vaedist-"  # the folder's name begins with it
START_SECONDS = 120.0
START_ATTEMPTS = 3
END_ATTEMPTS = 4
END_SECONDS = 10.0  # for processes that are asked to end, before they are killed
POLL_SECONDS = 0.2
ERROR = re.compile(r"[\w.]*(Error|Exception): ")  # a traceback's last line


def up(
    name: str = "local", *, nodes: int = 3, cpus: int | None = None, progress: Callable[[str], None] = lambda _: None
) -> LocalCluster:
    """Starts a cluster: a head without CPUs for workers, and nodes with CPUs.

    Args:
        name: lower-case letters, digits and dashes.
        nodes: the head included.
        cpus: of each node but the head; None divides the machine's. More than the machine has are no faster.
        progress: told what is waited for.

    Returns:
        The cluster, all of whose nodes have joined.

    Raises:
        ClusterError: the name is taken or unfit, TMPDIR is too long, or a node did not start; nothing is left behind
            then.
    """
    if not NAME.fullmatch(name):
        raise ClusterError(f"cluster name {name!r}: must be lower-case letters, digits and dashes, 32 at most")
    if nodes < 2 or (cpus is not None and cpus < 1):
        raise ClusterError(f"nodes = {nodes} must be at least 2, the head and one that works, and CPUs at least 1 each")
    check_socket_paths(tempfile.gettempdir(), f"{SCRATCH}00000000/{nodes - 1}")
    bypass_proxies()
    cpus = cpus or max(1, (os.cpu_count() or 1) // (nodes - 1))
    with _ended_on_failure(_new_cluster(name)) as started:
        for number in range(nodes):
            label = f"starting node {number + 1} of {nodes}" + ("" if number else ", the head")
            _start(started, number, cpus if number else 0, label, progress)
    return started[-1]


def _new_cluster(name: str) -> LocalCluster:
    """Returns a cluster without nodes, after making its folders and its token.

    Raises:
        ClusterError: the name is taken.
        StorageError: the folder of clusters cannot be written.
    """
    folder = clusters_folder() / name
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
    except FileExistsError:
        raise ClusterError(f"there is a cluster {name!r}: `vaedist cluster down --name {name}` ends it") from None
    except OSError as error:
        raise StorageError(f"cannot write {folder}: {error.strerror or error}") from error
    make_token(folder / "token")
    # Short, for the paths of Unix sockets in it; only its owner may look into it.
    scratch = tempfile.mkdtemp(prefix=SCRATCH)
    return LocalCluster(
        name=name,
        mark=Path(scratch).name,
        address=f"{LOOPBACK}:{free_port(6379)}",
        dashboard=f"http://{LOOPBACK}:{free_port(8265)}",
        token=str(folder / "token"),
        scratch=scratch,
    )


@contextmanager
def _ended_on_failure(cluster: LocalCluster) -> Iterator[list[LocalCluster]]:
    """Yields a list of the cluster's successive states, and ends the last one on an error."""
    states = [cluster]
    try:
        yield states
    except BaseException:
        end(states[-1])
        raise


def _start(states: list[LocalCluster], number: int, cpus: int, label: str, progress: Callable[[str], None]) -> None:
    """Appends the cluster with one more node, which has joined; an attempt that fails is ended and repeated.

    Ray gives a node 30 s to start, which are too few on a busy machine, and has no option or variable for more.
    """
    cluster, role = states[-1], "worker" if number else "head"
    for attempt in range(START_ATTEMPTS):
        progress(label + (f", attempt {attempt + 1}" if attempt else ""))
        node = _launch(cluster, role, number, cpus)
        grown = replace(cluster, nodes=(*cluster.nodes, node))
        grown.save()
        states.append(grown)
        try:
            return _wait(grown)
        except ClusterError:
            if attempt == START_ATTEMPTS - 1:
                raise
        _end_newest(grown)
        if role == "head":
            cluster = _at_free_ports(cluster)
    raise AssertionError("the last attempt returns or raises")


def _end_newest(cluster: LocalCluster) -> None:
    """Ends what a failed start of the newest node left: for the head, all processes of the cluster.

    Raises:
        ClusterError: some stay.
    """
    if cluster.nodes[-1].role == "head":
        _end_processes(cluster.processes, cluster.name)
        shutil.rmtree(f"{cluster.scratch}/0", ignore_errors=True)
    else:  # Linux ends its children with it
        _end_processes(lambda: [process] if (process := cluster.nodes[-1].process()) else [], cluster.name)


def _at_free_ports(cluster: LocalCluster) -> LocalCluster:
    """Returns the cluster at the ports that it has, or at others where they are taken."""
    gcs, dashboard = (free_port(int(place.rpartition(":")[2])) for place in (cluster.address, cluster.dashboard))
    return replace(cluster, address=f"{LOOPBACK}:{gcs}", dashboard=f"http://{LOOPBACK}:{dashboard}")


def _launch(cluster: LocalCluster, role: str, number: int, cpus: int) -> LocalNode:
    """Starts the process of a node, in a session of its own so that Ctrl-C in the terminal does not reach it."""
    arguments = [
        f"--num-cpus={cpus}",
        # Of its own: nodes take what a job brings with it out of the folder where they put it, each in its time.
        f"--temp-dir={cluster.scratch}/{number}",
        f"--dashboard-agent-listen-port={free_port()}",
        "--min-worker-port=0",
        "--max-worker-port=0",
        "--disable-usage-stats",
        "--block",
    ]
    if role == "head":
        gcs, dashboard = (place.rpartition(":")[2] for place in (cluster.address, cluster.dashboard))
        arguments += [
            "--head",
            f"--port={gcs}",
            f"--dashboard-host={LOOPBACK}",
            f"--dashboard-port={dashboard}",
            f"--ray-client-server-port={free_port()}",
        ]
    else:
        # The loopback, in letters that Ray does not replace: a node takes the address from which it sees the head.
        arguments += [f"--address=LOCALHOST:{cluster.address.rpartition(':')[2]}"]
    log = cluster.folder / f"node-{number}.log"
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "start", *arguments],
            env=_environment(cluster) | (ONLY_HERE if role == "head" else {}),
            cwd=cluster.scratch,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return LocalNode(role, cpus, process.pid, birth_of(psutil.Process(process.pid)), str(log))


def _environment(cluster: LocalCluster) -> dict[str, str]:
    """Returns a node's environment: without traces of another Ray, with the token's file, this Python first on PATH."""
    other = ("RAY_AUTH_TOKEN", "RAY_JOB_CONFIG_JSON_ENV_VAR", "TF_CONFIG")
    kept = {name: value for name, value in os.environ.items() if name not in other}
    return kept | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": cluster.token,
        MARK: cluster.mark,
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # nobody takes this machine away
        # A process that has to find its cluster would look at all of the machine, or ask what the user's shell names.
        "RAY_API_SERVER_ADDRESS": cluster.dashboard,
        "RAY_ADDRESS": f"LOCALHOST:{cluster.address.rpartition(':')[2]}",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
    }


def _wait(cluster: LocalCluster) -> None:
    """Waits until all nodes have joined."""
    deadline, newest = time.monotonic() + START_SECONDS, cluster.nodes[-1]
    while newest.alive:
        if joined(cluster) == len(cluster.nodes):
            return
        if time.monotonic() > deadline:
            raise ClusterError(f"a {newest.role} did not join within {START_SECONDS:.0f} s: {_last_words(newest)}")
        time.sleep(POLL_SECONDS)
    raise ClusterError(f"a {newest.role} ended at once: {_last_words(newest)}")


def _last_words(node: LocalNode) -> str:
    """Returns the last error that a node printed, else its last line: Ray prints further lines after an error."""
    with suppress(OSError):
        lines = [line.strip() for line in Path(node.log).read_text(errors="replace").splitlines() if line.strip()]
        errors = [line for line in lines if ERROR.match(line)]
        return [*lines, *errors][-1] if lines else "it said nothing"
    return "it said nothing"


def end(cluster: LocalCluster, progress: Callable[[str], None] = lambda _: None) -> int:
    """Ends all processes of a cluster and removes its record; returns how many processes there were.

    Raises:
        ClusterError: some stay, as those of another user would.
    """
    ended = _end_processes(cluster.processes, cluster.name, progress)
    shutil.rmtree(cluster.scratch, ignore_errors=True)
    shutil.rmtree(cluster.folder, ignore_errors=True)
    return ended


def _runs(process: psutil.Process) -> bool:
    """Returns True while a process runs; a zombie does not."""
    with suppress(psutil.Error):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def _end_processes(
    find: Callable[[], list[psutil.Process]], name: str, progress: Callable[[str], None] = lambda _: None
) -> int:
    """Ends the processes that `find` returns, until it returns none; returns how many there were.

    A process that does not end at once may not be found again: it is known by its parent, which has ended, or by its
    environment, which it has overwritten with its title.

    Raises:
        ClusterError: some stay.
    """
    ended: set[int] = set()
    left: list[psutil.Process] = []
    for attempt in range(END_ATTEMPTS):  # one that was just being started is found the next time
        if not (left := list({*left, *find()})):
            break
        ended |= {process.pid for process in left}
        progress(f"ending {counted(len(left), 'process')}")
        for process in left:
            with suppress(psutil.Error):
                process.kill() if attempt else process.terminate()
        psutil.wait_procs(left, timeout=END_SECONDS)
        left = [process for process in left if _runs(process)]
    if left := list({*left, *find()}):
        numbers = ", ".join(str(process.pid) for process in left)
        raise ClusterError(f"cluster {name}: processes {numbers} do not end")
    return len(ended)
