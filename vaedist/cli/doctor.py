"""`vaedist doctor`."""

import json
from dataclasses import asdict

import click

from vaedist.cli.options import insecure_option, json_option
from vaedist.cli.output import console, status_line

COLOURS = {"ok": "green", "warning": "yellow", "fault": "red"}


@click.command()
@click.option(
    "--address", metavar="URL|HOST:PORT",
    help="Dashboard or head of a cluster to look at.  "
    "[default: RAY_ADDRESS, RAY_API_SERVER_ADDRESS, the one local cluster, or none]",
)  # fmt: skip
@click.option(
    "--storage", multiple=True, metavar="DIR|URI",
    help="Where runs or data are kept: each node writes a file there, and removes it; may be repeated.",
)  # fmt: skip
@click.option("--nodes", is_flag=True, hidden=True, help="Only the cluster, for whoever reads the job's log.")
@insecure_option
@json_option
def doctor(address: str | None, storage: tuple[str, ...], nodes: bool, as_json: bool) -> None:
    """Look for what would stop a training: versions, GPUs, storage, space, token, clock, ports, here and on nodes.

    Each finding comes with a remedy. Exit code 1 if one of them would stop a training.
    """
    from vaedist.launch.doctor import examination as launch

    if nodes:
        click.echo(launch.told(launch.examine_cluster(None, storage)))
        return
    with status_line() as progress:
        findings = launch.examine(address, storage, progress)
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        from rich.markup import escape
        from rich.table import Table

        table = Table("", "what", "where", "found", "remedy")
        for each in findings:
            state = f"[{COLOURS[each.state]}]{each.state}[/]"
            table.add_row(state, *map(escape, (each.what, each.where, each.found, each.remedy)))
        console().print(table)
    if any(finding.state == "fault" for finding in findings):
        click.get_current_context().exit(1)
