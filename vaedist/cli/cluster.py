"""`vaedist cluster`: a Ray cluster of several nodes on this machine, and preemption notices."""

import json
import threading
import time
from datetime import datetime

import click

from vaedist.cli.options import NumberRange, insecure_option, json_option
from vaedist.cli.output import console, print_pairs, status_line
from vaedist.launch.preemption.clouds import CLOUDS, METADATA_URL
from vaedist.wording import counted

name_option = click.option("--name", default="local", show_default=True, metavar="NAME", help="Name of the cluster.")
own_address_option = click.option(
    "--address", metavar="HOST:PORT",
    help="Head of this machine's cluster.  [default: RAY_ADDRESS, or the Ray instance on this machine]",
)  # fmt: skip
node_ip_option = click.option(
    "--node-ip", metavar="IP", help="This machine's address in the Ray cluster.  [default: detected]"
)


@click.group()
def cluster() -> None:
    """Run a local Ray cluster for tests; announce preemptions.

    The nodes of the local cluster are Ray processes. They listen on the loopback interface only and require a token,
    which vaedist's commands find by themselves. The head has no CPUs for jobs, as in the clusters of the folder
    cluster/.

    `drain` and `watch-preemption` work on the machines of any Ray cluster.
    """


@cluster.command()
@click.option("--nodes", type=click.IntRange(2, 64), default=3, show_default=True, help="Nodes, including the head.")
@click.option("--cpus", type=click.IntRange(1, 4096), metavar="N",
              help="CPUs of each node but the head.  [default: an equal share of the machine's]")  # fmt: skip
@name_option
@json_option
def up(nodes: int, cpus: int | None, name: str, as_json: bool) -> None:
    """Start a cluster of a head and worker nodes."""
    from vaedist.launch.local.nodes import up as start

    with status_line() as progress:
        started = start(name, nodes=nodes, cpus=cpus, progress=progress)
    total = sum(node.cpus for node in started.nodes)
    facts = {
        "name": started.name,
        "nodes": len(started.nodes),
        "cpus": total,
        "dashboard": started.dashboard,
        "address": started.address,
        "token": started.token,
    }
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    own = "" if name == "local" else f" --name {name}"
    click.echo(
        f"cluster      {name}: {counted(len(started.nodes), 'node')}, {counted(total, 'CPU')}\n"
        f"dashboard    {started.dashboard}\n"
        f"use it       vaedist submit JOB --address {started.dashboard}\n"
        f"             vaedist train JOB --address {started.address}\n"
        f"for `ray`    export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={started.token}\n"
        f"stop it      vaedist cluster down{own}"
    )


@cluster.command()
@name_option
@json_option
def status(name: str, as_json: bool) -> None:
    """Show the nodes of a cluster and their state.

    The exit code is 1 if a node is dead or has not joined.
    """
    from vaedist.launch.local.cluster import get_cluster, joined

    found = get_cluster(name)
    there = joined(found)
    nodes = [
        {"node": number, "role": node.role, "pid": node.pid, "cpus": node.cpus, "alive": node.alive}
        for number, node in enumerate(found.nodes)
    ]
    well = all(node["alive"] for node in nodes) and there == len(nodes)
    if as_json:
        facts = {"name": name, "dashboard": found.dashboard, "address": found.address, "joined": there, "nodes": nodes}
        click.echo(json.dumps(facts, indent=2))
    else:
        from rich.table import Table

        answer = "does not respond" if there is None else f"{there} of {len(nodes)} nodes have joined"
        print_pairs(name, {"dashboard": found.dashboard, "address": found.address, "Ray": answer})
        table = Table("node", "role", "process", "CPUs", "state")
        for node in nodes:
            state = "alive" if node["alive"] else "[red]dead[/red]"
            table.add_row(*(str(node[key]) for key in ("node", "role", "pid", "cpus")), state)
        console().print(table)
    if not well:
        click.get_current_context().exit(1)


@cluster.command()
@name_option
def down(name: str) -> None:
    """Stop a cluster.

    Only the processes that `up` started, and their descendants, are ended.
    """
    from vaedist.launch.local.cluster import get_cluster
    from vaedist.launch.local.nodes import end

    found = get_cluster(name)
    with status_line() as progress:
        ended = end(found, progress)
    click.echo(f"stopped {name}: {counted(ended, 'process')} ended")


@cluster.command()
@click.option("--seconds", type=NumberRange(0, 86_400), default=30.0, show_default=True, metavar="S",
              help="Seconds until this machine stops.")  # fmt: skip
@click.option("--wait", is_flag=True, help="Wait until no training worker is left on it, or the time is up.")
@own_address_option
@node_ip_option
@insecure_option
def drain(seconds: float, wait: bool, address: str | None, node_ip: str | None) -> None:
    """Announce that this machine is about to stop.

    Runs that use it save a checkpoint, and continue without it when the time is up.
    """
    from vaedist.launch.preemption.drain import OwnNode, wait_for_workers

    deadline = time.time() + seconds
    node = OwnNode(address, node_ip).drain("vaedist cluster drain", deadline)
    click.echo(f"node {node} is draining, for {seconds:g} s")
    if wait:
        wait_for_workers(deadline, notify=click.echo)


@cluster.command("watch-preemption")
@click.option("--cloud", type=click.Choice([*CLOUDS, "auto"]), default="auto", show_default=True,
              help="Cloud of the metadata service; auto takes the one that responds.")  # fmt: skip
@click.option("--url", default=METADATA_URL, show_default=True, help="URL of the metadata service.")
@click.option("--interval", type=NumberRange(0.1, 3600), default=5.0, show_default=True, metavar="S",
              help="Seconds between two requests.")  # fmt: skip
@click.option("--keep-trying", is_flag=True, help="Keep waiting if no metadata service responds.")
@own_address_option
@node_ip_option
@insecure_option
def watch_preemption(
    cloud: str, url: str, interval: float, keep_trying: bool, address: str | None, node_ip: str | None
) -> None:
    """Drain this Ray node when its cloud preempts it.

    Start one process on each node that may be preempted; it runs until it is stopped. If no metadata service responds,
    the command says so and ends with exit code 0.
    """
    from vaedist.launch.preemption.drain import OwnNode
    from vaedist.launch.preemption.watch import Watcher, find_patiently

    def log(text: str) -> None:
        click.echo(f"{datetime.now():%Y-%m-%d %H:%M:%S} {text}")

    stop = threading.Event()
    service = find_patiently(cloud, url, forever=keep_trying, interval=interval, stop=stop)
    if service is None:
        log(f"no metadata service ({cloud}) responds at {url}: preemptions of this machine will not be announced")
        return
    log(f"watching for preemptions of this machine at {url} ({service.name})")
    node = OwnNode(address, node_ip)
    Watcher(
        service, lambda notice: node.drain(notice.reason, notice.deadline), log, interval=interval, check=node.find
    ).run(stop)
