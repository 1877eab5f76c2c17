"""Examination of a machine and a cluster for training with vaedist; each finding has a remedy."""

import json
import os
import stat
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from vaedist.errors import ClusterError
from vaedist.launch.authentication import has_token, is_loopback, token_path
from vaedist.launch.doctor.probe import PACKAGES, probe, remove_mark, tensorflow_gpus, write_mark
from vaedist.launch.jobs.address import known_address
from vaedist.launch.jobs.client import Jobs, entrypoint
from vaedist.launch.training.proxies import bypass_proxies
from vaedist.storage.filesystem import first_line
from vaedist.wording import counted

State = Literal["ok", "warning", "fault"]

FREE_BYTES = 5 * 2**30  # free space below which a disk gets a warning
CLOCK_SECONDS = 2.0
PROBE_SECONDS = 120.0
RESULT = "vaedist-doctor "  # prefix of the JSON in a job's log


@dataclass(frozen=True)
class Finding:
    """Result of one check.

    Attributes:
        what: subject of the check.
        where: "here", or a node.
        state: a "fault" stops training, a "warning" may.
        found: the result in words.
        remedy: a remedy, unless the state is "ok".
    """

    what: str
    where: str
    state: State
    found: str
    remedy: str = ""


def examine(
    address: str | None = None,
    storage: Sequence[str] = (),
    progress: Callable[[str], None] = lambda _: None,
) -> list[Finding]:
    """Examines this machine, and the cluster at an address.

    Args:
        address: HOST:PORT of a cluster to join, or the URL of its dashboard. None uses RAY_ADDRESS, else
            RAY_API_SERVER_ADDRESS, else the only local cluster, else examines just this machine.
        storage: folders or URIs for runs and data; each node writes a file there and removes it.
        progress: called with a description of each step.

    Raises:
        ClusterError: the cluster cannot be reached.
    """
    address = address or os.environ.get("RAY_ADDRESS") or known_address()
    here = probe(storage if address is None else ())
    findings = [*_of_machine(here, "here"), *_of_token(address)]
    own = findings[0].found
    if address is None:
        return findings
    progress(f"examining {address}")
    cluster = _by_job(address, storage, progress) if "://" in address else examine_cluster(address, storage)
    others = {f.found: f.where for f in cluster if f.what == "packages" and f.state == "ok" and f.found != own}
    for found, where in others.items():
        remedy = "install the cluster's versions here, or submit --env pip"
        findings.append(Finding("versions", "here", "warning", f"other than on {where}: {found}", remedy))
    return findings + cluster


def examine_cluster(address: str | None, storage: Sequence[str]) -> list[Finding]:
    """Examines every node of a cluster that this process joins."""
    import ray

    from vaedist.launch.logs import output_to
    from vaedist.launch.session import ray_session

    with output_to(Path(os.devnull)), ray_session(address):
        nodes = [node for node in ray.nodes() if node["Alive"]]
        sent, begin = time.time(), time.monotonic()
        marks = {uri: write_mark(uri) for uri in storage}
        probes = [_on_node(node["NodeID"], probe, storage, marks) for node in nodes]
        findings, heard = [], {}
        for number, (node, task) in enumerate(zip(nodes, probes, strict=True)):
            name = f"node {number} ({node['NodeManagerHostname']})"
            try:
                facts = heard[name] = ray.get(task, timeout=PROBE_SECONDS)
            except (ray.exceptions.RayError, ray.exceptions.GetTimeoutError) as error:
                findings.append(Finding("node", name, "fault", first_line(error), "see the node's logs; restart it"))
                continue
            findings += _of_node(node, facts, name, sent, time.monotonic() - begin)
        for uri, mark in marks.items():
            remove_mark(uri, mark)
        return [_of_cluster(nodes), *findings, *_of_versions(heard)]


