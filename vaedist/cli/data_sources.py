"""Sources of images as `vaedist data prepare` opens them, from the values of its options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from vaedist.cli.output import progress_bar

if TYPE_CHECKING:
    from vaedist.data.sources import ImageSource

HOLD_OUT = {"validation", "validation_from"}
# Options of the sources with names of their own.
SOURCES: dict[str, set[str]] = {
    "photos": {"train", "test", "validation"},
    # No validation_from: the last images of a folder all belong to its last class.
    "folder": {"folder", "size", "grey", "background", "skip_damaged", "validation"},
}
# Options that read files of one format, and the options that go with each.
FORMATS: dict[str, set[str]] = {"archive": set(), "idx": {"transpose"}, "npz": set()}


def parse_size(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """Parses height and width from "32x48", or from one number for both."""
    if value is None:
        return None
    height, _, width = value.lower().partition("x")
    try:
        size = int(height), int(width or height)
    except ValueError:
        size = 0, 0
    if not all(1 <= side <= 4096 for side in size):
        raise click.BadParameter(f"{value!r} must be HEIGHTxWIDTH in pixels, such as 32x32, each 1 to 4096")
    return size


def parse_colour(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, int, int] | None:
    """Parses red, green and blue from a name or from #rrggbb."""
    if value is None:
        return None
    from PIL import ImageColor

    try:
        red, green, blue, *alpha = ImageColor.getrgb(value)
    except ValueError:
        alpha = [0]
    if alpha:  # not a colour, or a transparent one
        raise click.BadParameter(f"{value!r} must be a colour's name, as in HTML, or #rrggbb")
    return red, green, blue


def open_source(name: str, seed: int, options: Mapping[str, Any]) -> ImageSource:
    """Returns the source of a name, with the given options."""
    _check_options(name, options)

    from vaedist.data import sources

    if name == "photos":
        return sources.photos(**options, seed=seed)
    if "validation" in options:
        from vaedist.data.holdout import hold_out

        whole = open_source(name, seed, {key: value for key, value in options.items() if key not in HOLD_OUT})
        return hold_out(whole, options["validation"], taken=options.get("validation_from", "random"), seed=seed)
    if name == "folder":
        path, given = options["folder"], {key: value for key, value in options.items() if key != "folder"}
        with progress_bar("looking for damaged images") as bar:
            return sources.folder(path, **given, seed=seed, progress=bar)
    if "archive" in options:
        return sources.cifar10_archive(options["archive"])
    if "idx" in options:
        return sources.idx_folder(options["idx"], name, transpose=options.get("transpose", False))
    if "npz" in options:
        return sources.npz_file(options["npz"], name)
    hint = sources.without_network(name)
    click.echo(f"{name} is provided by tensorflow-datasets, which downloads it on first use{hint}", err=True)
    return sources.tfds_source(name, **options)


def _check_options(name: str, options: Mapping[str, Any]) -> None:
    """Raises a usage error if an option does not go with the source or with another option, or one is missing."""
    format_ = next((key for key in FORMATS if key in options), None)
    if name in SOURCES:
        format_, takes = None, SOURCES[name]
    else:
        takes = {format_, *FORMATS[format_], *HOLD_OUT} if format_ else {"data_dir", *HOLD_OUT}
    source = f"{name} --{format_}" if format_ else name
    for key in options:
        if key not in takes or (key == "archive" and name != "cifar10"):
            raise click.UsageError(f"--{key.replace('_', '-')} does not go with {name if key == format_ else source}")
    if "validation_from" in options and "validation" not in options:
        raise click.UsageError("--validation-from requires --validation N")
    if name == "folder" and "folder" not in options:
        raise click.UsageError("folder needs --folder DIR, the folder of images")
