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
    help="Dashboard or head of the cluster to examine.  "
    "[default: RAY_ADDRESS, RAY_API_SERVER_ADDRESS, the one local cluster, or none]",
)  # fmt: skip
@click.option(
    "--storage", multiple=True, metavar="DIR|URI",
    help="Folder of runs or data, in which each node writes and removes a test file. May be repeated.",
)  # fmt: skip
@click.option("--nodes", is_flag=True, hidden=True, help="Examine only the cluster; for use inside a job.")
@insecure_option
@json_option
def doctor(address: str | None, storage: tuple[str, ...], nodes: bool, as_json: bool) -> None:
    """Find problems that would prevent training.

    Checks versions, GPUs, storage, disk space, the token, the clock and ports, on this machine and on the nodes of a
    cluster. Each finding comes with a remedy. The exit code is 1 if a fault would prevent training.
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