def _on_node(node: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Starts a function on a node as a Ray task that reserves nothing."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(function).options(num_cpus=0, scheduling_strategy=there).remote(*arguments)


def _of_cluster(nodes: Sequence[Mapping[str, Any]]) -> Finding:
    """Reports the resources of the nodes."""
    total = {kind: sum(node["Resources"].get(kind, 0) for node in nodes) for kind in ("CPU", "GPU")}
    found = f"{counted(len(nodes), 'node')}, {total['CPU']:g} CPU, {total['GPU']:g} GPU"
    if any(node["Resources"].get("CPU", 0) >= 1 for node in nodes):
        return Finding("cluster", "cluster", "ok", found)
    remedy = "no node has a CPU for workers: start nodes that have, or set scaling.autoscaling"
    return Finding("cluster", "cluster", "fault", found, remedy)


def _of_node(
    node: Mapping[str, Any], facts: Mapping[str, Any], name: str, sent: float, took: float
) -> Iterable[Finding]:
    """Reports on a node by the facts that it answered `took` seconds after the question was sent."""
    yield from _of_machine(facts, name)
    yield from _of_pip(facts, name)
    yield from _of_clock(facts, name, sent, took)
    known = node["Resources"].get("GPU", 0)
    yield from _of_gpus(facts, name, known)
    if known:
        yield _of_tensorflow(node["NodeID"], name, known)
    yield from _of_ports(facts, name)


def _of_machine(facts: Mapping[str, Any], where: str) -> Iterable[Finding]:
    missing = [name for name, version in facts["packages"].items() if version is None]
    versions = ", ".join(f"{name} {version}" for name, version in facts["packages"].items() if version)
    found = f"vaedist {facts['vaedist']}, Python {facts['python']}, {versions}"
    if missing:
        yield Finding("packages", where, "fault", f"no {', '.join(missing)}", "install vaedist, or submit --env pip")
    else:
        yield Finding("packages", where, "ok", found)
    yield _of_space(facts["temporary"], where, facts["free"], "set TMPDIR to another disk, or remove old files")
    yield _of_filter(facts, where)
    for uri, result in facts["storage"].items():
        if result["error"] is not None:
            remedy = "check the path, its owner and the keys in the nodes' environment"
            yield Finding("storage", where, "fault", f"{uri}: {result['error']}", remedy)
        elif result["seen"] is False:
            remedy = "mount the same file system on all nodes, or use a store such as s3://"
            yield Finding("storage", where, "fault", f"{uri}: not shared, files of other nodes are missing", remedy)
        else:
            yield Finding("storage", where, "ok", f"{uri}: wrote, read and removed a file")
            if result["free"] is not None:
                yield _of_space(uri, where, result["free"], "remove old runs, or keep fewer checkpoints")


def _of_space(place: str, where: str, free: int, remedy: str) -> Finding:
    found = f"{place}: {free / 2**30:.0f} GiB free"
    enough = free >= FREE_BYTES
    return Finding("space", where, "ok" if enough else "warning", found, "" if enough else remedy)


def _of_pip(facts: Mapping[str, Any], where: str) -> Iterable[Finding]:
    if not facts["pip"]:
        remedy = "install pip there; submit --env pip needs it"
        yield Finding("pip", where, "warning", "Ray's Python has no pip", remedy)


def _of_filter(facts: Mapping[str, Any], where: str) -> Finding:
    """Reports if the ports of a run of several workers are open to other machines."""
    if facts["filter"] is None:
        return Finding("TensorFlow's ports", where, "ok", "accept connections only from the machines of a run")
    remedy = "restrict scaling.ports to the machines of a run by a firewall, or train with one worker, which opens none"
    found = f"open to everybody, without authentication, in runs of several workers: {facts['filter']}"
    return Finding("TensorFlow's ports", where, "warning", found, remedy)


def _of_ports(facts: Mapping[str, Any], where: str) -> Iterable[Finding]:
    """Reports if Ray's ports are open to other machines."""
    count = facts["open"]
    if count is None:
        return
    if not count:
        yield Finding("Ray's ports", where, "ok", "only on the loopback interface")
    elif facts["token"]:
        yield Finding("Ray's ports", where, "ok", f"{count} are open to other machines, and require a token")
    else:
        remedy = "anybody who reaches them can run code there: start Ray with RAY_AUTH_MODE=token"
        yield Finding("Ray's ports", where, "warning", f"{count} are open to other machines, without a token", remedy)


def _of_clock(facts: Mapping[str, Any], where: str, sent: float, took: float) -> Iterable[Finding]:
    """Reports a clock whose time is outside the interval between question and answer."""
    wrong = max(sent - facts["time"], facts["time"] - sent - took, 0.0)
    if wrong > CLOCK_SECONDS:
        remedy = "run NTP or chrony: logs, curves and the keys of object stores depend on the clock"
        yield Finding("clock", where, "warning", f"differs from the head's by {wrong:.1f} s", remedy)
    else:
        yield Finding("clock", where, "ok", "agrees with the head's")


def _of_gpus(facts: Mapping[str, Any], where: str, known: float) -> Iterable[Finding]:
    seen = facts["gpus"]
    if known and not seen:
        remedy = "install NVIDIA's driver, or for a container NVIDIA's container toolkit"
        yield Finding("GPUs", where, "fault", f"Ray counts {known:g}, and nvidia-smi shows none", remedy)
    elif seen and seen != known:
        remedy = "start Ray on the node with --num-gpus, to use them for training"
        yield Finding("GPUs", where, "warning", f"nvidia-smi shows {seen}, and Ray counts {known:g}", remedy)
    else:
        yield Finding("GPUs", where, "ok", f"{seen or 0}")


def _of_tensorflow(node: str, where: str, known: float) -> Finding:
    """Reports if TensorFlow on a node sees the GPUs that Ray counts there."""
    import ray

    try:
        seen = ray.get(_on_node(node, tensorflow_gpus), timeout=PROBE_SECONDS)
    except (ray.exceptions.RayError, ray.exceptions.GetTimeoutError) as error:
        return Finding("TensorFlow", where, "fault", first_line(error), "see the node's logs; restart it")
    if seen["gpus"] < known:
        found = f"Ray counts {known:g} GPU, and TensorFlow sees {seen['gpus']}: {seen['why']}"
        return Finding("TensorFlow", where, "fault", found, "fix it, or start Ray with the --num-gpus that work")
    return Finding("TensorFlow", where, "ok", f"sees {seen['gpus']} GPU")


def _of_versions(heard: Mapping[str, Mapping[str, Any]]) -> Iterable[Finding]:
    """Reports versions that differ among the nodes."""
    for what in ("python", "vaedist", *PACKAGES):
        found: dict[str, list[str]] = {}
        for name, facts in heard.items():
            version = facts["packages"].get(what) if what in PACKAGES else facts[what]
            found.setdefault(str(version), []).append(name)
        if len(found) > 1:
            told = "; ".join(f"{version} on {', '.join(names)}" for version, names in found.items())
            yield Finding("versions", "cluster", "fault", f"{what}: {told}", "use one image for all nodes")


def _of_token(address: str | None) -> Iterable[Finding]:
    path = token_path()
    if path is not None and stat.S_IMODE(path.stat().st_mode) & 0o077:
        yield Finding("token", "here", "warning", f"others may read {path}", f"chmod 600 {path}")
    elif has_token():
        yield Finding("token", "here", "ok", str(path or "in RAY_AUTH_TOKEN"))
    if address is None:
        return
    if address.startswith("http"):
        asks = _asks_for_token(address)
        if asks is False:
            remedy = "anybody who reaches it can run code there: start Ray with RAY_AUTH_MODE=token"
            yield Finding("token", "cluster", "warning", f"{address} answers without a token", remedy)
        elif asks:
            yield Finding("token", "cluster", "ok", f"{address} requires a token")
    if address.startswith("http://") and not is_loopback(address):
        remedy = "use https, or a tunnel: ssh -N -L 8265:127.0.0.1:8265 HEAD"
        yield Finding("token", "cluster", "warning", f"goes to {address} unencrypted", remedy)


def _asks_for_token(url: str) -> bool | None:
    import requests

    bypass_proxies()
    try:
        return requests.get(f"{url.rstrip('/')}/api/jobs/", timeout=10).status_code in (401, 403)
    except requests.RequestException:
        return None


def _by_job(url: str, storage: Sequence[str], progress: Callable[[str], None]) -> list[Finding]:
    """Examines a cluster of which only the dashboard is reachable, by a job on it."""
    cluster = Jobs(url)
    options = [part for uri in storage for part in ("--storage", uri)]
    identity = cluster.run(entrypoint(["doctor", "--nodes", *options]), name="doctor", metadata={}, progress=progress)
    job = cluster.wait(identity)
    for line in reversed(cluster.log(identity).splitlines()):
        if line.startswith(RESULT):
            return [Finding(**each) for each in json.loads(line.removeprefix(RESULT))]
    raise ClusterError(f"job {identity} at {url} returned no findings: {cluster.reason(job)}")


def told(findings: Iterable[Finding]) -> str:
    """Returns the line of a job's log that contains its findings."""
    return RESULT + json.dumps([asdict(finding) for finding in findings])
