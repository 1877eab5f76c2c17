"""`vaedist submit` and `vaedist jobs`: trainings and sweeps as jobs on a cluster."""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vaedist.cli.loading import quiet
from vaedist.cli.options import (
    LocalPath,
    changed_code_option,
    changed_precision_option,
    dashboard_option,
    dry_run_option,
    job_argument,
    json_option,
    print_dry_run,
    run_values,
)
from vaedist.cli.output import console, print_pairs, status_line
from vaedist.config import Experiment, Sweep
from vaedist.errors import ConfigError, Interrupted
from vaedist.packages import check_packages, make_importable

if TYPE_CHECKING:
    from vaedist.launch.jobs.client import Jobs
    from vaedist.launch.jobs.job import Job
    from vaedist.launch.jobs.submission import Submission

PACKAGES = ("image", "pip")

job_name_argument = click.argument("name", metavar="JOB")


@click.command()
@job_argument
@click.option("--tune", "is_sweep", is_flag=True, help="JOB is a sweep: run it as `vaedist tune` does.")
@click.option("--name", metavar="NAME", help="Name of the run or sweep.  [default: the job's run.name, or its file's]")
@click.option("--runs", metavar="DIR", help="Folder or URI that holds the runs.  [default: the job's run.folder]")
@click.option("--resume", is_flag=True, help="Resume the run or sweep if it exists.")
@click.option("--retry-errored", is_flag=True, help="With --tune --resume: retry failed trials.")
@changed_code_option
@changed_precision_option
@click.option(
    "--env", "environment", multiple=True, metavar="image|pip|NAME=VALUE",
    help="image: use the packages of the cluster's image, the default; pip: install the versions of this machine; "
    "NAME=VALUE: set a variable, which must not be secret. May be repeated.",
)  # fmt: skip
@click.option(
    "--env-from-node", "from_node", multiple=True, metavar="NAME",
    help="Variable, such as an access key, to take from the nodes' environment. May be repeated.",
)  # fmt: skip
@click.option(
    "--package", "packages", multiple=True, metavar="DIR", type=LocalPath(path_type=Path),
    help="Package of your own that the job imports: the folder with its __init__.py, such as ./conv_vae for "
    "conv_vae.model:ConvVAE. May be repeated.",
)  # fmt: skip
@click.option("--extra", "extras", multiple=True, metavar="NAME", help="With --env pip: extra to install, such as gpu.")
@click.option("--no-wait", is_flag=True, help="Print the job's id and do not follow it.")
@dry_run_option
@dashboard_option
def submit(
    job: Path,
    overrides: tuple[str, ...],
    is_sweep: bool,
    name: str | None,
    runs: str | None,
    resume: bool,
    retry_errored: bool,
    changed_code: bool,
    changed_precision: bool,
    environment: tuple[str, ...],
    from_node: tuple[str, ...],
    packages: tuple[Path, ...],
    extras: tuple[str, ...],
    no_wait: bool,
    dry_run: bool,
    address: str | None,
) -> None:
    """Train the experiment JOB on a cluster, as a Ray job.

    JOB is a file. The code of vaedist and of each --package is sent with it. data.path and run.folder are locations on
    the cluster: absolute paths that all nodes share, or URIs.

    The job's log is followed until the job ends; Ctrl-C stops following, not the job. The exit code is 0 if the job
    succeeds, 1 if it fails, 130 if it is stopped, and 2 if the cluster is lost, see `vaedist jobs wait --help`.
    """
    values = run_values(name, runs)
    installed, variables = _environment(environment)
    if extras and installed != "pip":
        raise ConfigError("--extra requires --env pip")
    if retry_errored and not (is_sweep and resume):
        raise ConfigError("--retry-errored requires --tune --resume")
    if changed_precision and (is_sweep or not resume):
        raise ConfigError("--changed-precision requires --resume, and cannot be used with --tune")
    own = _importable(packages)
    read: Experiment | Sweep = (Sweep if is_sweep else Experiment).from_file(job, overrides, values)

    from vaedist.launch.jobs import submission as launch

    if isinstance(read, Sweep):
        arguments = launch.sweep_arguments(
            read, overrides, resume=resume, retry_failed=retry_errored, changed_code=changed_code
        )
    else:
        arguments = launch.training_arguments(
            resume=resume, changed_code=changed_code, changed_precision=changed_precision
        )
    submission = launch.Submission(read, arguments, job, installed, extras, variables, from_node, own)
    if dry_run:
        _describe(submission, address)
        return
    cluster = _jobs(address)
    identity = cluster.submit(submission, progress=_say)
    if no_wait:
        click.echo(identity)
        return
    _say(f"submitted {identity}")
    _follow(cluster, identity)


def _describe(submission: "Submission", address: str | None) -> None:
    with quiet():
        from vaedist.launch.jobs.dry_run import describe_submission

        described = describe_submission(submission, address)
    print_dry_run(described)


def _importable(folders: Sequence[Path]) -> list[Path]:
    """Checks the packages of --package and makes them importable in this process, which reads the job."""
    if not folders:
        return []
    from vaedist.launch.ray_internals import upload_limit

    packages = check_packages(folders, upload_limit())
    make_importable(packages)
    return packages


