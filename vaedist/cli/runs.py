"""`vaedist sample`, `reconstruct` and `runs`: images and summaries of trained runs."""

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vaedist.cli.loading import loaded
from vaedist.cli.options import (
    LocalPath,
    Location,
    checkpoint_option,
    data_option,
    ema_option,
    json_option,
    pixels_option,
    run_argument,
    seed_option,
    temperature_option,
)
from vaedist.cli.output import console, print_pairs
from vaedist.config import told
from vaedist.errors import RunError
from vaedist.wording import counted

if TYPE_CHECKING:
    from vaedist.runs.summary import Summary, Unreadable

output_option = partial(click.option, "-o", "--output", type=LocalPath(path_type=Path), show_default=True,
                        help="PNG to write.")  # fmt: skip


@click.command()
@run_argument
@click.option("-n", "--count", type=click.IntRange(1, 65536), default=64, show_default=True, help="Number of images.")
@seed_option
@checkpoint_option
@ema_option
@pixels_option
@temperature_option
@output_option(default="samples.png")
@json_option
def sample(
    run: str | Path, count: int, seed: int, checkpoint: str | int, ema: bool | None, pixels: str, temperature: float,
    output: Path, as_json: bool,
) -> None:  # fmt: skip
    """Write a PNG grid of images that RUN's model generates.

    Latents z are drawn from the prior. Each image is the mean E[x|z], or with --pixels sample a sample of p(x|z).
    Values that a likelihood, such as the Gaussian, places outside [0, 1] are clipped; the command prints their share.
    """
    from vaedist.monitor.pictures import grid, to_uint8

    with loaded(run, checkpoint=checkpoint, ema=ema) as opened:
        images = opened.sample(count, seed=seed, pixels=pixels, temperature=temperature)
        clipped = _clipped(opened, images)
    sheet = grid(to_uint8(images), _columns(count))
    _write_picture(output, sheet, as_json, clipped, images=count, seed=seed, pixels=pixels, temperature=temperature)


@click.command()
@run_argument
@click.option("-n", "--count", type=click.IntRange(1, 4096), default=32, show_default=True,
              help="Number of images.")  # fmt: skip
@seed_option
@checkpoint_option
@ema_option
@data_option
@click.option("--layers", is_flag=True,
              help="Show what each stochastic layer adds, by reconstructions from fewer top layers.")  # fmt: skip
