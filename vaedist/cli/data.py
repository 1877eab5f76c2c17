"""`vaedist data`: prepare, verify and inspect data sets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from vaedist.cli.data_sources import open_source, parse_colour, parse_size
from vaedist.cli.options import LocalPath
from vaedist.cli.output import progress_bar
from vaedist.wording import counted

if TYPE_CHECKING:
    import numpy as np

    from vaedist.data.manifest import Manifest, SplitName

Counts: TypeAlias = "dict[SplitName, list[int]]"
"""Rows of each class, by split."""

VALIDATION = {
    "random": "held out from the training images, at random",
    "end": "held out from the training images, from the end",
    None: "a split of the source",
}
SHEET_CLASSES = 40  # rows of a contact sheet, one per class
SHEET_COLUMNS = 10
SHEET_SIDE = 64  # approximate size in pixels to which smaller images are enlarged


@click.group()
def data() -> None:
    """Prepare, verify and inspect data sets."""


@data.command()
@click.argument("source")
@click.option("--out", metavar="DIR", help="New folder for the data set, or its URI.  [default: data/SOURCE]")
@click.option(
    "--archive",
    metavar="FILE",
    type=LocalPath(),
    help="cifar10: the official cifar-10-binary.tar.gz, instead of a download.",
)
@click.option("--idx", metavar="DIR", type=LocalPath(),
              help="Read SOURCE from the IDX files in a folder, instead of a download, see above.")  # fmt: skip
@click.option("--transpose", is_flag=True, default=None,
              help="--idx: exchange rows and columns, which turns the images of EMNIST upright.")  # fmt: skip
@click.option("--npz", metavar="FILE", type=LocalPath(), help="Read SOURCE from a NumPy archive, see above.")
@click.option("--folder", metavar="DIR", type=LocalPath(), help="folder: the folder of images, see above.")
@click.option("--size", metavar="HxW", callback=parse_size,
              help="folder: resize images to this size.  [default: 32x32]")  # fmt: skip
@click.option("--grey", is_flag=True, default=None, help="folder: convert to grey images, which a job may binarise.")
@click.option("--background", metavar="COLOUR", callback=parse_colour,
              help="folder: colour behind transparent pixels, such as black or #336699.  [default: white]")  # fmt: skip
@click.option("--skip-damaged", is_flag=True, default=None,
              help="folder: skip images that cannot be decoded, and list them; reads all images twice.")  # fmt: skip
@click.option("--train", type=click.IntRange(1), help="photos: training crops.  [default: 10000]")
@click.option("--test", type=click.IntRange(1), help="photos: test crops.  [default: 1000]")
@click.option(
    "--validation",
    type=click.IntRange(1),
    metavar="N",
    help="Hold out N training images for validation; photos: N crops from separate regions.",
)
@click.option(
    "--validation-from",
    type=click.Choice(["random", "end"]),
    help="Hold out random images, regardless of class, or the last ones of the published order.  [default: random]",
)
@click.option("--data-dir", metavar="DIR", type=LocalPath(), help="Download folder of tensorflow-datasets.")
@click.option("--shards", type=click.IntRange(1),
              help="Shards of each split, the maximum number of workers.  [default: 32, or the number of images if "
              "that is less]")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of every random choice.")
def prepare(source: str, out: str | None, shards: int | None, seed: int, **options: Any) -> None:
    """Convert SOURCE to Arrow shards, once, before training.

    SOURCE is cifar10, photos (crops of photographs that come with vaedist[photos], no network needed), folder
    (your own images), or the name of any image data set of tensorflow-datasets. With --idx or --npz, it is a name
    of your choice.

    \b
    Below --folder                 splits                      classes
    CLASS/*.png                    a tenth becomes the test    the folders CLASS
                                   split
    *.png                          a tenth becomes the test    one, "unlabelled"
                                   split
    train/, test/, each as above   the folders, and val/ too   as above
    train/, val/                   val/ is the test split      as above

    Subfolders of CLASS are searched too. Any format that the installed Pillow decodes is accepted. Hidden files and
    folders are skipped; other ignored files are counted in a warning.

    --idx reads the files of MNIST, Fashion-MNIST, KMNIST or EMNIST, one data set per folder, compressed or not:

    \b
    train-images-idx3-ubyte    train-labels-idx1-ubyte
    t10k-images-idx3-ubyte     t10k-labels-idx1-ubyte

    --npz reads images, uint8 [N, H, W] or [N, H, W, C], and labels, integers [N] or [N, 1]:

    \b
    x_train, y_train, x_test, y_test, optionally x_val, y_val; or
    train_images, train_labels, test_images, test_labels, optionally val_...

    The labels of both may be missing; all images are then of one class, "unlabelled".

    If there is a validation split, which some sources have already, checkpoints and trials are selected by it, and the
    test images are scored by `vaedist evaluate` only.
    """  # noqa: D301 - \b is the character that keeps click from wrapping a paragraph
    from vaedist.data.prepare import SHARDS, prepare, require_new
    from vaedist.data.sources.source import plain_name

    out = out or f"data/{plain_name(source)}"
    require_new(out)
    images = open_source(source, seed, {key: value for key, value in options.items() if value is not None})
    for warning in images.warnings:
        click.echo(f"warning: {warning}", err=True)
    rows = sum(images.counts.values())
    with progress_bar(f"preparing {images.name}") as bar:
        manifest = prepare(images, out, shards=shards, seed=seed, progress=lambda done: bar(done, rows))
    fewest = min(len(split.shards) for split in manifest.splits.values())
    if shards is None and fewest < SHARDS:
        few = f"a split has {counted(fewest, 'image')}, so at most {counted(fewest, 'worker')} can share the data"
        click.echo(f"warning: {few}", err=True)
    click.echo(f"{out}: {_in_words(manifest)}")
    click.echo(f"fingerprint {manifest.fingerprint}")


@data.command()
@click.argument("dataset", metavar="DIR")
def verify(dataset: str) -> None:
    """Verify the digest of every shard in DIR."""
    from vaedist.data.manifest import load_manifest, verify

    size = load_manifest(dataset).bytes
    with progress_bar(f"checking {dataset}") as bar:
        manifest = verify(dataset, progress=lambda done: bar(done, size))
    click.echo(f"{dataset}: intact: {_in_words(manifest)}")
    click.echo(f"fingerprint {manifest.fingerprint}")


@data.command()
@click.argument("dataset", metavar="DIR")
@click.option(
    "-o",
    "--output",
    metavar="PNG",
    type=LocalPath(),
    help="PNG of the contact sheet.  [default: NAME-contact-sheet.png]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON; a contact sheet is then written only with -o.")
def inspect(dataset: str, output: str | None, as_json: bool) -> None:
    """Summarise the data set in DIR, and write a contact sheet.

    The contact sheet shows examples of each class.
    """
    from vaedist.data.manifest import load_manifest
    from vaedist.data.summary import class_counts, examples

    manifest = load_manifest(dataset)
    counts: Counts = {split: class_counts(dataset, manifest, split).tolist() for split in manifest.split_names}
    if as_json:
        click.echo(json.dumps(_facts(manifest, counts), indent=2))
    else:
        _print_tables(dataset, manifest, counts)
        output = output or f"{manifest.name}-contact-sheet.png"
    if output:
        shown = examples(dataset, manifest, "train", SHEET_COLUMNS, SHEET_CLASSES)
        _write_sheet(output, shown, manifest.classes)
        click.echo(f"contact sheet: {output}", err=as_json)


def _in_words(manifest: Manifest) -> str:
    from rich.filesize import decimal

    rows = {split: f"{manifest.splits[split].rows:,}" for split in manifest.split_names}
    validation = f", {rows['validation']} validation" if "validation" in rows else ""
    shape = "x".join(map(str, manifest.shape))
    shards = " + ".join(str(len(manifest.splits[split].shards)) for split in manifest.split_names)
    return (
        f"{rows['train']} training{validation} and {rows['test']} test images, {shape}, "
        f"{counted(len(manifest.classes), 'class')}, {shards} shards, {decimal(manifest.bytes)}"
    )


def _facts(manifest: Manifest, counts: Counts) -> dict[str, Any]:
    """Returns the record that --json prints."""
    return {
        "name": manifest.name,
        "fingerprint": manifest.fingerprint,
        "shape": manifest.shape,
        "seed": manifest.seed,
        "source": manifest.source.model_dump(),
        "held_out": manifest.held_out,
        "splits": {
            name: {
                "rows": manifest.splits[name].rows,
                "shards": len(manifest.splits[name].shards),
                "bytes": manifest.splits[name].bytes,
                "classes": dict(zip(manifest.classes, of_class, strict=True)),
            }
            for name, of_class in counts.items()
        },
    }


def _print_tables(dataset: str, manifest: Manifest, counts: Counts) -> None:
    from rich.console import Console
    from rich.filesize import decimal
    from rich.markup import escape
    from rich.table import Table

    source = manifest.source
    official = {True: ", official", False: ", not the official file", None: ""}[source.official]
    about = Table.grid(padding=(0, 2))
    about.add_row("data set", escape(f"{manifest.name} in {dataset}"))
    about.add_row("images", "x".join(map(str, manifest.shape)) + " uint8")
    about.add_row("source", escape(f"{source.kind}: {source.name}{official}"))
    if source.sha256:
        about.add_row("source SHA-256", source.sha256)
    about.add_row("seed", str(manifest.seed))
    if "validation" in counts:
        about.add_row("validation", VALIDATION[manifest.held_out])
    about.add_row("shards", " + ".join(str(len(manifest.splits[name].shards)) for name in counts))
    about.add_row("size", decimal(manifest.bytes))
    about.add_row("fingerprint", manifest.fingerprint)
    rows = Table("class", show_footer=True)
    rows.columns[0].footer = "all"
    for name in counts:
        rows.add_column(name, f"{manifest.splits[name].rows:,}", justify="right")
    for k, label in enumerate(manifest.classes):
        rows.add_row(escape(label), *(f"{of_class[k]:,}" for of_class in counts.values()))
    Console().print(about, rows)


def _write_sheet(path: str, images: np.ndarray, classes: Sequence[str]) -> None:
    """Writes images [classes, n, H, W, C] as a grid of one row per class, with the class names on the left."""
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    from vaedist.monitor.pictures import grid, save_png, visible

    images = visible(images)
    if images.shape[-1] == 1:
        images = images.repeat(3, axis=-1)
    scale = max(1, SHEET_SIDE // images.shape[2])
    images = images.repeat(scale, axis=2).repeat(scale, axis=3)
    sheet = Image.fromarray(grid(images.reshape(-1, *images.shape[2:]), images.shape[1]))
    font = ImageFont.load_default(14)
    names = [name[:24] for name in classes[: len(images)]]
    margin = int(max(font.getlength(name) for name in names)) + 12
    page = Image.new("RGB", (margin + sheet.width, sheet.height), "white")
    page.paste(sheet, (margin, 0))
    draw = ImageDraw.Draw(page)
    for row, name in enumerate(names):
        draw.text((6, sheet.height * (row + 0.5) / len(names)), name, "black", font, anchor="lm")
    save_png(path, np.asarray(page))