def _environment(given: Iterable[str]) -> tuple[str, dict[str, str]]:
    """Returns the source of packages and the variables that --env specifies."""
    packages, variables = [], {}
    for each in given:
        name, equals, value = each.partition("=")
        if equals:
            variables[name] = value
        elif each in PACKAGES:
            packages.append(each)
        else:
            raise ConfigError(f"--env {each}: must be image, pip or NAME=VALUE")
    if len(set(packages)) > 1:
        raise ConfigError("--env: image and pip exclude each other")
    return (packages or ["image"])[0], variables


@click.group()
def jobs() -> None:
    """List, show, follow and stop jobs on a cluster.

    JOB is a job's id, or the name of a run, which stands for its unfinished job, or for its newest job if all have
    ended. If several jobs of the run are unfinished, the command lists their ids and does nothing else.
    """


@jobs.command("list")
@click.option("--all", "every", is_flag=True, help="Also list jobs that vaedist did not submit.")
@dashboard_option
@json_option
def list_(every: bool, address: str | None, as_json: bool) -> None:
    """List jobs, newest first by the cluster's clock."""
    found = _jobs(address).list(every=every)
    if as_json:
        click.echo(json.dumps([_record(job) for job in found], indent=2))
        return
    if not found:
        click.echo("no jobs")
        return
    from rich.markup import escape
    from rich.table import Table

    table = Table("job", "status", "run", "user", "started", "duration")
    for job in found:
        user = job.metadata.get("user", "")
        table.add_row(*map(escape, (job.id, job.status, job.run, user, _time(job.started), _duration(job))))
    console().print(table)


@jobs.command()
@job_name_argument
@dashboard_option
@json_option
def status(name: str, address: str | None, as_json: bool) -> None:
    """Show one job."""
    cluster = _jobs(address)
    job = cluster.get(name)
    if as_json:
        click.echo(json.dumps(_record(job), indent=2))
        return
    rows = {"status": job.status, "started": _time(job.started), "duration": _duration(job), "command": job.entrypoint}
    if job.status == "FAILED":
        rows["reason"] = cluster.reason(job)
    print_pairs(job.id, rows | dict(job.metadata))


@jobs.command()
@job_name_argument
@click.option("-f", "--follow", is_flag=True, help="Follow until the job has ended; exit codes as for submit.")
@dashboard_option
def logs(name: str, follow: bool, address: str | None) -> None:
    """Print a job's log.

    If the cluster is lost, --follow ends as `vaedist jobs wait` does.
    """
    cluster = _jobs(address)
    job = cluster.get(name)
    if follow:
        _follow(cluster, job.id)
    else:
        click.echo(cluster.log(job.id), nl=False)


@jobs.command()
@job_name_argument
@click.option("--no-wait", is_flag=True, help="Do not wait until it has stopped.")
@dashboard_option
def stop(name: str, no_wait: bool, address: str | None) -> None:
    """Stop a job once it has saved its current step.

    `vaedist submit --resume` resumes it.
    """
    cluster = _jobs(address)
    job = cluster.get(name)
    if job.has_ended or not cluster.stop(job.id):
        click.echo(f"{job.id} has already ended: {cluster.get(job.id).status}")
        return
    if no_wait:
        click.echo(f"{job.id} is stopping")
        return
    with status_line() as progress:
        progress(f"{job.id} is stopping")
        job = _until_ended(lambda: cluster.wait(job.id, _say), job.id)
    click.echo(f"{job.id} {job.status}")


@jobs.command()
@job_name_argument
@dashboard_option
def wait(name: str, address: str | None) -> None:
    """Wait until a job has ended; exit codes as for submit.

    The exit code is 2 if the cluster is lost: after one minute in which nothing listens at its address, or the server
    there does not know the job; or after ten minutes without any response, for example when the network is cut.
    """
    cluster = _jobs(address)
    job = cluster.get(name)
    _conclude(cluster, _until_ended(lambda: cluster.wait(job.id, _say), job.id))


def _jobs(address: str | None) -> "Jobs":
    from vaedist.launch.jobs.client import Jobs

    return Jobs(address)


def _say(text: str) -> None:
    click.echo(text, err=True)


def _follow(cluster: "Jobs", identity: str) -> None:
    """Prints a job's log until the job has ended, and ends the command with its outcome."""
    _conclude(cluster, _until_ended(lambda: cluster.follow(identity, _echo, _say), identity))


def _echo(text: str) -> None:
    click.echo(text, nl=False)


def _until_ended(wait: Callable[[], "Job"], identity: str) -> "Job":
    """Returns the result of `wait`; Ctrl-C stops waiting, not the job."""
    try:
        return wait()
    except KeyboardInterrupt:
        raise Interrupted(
            f"no longer following; the job keeps running: `vaedist jobs logs -f {identity}` follows it, "
            f"`vaedist jobs stop {identity}` stops it"
        ) from None


def _conclude(cluster: "Jobs", job: "Job") -> None:
    cluster.check_succeeded(job)
    click.echo(f"job {job.id} succeeded", err=True)


def _record(job: "Job") -> dict[str, Any]:
    return {**asdict(job), "run": job.run}


def _time(seconds: float | None) -> str:
    return "-" if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _duration(job: "Job") -> str:
    if job.started is None:
        return "-"
    seconds = max(0, int((job.ended or time.time()) - job.started))  # by the cluster's clock, which may be ahead
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
