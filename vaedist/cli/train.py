"""`vaedist train`."""

import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import click

from vaedist.cli.completion import complete_folder
from vaedist.cli.options import (
    address_option,
    changed_code_option,
    changed_precision_option,
    dry_run_option,
    job_argument,
    print_dry_run,
    run_values,
)
from vaedist.cli.output import echo_result, quoted_location, user_stream
from vaedist.config import Experiment
from vaedist.errors import ConfigError, Interrupted
from vaedist.wording import counted


@click.command()
@job_argument
@click.option("--name", metavar="NAME", help="Name of the run.  [default: the job's run.name, or its file's name]")
@click.option(
    "--runs",
    metavar="DIR",
    shell_complete=complete_folder,
    help="Folder that holds the runs, or its URI.  [default: the job's run.folder]",
)
@click.option("--resume", is_flag=True, help="Resume an existing run from its newest checkpoint.")
@changed_code_option
@changed_precision_option
@dry_run_option
@address_option
def train(
    job: Path,
    overrides: tuple[str, ...],
    name: str | None,
    runs: str | None,
    resume: bool,
    changed_code: bool,
    changed_precision: bool,
    dry_run: bool,
    address: str | None,
) -> None:
    """Train the experiment in the file JOB with Ray Train.

    TensorBoard events, pictures, metrics and checkpoints are written to the run's folder. Ctrl-C saves a checkpoint of
    the current step and stops; --resume continues from there.
    """
    experiment = Experiment.from_file(job, overrides, run_values(name, runs))
    if changed_precision and not resume:
        raise ConfigError("--changed-precision requires --resume")
    if dry_run:
        _describe(
            experiment, resume=resume, changed_code=changed_code, changed_precision=changed_precision, address=address
        )
        return

    from rich.console import Console

    from vaedist.monitor.terminal import Terminal

    begin = time.monotonic()
    # A separate stream: what Ray prints on stdout and stderr goes to the run's log.
    with user_stream() as stream, Terminal(Console(file=stream)) as terminal:
        terminal.status("starting")
        from vaedist.launch.authentication import IN_JOB
        from vaedist.launch.training.trainer import train as launch

        try:
            run = launch(
                experiment, resume=resume, changed_code=changed_code, changed_precision=changed_precision,
                address=address, observe=terminal.show,
            )  # fmt: skip
        except Interrupted as stopped:
            if IN_JOB in os.environ:  # `vaedist submit` resumes it, and this command line is not the user's
                raise
            raise Interrupted(f"{stopped}; to resume: {_resume_command()}") from None
    _print_result(run, time.monotonic() - begin, resumed=resume)


def _resume_command() -> str:
    """Returns the command line of this process, with --resume."""
    given = sys.argv[1:]
    return shlex.join(["vaedist", *given, *(() if "--resume" in given else ("--resume",))])


def _describe(experiment: Experiment, **options: Any) -> None:
    from vaedist.cli.loading import quiet

    with quiet():
        from vaedist.launch.training.dry_run import describe_training

        described = describe_training(experiment, **options)
    print_dry_run(described)


def _print_result(run: Any, seconds: float, *, resumed: bool) -> None:
    """Prints the scores and the curve of the scored split, the paths of pictures, and commands to continue with."""
    from vaedist.monitor.metrics import epoch_rows, read_metrics
    from vaedist.monitor.text_plot import text_plot

    rows = epoch_rows(read_metrics(run.metrics))
    last, location = rows[-1], quoted_location(run)
    label = f"{last['kind']} ELBO"
    bits = f", {last['bits_per_dim']:.3f} bits/dim" if "bits_per_dim" in last else ""
    width = max(13, len(label) + 2)
    first, *others = sorted(run.files_in(run.pictures, "*[a-z].png"), key=lambda path: path.stem != "reconstructions")
    pictures = ", ".join([run.store.display(first), *(path.name for path in others)])
    if len(rows) > 1:
        plot = text_plot(
            f"{label}, nats per image", [row["epoch"] for row in rows], [row["elbo"] for row in rows], unit="epoch"
        )
        echo_result("\n".join(["", *plot, ""]))
    echo_result(
        f"{label:<{width}}{last['elbo']:.2f} nats per image (reconstruction {last['reconstruction']:.2f}, "
        f"KL {last['kl']:.2f}){bits}, after {counted(last['epoch'], 'epoch')}, {counted(last['step'], 'step')}; "
        f"{seconds / 60:.1f} minutes {'since it was resumed' if resumed else 'in all'}\n"
        f"{'pictures':<{width}}{pictures}\n"
        f"{'look at it':<{width}}vaedist tensorboard {location}\n"
        f"{'sample':<{width}}vaedist sample {location} -o samples.png\n"
        f"{'evaluate':<{width}}vaedist evaluate {location}"
    )
