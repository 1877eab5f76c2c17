"""`vaedist tune`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vaedist.cli.options import LocalPath, Location, address_option, changed_code_option, run_values, set_option
from vaedist.cli.output import console, echo_result, print_pairs, quoted_location, user_stream
from vaedist.config import Sweep, told
from vaedist.errors import ConfigError, StorageError
from vaedist.wording import counted

if TYPE_CHECKING:
    from vaedist.launch.tuning.sweep import Plan
    from vaedist.sweeps import SweepFolder

SHOWN = 200  # trials of a grid that a dry run prints


class JobOrCommand(click.Group):
    """A command group whose first argument may be a job file instead of a command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Inserts the command "run" before a job file or an option."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group(cls=JobOrCommand, subcommand_metavar="JOB [OPTIONS] | COMMAND [ARGS]...")
def tune() -> None:
    """Run the sweep in the file JOB with Ray Tune, or inspect one.

    A sweep is a job with a [tune] section, which names the keys to vary. Every trial is a run in the sweep's folder.
    `vaedist tune run --help` lists the options.
    """


@tune.command()
@click.argument("job", type=LocalPath(path_type=Path), required=False)
@set_option
@click.option("--name", metavar="NAME", help="Name of the sweep.  [default: the job's run.name, or its file's name]")
@click.option("--runs", metavar="DIR", help="Folder that holds the sweep's folder.  [default: the job's run.folder]")
@click.option("--resume", metavar="DIR", type=Location(), help="Resume the sweep in this folder.")
@click.option("--retry-errored", is_flag=True, help="With --resume: retry failed trials.")
@changed_code_option
@click.option("--dry-run", is_flag=True, help="Print the trials and the resources of each; start none.")
@address_option
def run(
    job: Path | None,
    overrides: tuple[str, ...],
    name: str | None,
    runs: str | None,
    resume: str | Path | None,
    retry_errored: bool,
    changed_code: bool,
    dry_run: bool,
    address: str | None,
) -> None:
    """Run the sweep in the file JOB; short: `vaedist tune JOB`.

    Ctrl-C stops all trials. --resume DIR resumes the sweep: ended trials are kept, and the others continue from their
    checkpoints. With --set, a resumed sweep may have larger values of tune.samples, tune.minutes, tune.retries and
    tune.concurrent.
    """
    sweep = _sweep(job, overrides, name, runs, resume)
    if retry_errored and resume is None:
        raise ConfigError("--retry-errored requires --resume DIR")
    if dry_run:
        from vaedist.launch.tuning.sweep import plan

        _print_plan(sweep, plan(sweep, address=address))
        return

    from rich.console import Console

    from vaedist.monitor.sweep_terminal import SweepTerminal

    # A separate stream: what Ray prints on stdout and stderr goes to the sweep's log.
    with user_stream() as stream, SweepTerminal(Console(file=stream)) as terminal:
        from vaedist.launch.tuning.sweep import tune as launch

        folder = launch(
            sweep,
            resume=resume is not None,
            retry_failed=retry_errored,
            changed_code=changed_code,
            address=address,
            observe=terminal.show,
        )
    folder.refresh()
    _print_result(folder)


@tune.command()
@click.argument("sweep", type=Location())
def report(sweep: str | Path) -> None:
    """Write report.md, plots and tables into a sweep's folder."""
    click.echo(f"wrote {_report(_opened(sweep))}")


@tune.command()
@click.argument("sweep", type=Location())
@click.option(
    "-o",
    "--out",
    type=LocalPath(path_type=Path),
    required=True,
    help="Job file to write; it must not exist yet.",
)
def best(sweep: str | Path, out: Path) -> None:
    """Write the best trial's job, for `vaedist train`."""
    from vaedist.sweeps.report import best_job, best_trial

    folder = _opened(sweep)
    text, trial = best_job(folder, str(out)), best_trial(folder)
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise StorageError(f"{out} already exists, and is not overwritten") from None
    except OSError as error:
        raise StorageError(f"cannot write {out}: {error.strerror or error}") from error
    click.echo(f"wrote {out}: trial {trial.name}")


def _sweep(
    job: Path | None, overrides: tuple[str, ...], name: str | None, runs: str | None, resume: str | Path | None
) -> Sweep:
    """Returns the sweep of a job file, or of the folder that is resumed."""
    if (job is None) == (resume is None):
        raise ConfigError("specify either a job file or --resume DIR; see vaedist tune run --help")
    if job is not None:
        return Sweep.from_file(job, overrides, run_values(name, runs))
    if name or runs:
        raise ConfigError("--name and --runs cannot be used with --resume DIR, which names the sweep")
    assert resume is not None
    folder = _opened(resume)
    folder.read_sweep()  # raises the error of a folder that holds no sweep
    # The location is not taken from the file: the folder may have been moved.
    return Sweep.from_file(folder.sweep, overrides, run_values(folder.name, folder.store.parent))


def _opened(location: str | Path) -> "SweepFolder":
    """Returns a sweep's folder, up to date."""
    from vaedist.sweeps import SweepFolder

    folder = SweepFolder.at(location).absolute()
    folder.refresh()
    return folder


def _report(folder: "SweepFolder") -> str:
    """Writes a sweep's report; returns its location."""
    from vaedist.sweeps.report import write_report

    return folder.store.display(write_report(folder))


def _print_plan(sweep: Sweep, planned: "Plan") -> None:
    from rich.table import Table

    resources = ", ".join(f"{amount:g} {kind}" for kind, amount in planned.resources.items())
    trials = f"{counted(planned.trials, 'trial')} of {counted(sweep.training.epochs, 'epoch')}"
    rows = {
        "search": f"{sweep.tune.search}, {trials}",
        "scheduler": sweep.tune.scheduler,
        "metric": f"{sweep.tune.metric}, {sweep.tune.mode}",
        "each trial": f"{counted(planned.workers, 'worker')} of {resources}",
        "cluster": planned.cluster,
        "at once": str(planned.at_once),
    }
    print_pairs(sweep.run.name, rows)
    table = Table("trial", *sweep.tune.space)
    if sweep.tune.search == "optuna":
        click.echo("Optuna chooses the trials, from the results of earlier ones")
        return
    for number in range(min(planned.trials, SHOWN)):
        table.add_row(f"{number:04d}", *(told(value) for value in sweep.drawn(number).values()))
    console().print(table)
    if planned.trials > SHOWN:
        click.echo(f"and {planned.trials - SHOWN} more")


def _print_result(folder: Any) -> None:
    from vaedist.monitor.sweep_terminal import describe
    from vaedist.sweeps.report import best_trial

    sweep, trials, path = folder.read_sweep(), folder.read_trials(), quoted_location(folder)
    states = [trial.state for trial in trials]
    counts = ", ".join(f"{states.count(s)} {s}" for s in ("finished", "stopped", "failed", "open") if s in states)
    lines = [f"trials       {counts}"]
    if any(trial.epochs for trial in trials):
        best = best_trial(folder)
        score = best.best(sweep.tune.metric, sweep.tune.mode)
        lines.append(f"best         {best.name}: {best.split} {sweep.tune.metric} {score:.2f}, {describe(best.params)}")
        lines.append(f"report       {_report(folder)}")
        lines.append(f"its job      vaedist tune best {path} -o best.toml")
    lines.append(f"look at it   vaedist tensorboard {path}")
    echo_result("\n".join(lines))
