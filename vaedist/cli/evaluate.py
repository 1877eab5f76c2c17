"""`vaedist evaluate`: scores of trained runs, for publication."""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vaedist.cli.loading import loaded, quiet
from vaedist.cli.options import (
    Location,
    address_option,
    checkpoint_option,
    data_option,
    ema_option,
    json_option,
    run_argument,
)
from vaedist.cli.output import console, print_pairs, progress_bar
from vaedist.config import EVALUATION_SAMPLES
from vaedist.evaluation.text import difference_rows, evaluation_rows
from vaedist.wording import counted

if TYPE_CHECKING:
    from vaedist.api import Run
    from vaedist.evaluation.results import Evaluation


@click.command()
@run_argument
@click.argument("others", nargs=-1, type=Location(), metavar="[OTHER]...")
@click.option("--samples", type=click.IntRange(1, 2**20), default=EVALUATION_SAMPLES, show_default=True,
              help="Samples of z per image, K.")  # fmt: skip
@click.option("--split", type=click.Choice(["test", "train", "validation"]), default="test", show_default=True,
              help="Split to score.")  # fmt: skip
@click.option("--limit", type=click.IntRange(1), help="Score only this many images, drawn at random from the split.")
@checkpoint_option
@ema_option
@click.option("--bits-per-dim", is_flag=True, help="Fail if a model has no bits/dim.")
@data_option
@click.option("--workers", type=click.IntRange(1, 4096), default=1, show_default=True,
              help="Ray workers that share the images; 1 runs without Ray.")  # fmt: skip
@click.option("--gpus-per-worker", type=click.IntRange(0, 64), default=0, show_default=True, help="GPUs per worker.")
@address_option
@json_option
def evaluate(
    run: str | Path, others: tuple[str | Path, ...], samples: int, split: str, limit: int | None, checkpoint: str | int,
    ema: bool | None, bits_per_dim: bool, data: str | None, workers: int, gpus_per_worker: int, address: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Score a run: ELBO, log p(x), bits/dim, active units.

    log p(x) is estimated by importance-weighted bounds. Each score comes with its standard error over images, and the
    bounds with their Monte Carlo error on these images. The scores are also written to the run's folder and to
    TensorBoard; they do not depend on the number of workers.

    OTHER runs are scored on the same images, and each is compared with RUN image by image. All runs must use the same
    data set, and score the same values of the pixels.
    """
    with ExitStack() as stack:
        runs = [
            stack.enter_context(loaded(place, checkpoint=checkpoint, ema=ema, data=data)) for place in (run, *others)
        ]
        if bits_per_dim:
            for opened in runs:
                opened.require_bits_per_dim()
        for opened in runs[1:]:
            runs[0].require_comparable(opened)
    options: dict[str, Any] = {"samples": samples, "split": split, "limit": limit}
    found, paths = [], []
    for place, opened in zip((run, *others), runs, strict=True):
        with progress_bar(f"evaluating {place}") as progress, quiet():
            if workers > 1 or gpus_per_worker or address:
                found.append(_on_ray(opened, workers, gpus_per_worker, address, progress=progress, **options))
            else:
                found.append(opened.evaluate(progress=progress, **options))
            paths.append(opened.save_evaluation(found[-1], split=options["split"], limit=limit))
    if as_json:
        _print_json(run, others, paths, found)
        return
    for place, opened, evaluation, path in zip((run, *others), runs, found, paths, strict=True):
        _print(place, opened, split, evaluation)
        click.echo(f"wrote {opened.folder.store.location_of(path)}")
    for place, evaluation in zip(others, found[1:], strict=True):
        print_pairs(f"{place} less {run}", difference_rows(evaluation.against(found[0])))


def _on_ray(opened: "Run", workers: int, gpus: int, address: str | None, **options: Any) -> "Evaluation":
    from vaedist.launch.evaluate import evaluate_on_ray

    return evaluate_on_ray(opened, workers=workers, gpus_per_worker=gpus, address=address, **options)


def _print_json(
    run: str | Path, others: Sequence[str | Path], paths: Sequence[Path], found: "Sequence[Evaluation]"
) -> None:
    """Prints the saved evaluation of a single run, or those of several runs with their differences."""
    from vaedist.runs.evaluations import finite

    if not others:
        click.echo(paths[0].read_text(encoding="utf-8"), nl=False)
        return
    differences = [
        finite({"run": str(place), "less": str(run), **asdict(evaluation.against(found[0]))})
        for place, evaluation in zip(others, found[1:], strict=True)
    ]
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    click.echo(json.dumps({"runs": records, "differences": differences}, indent=1))


def _print(run: str | Path, opened: "Run", split: str, found: "Evaluation") -> None:
    position, samples, seen = opened.checkpoint.position, found.samples, opened.preprocessing
    weights = ", moving averages" if opened.ema else ""
    rows = {
        "checkpoint": f"step {position.step} ({counted(position.epoch, 'epoch')}){weights}",
        "images": f"{found.images:,} of {split}, {counted(samples, 'sample')} of z each",
    }
    if seen.proper:
        rows["NLL <="] = f"{-found.log_p.mean:.3f} nats by L_{samples}, {-found.elbo.mean:.3f} by the ELBO"
    rows |= evaluation_rows(found)
    if not seen.proper:
        rows["bits/dim <="] = "none: the model's score of grey values is not a density"
    print_pairs(str(run), rows)
    if len(found.kl_by_layer) > 1:
        _print_layers(found)
    if samples > 1:
        from rich.table import Table

        table = Table(
            "k", "L_k, nats per image", "standard error", "Monte Carlo error", title="importance-weighted bounds"
        )
        for k, bound in found.bounds.items():
            table.add_row(
                str(k), f"{bound.mean:.3f}", f"{bound.standard_error:.3f}", f"{found.monte_carlo_errors[k]:.3f}"
            )
        console().print(table)


def _print_layers(found: "Evaluation") -> None:
    """Prints the KL of each stochastic layer, and its active channels if its KL is by channel."""
    from rich.table import Table

    table = Table("layer", "KL, nats per image", "standard error", "active channels", title="KL by stochastic layer")
    for name, kl in found.kl_by_layer.items():
        active = f"{found.active_channels[name]} of {found.channels[name]}" if name in found.channels else "-"
        table.add_row(name, f"{kl.mean:.3f}", f"{kl.standard_error:.3f}", active)
    console().print(table)
