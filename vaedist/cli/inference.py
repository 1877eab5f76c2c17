"""`vaedist encode`, `generate` and `neighbours`: tables of latents and of images, and a check for memorisation."""

import json
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import click

from vaedist.cli.loading import loaded, loaded_for_workers
from vaedist.cli.options import (
    LocalPath,
    Location,
    NumberRange,
    address_option,
    checkpoint_option,
    data_option,
    ema_option,
    json_option,
    pixels_option,
    run_argument,
    seed_option,
    temperature_option,
)
from vaedist.cli.output import print_pairs, progress_bar, user_stream
from vaedist.errors import ConfigError
from vaedist.wording import counted

if TYPE_CHECKING:
    from vaedist.inference.job import Job
    from vaedist.inference.output import Format

LATENTS = ("sample", "mean", "log_sigma")


def output_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of commands that write the parts of a table on Ray workers."""
    options: list[Callable[..., Any]] = [
        click.option(
            "-o", "--output", metavar="DIR", type=Location(), required=True, help="Folder or URI to write to."
        ),
        click.option("--resume", is_flag=True, help="Complete an interrupted output of the same command."),
        click.option(
            "--rows-per-part",
            type=click.IntRange(1, 2**24),
            help="Rows of each file.  [default: by the size of a row]",
        ),
        click.option(
            "--workers",
            type=click.IntRange(1, 4096),
            help="Ray workers.  [default: one per CPU, or as many as the GPUs allow; at most 16]",
        ),
        click.option(
            "--gpus-per-worker",
            type=NumberRange(0, 64),
            default=0.0,
            show_default=True,
            help="GPUs per worker, or the fraction of one; 0 computes on CPUs.",
        ),
        address_option,
        json_option,
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _latents(_context: click.Context, _option: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    """Splits and checks the value of --latents."""
    if value is None:
        return None
    kinds = tuple(value.split(","))
    if unknown := [kind for kind in kinds if kind not in LATENTS]:
        raise click.BadParameter(f"{unknown[0]!r} must be one of {', '.join(LATENTS)}, separated by commas")
    return kinds


@click.command()
@run_argument
@click.option("--data", metavar="DIR", type=Location(),
              help="Encode this prepared data set, of images of the same shape, instead of the run's own.")  # fmt: skip
@click.option("--folder", type=LocalPath(path_type=Path),
              help="Encode the images below this folder, at any depth, instead of a prepared data set.")  # fmt: skip
@click.option("--split", type=click.Choice(["train", "validation", "test", "all"]), default="all", show_default=True,
              help="Split to encode.")  # fmt: skip
@click.option("--latents", metavar="KIND,...", callback=_latents,
              help="Latents to write: sample, mean, log_sigma.  [default: all that the model has]")  # fmt: skip
@click.option("--contact-sheet", metavar="FILE", type=LocalPath(path_type=Path, dir_okay=False),
              help="Write a PNG of the images with the lowest and the highest ELBO.")  # fmt: skip
@seed_option
@checkpoint_option
@ema_option
@output_options
def encode(
    run: str | Path, data: str | Path | None, folder: Path | None, split: str, latents: tuple[str, ...] | None,
    contact_sheet: Path | None, seed: int, checkpoint: str | int, ema: bool | None, **options: Any,
) -> None:  # fmt: skip
    """Write the latents and scores of a data set as Parquet.

    Each row has the image's split, number and class, the ELBO and its terms in nats, a sample z of q(z|x), and the mean
    and log_sigma of the posterior's normal distribution, before its flow if it has one. Models of several stochastic
    layers have columns for each layer.

    The data set is that of the run, unless --data names another one with images of the same shape. The images of
    --folder are cropped and resized as by `vaedist data prepare folder`.

    The noise of an image depends only on --seed and its row, so the files are the same for any number of workers.
    """
    if folder is not None and (data is not None or split != "all"):
        raise click.UsageError("--folder excludes --data and --split")
    if folder is not None and contact_sheet is not None and contact_sheet.resolve().is_relative_to(folder.resolve()):
        raise click.UsageError("--contact-sheet must be outside of --folder: it would become one of the images")
    with loaded_for_workers(run, checkpoint=checkpoint, ema=ema) as opened:
        from vaedist.inference.encode import encode_job
        from vaedist.inference.output import ParquetFormat

        images: Any = {
            "data": None if data is None else str(data), "folder": folder, "split": None if split == "all" else split,
        }  # fmt: skip
        kinds: Any = latents
        job = encode_job(opened, **images, latents=kinds, seed=seed, rows=options["rows_per_part"])
        fmt = ParquetFormat()
    if contact_sheet is None:
        _write(f"encoding with {run}", job, fmt, **options)
        return
    from vaedist.inference.extremes import Extremes
    from vaedist.monitor.pictures import save_png

    extremes = Extremes(job.source)
    _write(f"encoding with {run}", job, fmt, reported=extremes.wanted, report=extremes.add, **options)
    save_png(contact_sheet, extremes.sheet())
    if not options["as_json"]:
        click.echo(f"wrote {contact_sheet}")


@click.command()
@run_argument
@click.option("-n", "--count", type=click.IntRange(1, 10**12), required=True, help="Number of images.")
@seed_option
@checkpoint_option
@ema_option
@pixels_option
@temperature_option
@click.option("--format", "form", type=click.Choice(["parquet-png", "parquet-array", "png"]), default="parquet-png",
              show_default=True,
              help="Parquet files with a column of PNGs, or of uint8 arrays; or a PNG file per image.")  # fmt: skip
@output_options
def generate(
    run: str | Path, count: int, seed: int, checkpoint: str | int, ema: bool | None, pixels: str, temperature: float,
    form: str, **options: Any,
) -> None:  # fmt: skip
    """Write many generated images as Parquet or PNG files.

    The images are those of `vaedist sample` with the same options. Image i depends only on --seed and i, so the files
    are the same for any number of workers.
    """
    with loaded_for_workers(run, checkpoint=checkpoint, ema=ema) as opened:
        from vaedist.inference.generate import generate_job
        from vaedist.inference.output import ParquetFormat, PngFormat
        from vaedist.monitor.pictures import PNG_CHANNELS

        channels = opened.image_shape[2]
        if form != "parquet-array" and channels not in PNG_CHANNELS:
            raise ConfigError(
                f"images of {channels} channels cannot be PNG, which has 1 or 3: use --format parquet-array"
            )
        drawn: Any = {"pixels": pixels, "content": "array" if form == "parquet-array" else "png"}
        job = generate_job(opened, count, seed=seed, temperature=temperature, rows=options["rows_per_part"], **drawn)
        fmt = PngFormat(len(str(count - 1))) if form == "png" else ParquetFormat()
    _write(f"generating with {run}", job, fmt, **options)


@click.command()
@run_argument
@click.option("-n", "--count", type=click.IntRange(1, 256), default=8, show_default=True,
              help="Number of images to generate.")  # fmt: skip
@click.option("--neighbours", type=click.IntRange(1, 32), default=6, show_default=True,
              help="Training images shown for each.")  # fmt: skip
@click.option("--distance", type=click.Choice(["pixel", "latent"]), default="pixel", show_default=True,
              help="Compare pixels, or encodings.")  # fmt: skip
@seed_option
@checkpoint_option
@ema_option
@data_option
@click.option("-o", "--output", type=LocalPath(path_type=Path, dir_okay=False), default="neighbours.png",
              show_default=True, help="PNG to write.")  # fmt: skip
@json_option
def neighbours(
    run: str | Path, count: int, neighbours: int, distance: Any, seed: int, checkpoint: str | int, ema: bool | None,
    data: str | None, output: Path, as_json: bool,
) -> None:  # fmt: skip
    """Write a PNG of samples beside similar training images.

    A model that memorises generates copies of training images. Each row of the picture is an image of `vaedist sample`,
    followed by its nearest training images, with their distances and their numbers in the training split. The distance
    is the root mean square difference of pixel values in [0, 1], or of the images' encodings.

    For comparison, the command prints the median and the range of the distances from test images to their nearest
    training images. Copies are much closer.
    """
    with (
        progress_bar(f"comparing with the training images of {run}") as progress,
        loaded(run, checkpoint=checkpoint, ema=ema, data=data) as opened,
    ):
        from vaedist.inference.neighbours import nearest_training_images
        from vaedist.monitor.pictures import save_png

        found = nearest_training_images(
            opened, count, neighbours=neighbours, seed=seed, distance=distance, progress=progress
        )
    save_png(output, found.sheet())
    nearest, references = found.distances[:, 0], found.references
    if as_json:
        facts = {"output": str(output), "distance": distance, "rows": found.rows.tolist(),
                 "distances": found.distances.tolist(), "references": references.tolist()}  # fmt: skip
        click.echo(json.dumps(facts))
        return
    rows = {
        counted(len(nearest), "sample"): f"{median(nearest):.4f} (median; {min(nearest):.4f} to {max(nearest):.4f})",
        counted(len(references), "test image"): f"{median(references):.4f} (median; {min(references):.4f} to "
        f"{max(references):.4f})",
    }
    print_pairs(f"{distance} distance to training images", rows)
    click.echo(f"wrote {output}")


def _write(
    title: str, job: "Job", fmt: "Format", *, output: str | Path, resume: bool, workers: int | None,
    gpus_per_worker: float, address: str | None, as_json: bool, rows_per_part: int | None, **more: Any,
) -> None:  # fmt: skip
    """Writes a job's table, and prints the output's location and size."""
    from vaedist.inference.output import OutputFolder
    from vaedist.launch.inference import Workers, run_job

    folder = OutputFolder.at(output)
    with user_stream() as terminal, progress_bar(title) as progress:
        run_job(
            job, folder, fmt, resume=resume, workers=Workers(workers, gpus_per_worker), address=address,
            progress=progress, notify=lambda text: click.echo(text, file=terminal), **more,
        )  # fmt: skip
    facts = {"output": folder.location, "rows": job.parts.rows, "parts": len(job.parts)}
    if as_json:
        click.echo(json.dumps(facts | {"job": job.record()}))
        return
    click.echo(
        f"wrote {counted(job.parts.rows, 'row')} in {counted(len(job.parts), 'part')} to {folder.store.display()}"
    )