@output_option(default="reconstructions.png")
@json_option
def reconstruct(
    run: str | Path,
    count: int,
    seed: int,
    checkpoint: str | int,
    ema: bool | None,
    data: str | None,
    layers: bool,
    output: Path,
    as_json: bool,
) -> None:
    """Write a PNG grid of images beside RUN's reconstructions.

    The images are the first of the validation split, or of the test split if there is none, after the model's
    preprocessing: binarised images, for example, are shown as in every evaluation. A reconstruction is the mean E[x|z]
    for a sample z of q(z|x). The means of a Gaussian likelihood are clipped to [0, 1]; the command prints the share of
    clipped values.

    With --layers, for models of several stochastic layers, each row is an image followed by means E[x|z] in which the
    latents of all layers, of fewer and fewer top layers, and of none come from q(z|x). The others are drawn from the
    prior, given the layers above.
    """
    from vaedist.monitor.pictures import by_rows, side_by_side, to_uint8

    with loaded(run, checkpoint=checkpoint, data=data, ema=ema) as opened:
        images = opened.probe(count).images
        progressive = opened.progressive(images, seed=seed) if layers else None
        means = opened.reconstruct(images, seed=seed) if progressive is None else progressive.images
        originals, clipped = to_uint8(opened.observed(images)), _clipped(opened, means)
    facts: dict[str, Any] = {"images": len(originals), "seed": seed}
    if progressive is None:
        sheet = side_by_side(originals, to_uint8(means), max(1, _columns(count) // 2))
    else:
        sheet = by_rows(originals, to_uint8(means))
        facts |= {"layers": progressive.layers, "kept": progressive.kept}
        if not as_json:
            kept = ", ".join(map(str, progressive.kept))
            click.echo(f"columns: the original, then the top {kept} of {progressive.layers} layers from the image")
    _write_picture(output, sheet, as_json, clipped, **facts)


@click.group()
def runs() -> None:
    """List the runs in a folder, or show one."""


@runs.command("list")
@click.argument("folder", metavar="[RUNS]", type=Location(), default="runs")
@json_option
def list_(folder: str | Path, as_json: bool) -> None:
    """List the runs in a folder, highest ELBO first.

    RUNS is the folder, "runs" by default. The ELBO is that of the validation images, or of the test images if the
    run's data has no validation split. The column "options" shows the model's options that differ from their defaults;
    in JSON, "options" has all of them. For a class of your own that cannot be imported, both show all options.

    Runs that cannot be read are listed with the reason, in JSON as "error"; the exit code is 0 nevertheless.
    """
    from vaedist.runs.summary import Summary, Unreadable, summarize_all

    found = summarize_all(folder)
    broken = [one for one in found if isinstance(one, Unreadable)]
    summaries = [one for one in found if isinstance(one, Summary)]
    summaries.sort(key=lambda s: (s.best_elbo is None, -(s.best_elbo or 0), s.name))
    if as_json:
        click.echo(json.dumps([*map(asdict, summaries), *map(asdict, broken)], indent=2))
        return
    if not found:
        raise RunError(f"no runs in {folder}")
    if summaries:
        _print_summaries(summaries)
    if broken:
        _print_broken(broken, len(found))


def _print_summaries(summaries: "list[Summary]") -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table("run", "epochs", "steps", "split", "best ELBO", "newest ELBO", "rate", "batch", "model", "options")
    for s in summaries:
        scores = ("-" if elbo is None else f"{elbo:.2f}" for elbo in (s.best_elbo, s.elbo))
        options = ", ".join(f"{key} {told(value)}" for key, value in s.changed.items())
        table.add_row(
            escape(s.name), f"{s.epoch}/{s.epochs}", str(s.step), s.split or "-", *scores, f"{s.learning_rate:g}",
            str(s.global_batch), escape(s.model), escape(options or "-"),
        )  # fmt: skip
    console().print(table)


def _print_broken(broken: "list[Unreadable]", count: int) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table("run", "error")
    for one in broken:
        table.add_row(*map(escape, (one.name, one.error)))
    console().print(table)
    click.echo(f"warning: {len(broken)} of {count} runs cannot be read", err=True)


@runs.command()
@run_argument
@json_option
def show(run: str | Path, as_json: bool) -> None:
    """Show a run's scores, checkpoints, files and experiment."""
    from vaedist.runs.checkpoint_store import checkpoints_of
    from vaedist.runs.folder import RunFolder
    from vaedist.runs.summary import summarize

    folder = RunFolder.at(run)
    folder.refresh()
    summary, experiment = summarize(folder), folder.read_experiment(need_classes=False)
    checkpoints, evaluations, pictures = (
        [folder.store.location_of(path) for path in paths]
        for paths in (
            checkpoints_of(folder).committed(),
            folder.files_in(folder.evaluations, "*.json"),
            folder.files_in(folder.pictures, "*[a-z].png"),
        )
    )
    if as_json:
        record = asdict(summary) | {"checkpoints": checkpoints, "experiment": experiment.model_dump()}
        click.echo(json.dumps(record, indent=2))
        return
    rows = {
        "epochs": f"{summary.epoch} of {summary.epochs}, {counted(summary.step, 'step')}",
        f"{summary.split or 'best'} ELBO": "none yet"
        if summary.elbo is None
        else f"{summary.elbo:.3f} nats, best {summary.best_elbo:.3f}",
        "checkpoints": "\n".join(checkpoints) or "none yet",
        "evaluations": "\n".join(evaluations) or "none yet",
        "pictures": "\n".join(pictures) or "none yet",
    }
    print_pairs(str(run), rows)
    click.echo(experiment.to_toml(), nl=False)


def _columns(count: int) -> int:
    """Returns the number of columns of an approximately square grid."""
    return max(1, round(count**0.5))


def _clipped(run: Any, images: Any) -> float | None:
    """Returns the share of pixel values that were clipped to [0, 1]; None if the model does not clip."""
    return float(((images <= 0) | (images >= 1)).mean()) if run.model.clips else None


def _write_picture(output: Path, sheet: Any, as_json: bool, clipped: float | None, **facts: Any) -> None:
    from vaedist.monitor.pictures import save_png

    save_png(output, sheet, scale=2)
    if as_json:
        click.echo(json.dumps({"output": str(output), **facts, "clipped": clipped}))
        return
    if clipped is not None:
        click.echo(f"{clipped:.1%} of the pixel values were outside [0, 1] and were clipped")
    click.echo(f"wrote {output}")
