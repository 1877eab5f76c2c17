"""`vaedist init`."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vaedist.cli.completion import complete_folder
from vaedist.cli.options import LocalPath
from vaedist.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from vaedist.config import Experiment
    from vaedist.data.manifest import Manifest

MODELS = ("mlp", "conv", "resnet")
SIZES = ("small", "medium", "large")
DATA = "data/cifar10"


@click.command()
@click.argument("file", type=LocalPath(path_type=Path), default="job.toml")
@click.option(
    "--data", metavar="DIR", shell_complete=complete_folder,
    help=f"Data set, made by `vaedist data prepare`.  [default: {DATA}, or asked for on a terminal]",
)  # fmt: skip
@click.option(
    "--model", type=click.Choice(MODELS),
    help="mlp: dense layers and a flow; conv: gated convolutions; resnet: several stochastic layers.  "
    "[default: mlp, or asked for on a terminal]",
)  # fmt: skip
@click.option(
    "--size", type=click.Choice(SIZES), help="Size of the model.  [default: small, or asked for on a terminal]"
)
def init(file: Path, data: str | None, model: str | None, size: str | None) -> None:
    """Write a commented job file for your own data.

    FILE is the new file, "job.toml" by default; an existing one is never overwritten.
    """
    if file.exists() or file.is_symlink():
        raise ConfigError(f"{file} exists already; choose another name, as in: vaedist init my-job.toml")
    asks = sys.stdin.isatty() and sys.stderr.isatty()
    data = data or (click.prompt("Data set", default=DATA, err=True) if asks else DATA)
    model = model or _choice("Model", MODELS, asks=asks)
    size = size or _choice("Size", SIZES, asks=asks)

    from vaedist.config import Experiment
    from vaedist.config.starter import starter_job
    from vaedist.storage.uri import is_remote

    name = shlex.quote(str(file))
    manifest = _check(Experiment.from_toml(starter_job(data, model, size, name), str(file)))
    text = starter_job(data, model, size, name, manifest.splits["train"].rows if manifest else None)
    try:
        with file.open("x", encoding="utf-8") as opened:
            opened.write(text)
    except FileExistsError:
        raise ConfigError(f"{file} exists already; choose another name") from None
    except OSError as error:
        raise StorageError(f"cannot write {file}: {error.strerror or error}") from error
    click.echo(f"wrote {file}: a {size} {model} model for {data}")
    if manifest is None and not is_remote(data):
        click.echo(f"prepare the data   vaedist data prepare SOURCE --out {shlex.quote(data)}")
    click.echo(f"train              vaedist train {shlex.quote(str(file))}")


def _choice(title: str, words: tuple[str, ...], *, asks: bool) -> str:
    """Returns the word that the user chooses, or the first one."""
    if not asks:
        return words[0]
    chosen: str = click.prompt(title, type=click.Choice(words), default=words[0], err=True)
    return chosen


def _check(experiment: "Experiment") -> "Manifest | None":
    """Checks that the model can be trained on the data, and returns their manifest.

    The result is None if there are no such data yet, or if they are on an object store.

    Raises:
        DataError: the model cannot be trained on images of that shape.
    """
    from vaedist.data.manifest import load_manifest
    from vaedist.data.worker_data import check_images
    from vaedist.errors import DataError
    from vaedist.storage.uri import is_remote

    path = experiment.data.path
    if is_remote(path) or not Path(path, "manifest.json").exists():
        return None
    manifest = load_manifest(path)
    try:
        check_images(experiment, manifest.shape)
    except DataError as error:
        raise DataError(f"{error}; choose another --model") from None
    return manifest
