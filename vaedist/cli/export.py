"""`vaedist export`: a trained model for other programs."""

import json
from pathlib import Path

import click

from vaedist.cli.loading import loaded
from vaedist.cli.options import Location, checkpoint_option, data_option, ema_option, json_option, run_argument
from vaedist.cli.output import status_line


@click.command()
@run_argument
@click.option("-o", "--output", type=Location(), required=True, help="Folder to write, or its URI; new or empty.")
@click.option("--license", "license_name", metavar="NAME",
              help="License of the weights for the model card, such as cc-by-4.0.  [default: not stated]")  # fmt: skip
@checkpoint_option
@ema_option
@data_option
@json_option
def export(
    run: str | Path,
    output: str | Path,
    license_name: str | None,
    checkpoint: str | int,
    ema: bool | None,
    data: str | None,
    as_json: bool,
) -> None:
    """Export RUN's model for use without vaedist.

    The folder has a TensorFlow SavedModel with functions such as encode, decode, score and generate, which
    TensorFlow and TensorFlow Serving load without vaedist and which give the same numbers; a Keras file, which needs
    vaedist; a model card, README.md; and the experiment.
    """
    with status_line() as progress, loaded(run, checkpoint=checkpoint, ema=ema, data=data) as opened:
        opened.export(output, license=license_name, progress=progress)
        facts = {"output": str(output), "step": opened.checkpoint.position.step, "ema": opened.ema}
    click.echo(json.dumps(facts) if as_json else f"wrote {output}")
