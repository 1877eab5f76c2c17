"""`vaedist evaluate`, `sample`, `reconstruct` and `runs`: what came out of a training."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from vaedist.cli.options import json_option, run_argument
from vaedist.errors import RunError

seed_option = click.option(
    "--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Of the noise."
)
checkpoint_option = click.option(
    "--checkpoint", type=click.Choice(["best", "newest"]), default="best", show_default=True,
    help="Best by test ELBO, or newest.",
)  # fmt: skip
data_option = click.option("--data", metavar="DIR", help="Where the run's data set lies now, if it was moved.")


@contextmanager
def _loaded(run: Path, **options: Any) -> Iterator[Any]:
    """A run, and meanwhile no word from TensorFlow, which would greet the user on stderr."""
    from vaedist.launch.logs import output_to

    with output_to(Path(os.devnull)):
        from vaedist.runs import load_run

        yield load_run(run, **options)


@click.command()
@run_argument
@checkpoint_option
@data_option
@json_option
def evaluate(run: Path, checkpoint: str, data: str | None, as_json: bool) -> None:
    """Score the whole test split with a checkpoint of RUN: ELBO and its parts, in nats an image."""
    with _loaded(run, checkpoint=checkpoint, data=data) as loaded:
        means = loaded.evaluate()
    position = loaded.checkpoint.position
    if as_json:
        record = {
            "run": str(run),
            "checkpoint": str(loaded.checkpoint.path),
            "epoch": position.epoch,
            "step": position.step,
        }
        click.echo(json.dumps(record | means, indent=2))
        return
    rows = {
        "checkpoint": f"step {position.step} ({position.epoch} epochs)",
        "test images": f"{means['rows']:.0f}",
        "ELBO": f"{means['elbo']:.3f} nats",
        "reconstruction": f"{means['reconstruction']:.3f} nats",
        "KL": f"{means['kl']:.3f} nats",
        "active units": f"{means['active_units']} of {loaded.experiment.model.latent}",
    }
    _print_pairs(str(run), rows)


@click.command()
@run_argument
@click.option("-n", "--count", type=click.IntRange(1, 65536), default=64, show_default=True, help="Images.")
@seed_option
@checkpoint_option
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default="samples.png",
    show_default=True,
    help="PNG to write.",
)
@json_option
def sample(run: Path, count: int, seed: int, checkpoint: str, output: Path, as_json: bool) -> None:
    """Draw new images from RUN's model, z ~ N(0, I), into a PNG grid."""
    from vaedist.monitor.pictures import grid, to_uint8

    with _loaded(run, checkpoint=checkpoint) as loaded:
        images = to_uint8(loaded.sample(count, seed=seed))
    _write_picture(output, grid(images, _columns(count)), as_json, images=count, seed=seed)


@click.command()
@run_argument
@click.option("-n", "--count", type=click.IntRange(1, 4096), default=32, show_default=True, help="Test images.")
@seed_option
@checkpoint_option
@data_option
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default="reconstructions.png",
    show_default=True,
    help="PNG to write.",
)
@json_option
def reconstruct(
    run: Path, count: int, seed: int, checkpoint: str, data: str | None, output: Path, as_json: bool
) -> None:
    """Show test images beside RUN's reconstructions of them in a PNG grid."""
    from vaedist.monitor.pictures import side_by_side, to_uint8

    with _loaded(run, checkpoint=checkpoint, data=data) as loaded:
        originals = loaded.probe(count).images
        reconstructions = to_uint8(loaded.reconstruct(originals, seed=seed))
    sheet = side_by_side(originals, reconstructions, max(1, _columns(count) // 2))
    _write_picture(output, sheet, as_json, images=len(originals), seed=seed)


@click.group()
def runs() -> None:
    """List the runs in a folder, or show one."""


@runs.command("list")
@click.argument("folder", metavar="RUNS", type=click.Path(path_type=Path), default="runs")
@json_option
def list_(folder: Path, as_json: bool) -> None:
    """One row a run in the folder RUNS ("runs" if not given), the best test ELBO first."""
    from vaedist.training.summary import list_runs, summarize

    summaries = [summarize(run) for run in list_runs(folder)]
    summaries.sort(key=lambda s: (s.best_elbo is None, -(s.best_elbo or 0), s.name))
    if as_json:
        click.echo(json.dumps([asdict(summary) for summary in summaries], indent=2))
        return
    if not summaries:
        raise RunError(f"no runs in {folder}")
    from rich.table import Table

    table = Table(
        "run",
        "epochs",
        "steps",
        "best ELBO",
        "newest ELBO",
        "flow",
        "latent",
        "hidden",
        "likelihood",
        "rate",
        "batch",
    )
    for s in summaries:
        scores = ("-" if elbo is None else f"{elbo:.2f}" for elbo in (s.best_elbo, s.elbo))
        sizes = (s.depth, s.latent, s.hidden, s.likelihood, f"{s.learning_rate:g}", s.global_batch)
        table.add_row(s.name, f"{s.epoch}/{s.epochs}", str(s.step), *scores, *map(str, sizes))
    _console().print(table)


@runs.command()
@run_argument
@json_option
def show(run: Path, as_json: bool) -> None:
    """Where RUN stands: its scores, its checkpoints, its files and its experiment."""
    from vaedist.training.checkpoint import CheckpointStore
    from vaedist.training.run_folder import RunFolder
    from vaedist.training.summary import summarize

    folder = RunFolder(run)
    summary, experiment = summarize(folder), folder.read_experiment()
    checkpoints = [str(path) for path in CheckpointStore(folder.checkpoints).committed()]
    if as_json:
        record = asdict(summary) | {"checkpoints": checkpoints, "experiment": experiment.model_dump()}
        click.echo(json.dumps(record, indent=2))
        return
    rows = {
        "epochs": f"{summary.epoch} of {summary.epochs}, {summary.step} steps",
        "test ELBO": "none yet" if summary.elbo is None else f"{summary.elbo:.3f} nats, best {summary.best_elbo:.3f}",
        "checkpoints": "\n".join(checkpoints) or "none yet",
        "pictures": "\n".join(map(str, sorted(folder.pictures.glob("*[a-z].png")))) or "none yet",
    }
    _print_pairs(str(run), rows)
    click.echo(experiment.to_toml(), nl=False)


def _columns(count: int) -> int:
    """Columns of a grid that is about square."""
    return max(1, round(count**0.5))


def _write_picture(output: Path, sheet: Any, as_json: bool, **facts: Any) -> None:
    from vaedist.monitor.pictures import save_png

    save_png(output, sheet, scale=2)
    click.echo(json.dumps({"output": str(output)} | facts) if as_json else f"wrote {output}")


def _console() -> Any:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 160)  # a pipe has no width: cut nothing


def _print_pairs(title: str, rows: dict[str, str]) -> None:
    from rich.table import Table

    table = Table(title=title, title_justify="left", show_header=False, box=None)
    for name, value in rows.items():
        table.add_row(name, value)
    _console().print(table)
