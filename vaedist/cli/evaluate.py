"""`vaedist evaluate`: numbers for a paper."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vaedist.cli.loading import loaded
from vaedist.cli.options import (
    address_option,
    checkpoint_option,
    data_option,
    ema_option,
    json_option,
    run_argument,
)
from vaedist.cli.output import console, print_pairs, progress_bar
from vaedist.storage.uri import join_uri

if TYPE_CHECKING:
    from vaedist.runs import Run
    from vaedist.training.importance import Estimate, Evaluation


@click.command()
@run_argument
@click.option("--samples", type=click.IntRange(1, 2**20), default=16, show_default=True,
              help="Samples of z for each image, K.")  # fmt: skip
@click.option("--split", type=click.Choice(["test", "train", "validation"]), default="test", show_default=True,
              help="Whose images.")  # fmt: skip
@click.option("--limit", type=click.IntRange(1), help="Score so many images only, a random part of the split.")
@checkpoint_option
@ema_option
@click.option("--bits-per-dim", is_flag=True, help="Fail where the likelihood gives no bits/dim.")
@data_option
@click.option("--workers", type=click.IntRange(1, 4096), default=1, show_default=True,
              help="Ray workers that share the images; one needs no Ray.")  # fmt: skip
@click.option("--gpus-per-worker", type=click.IntRange(0, 64), default=0, show_default=True, help="GPUs of a worker.")
@address_option
@json_option
def evaluate(
    run: str | Path, samples: int, split: str, limit: int | None, checkpoint: str, ema: bool | None, bits_per_dim: bool,
    data: str | None, workers: int, gpus_per_worker: int, address: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Score a checkpoint of RUN: ELBO, importance-weighted bounds on log p(x), bits/dim, active units.

    Each number comes with its standard error. They are written into the run's folder and to TensorBoard too, and are
    the same for any number of workers.
    """
    with (
        progress_bar(f"evaluating {run}") as progress,
        loaded(run, checkpoint=checkpoint, ema=ema, data=data) as opened,
    ):
        if bits_per_dim:
            opened.require_bits_per_dim()
        options: dict[str, Any] = {"samples": samples, "split": split, "limit": limit, "progress": progress}
        if workers > 1 or gpus_per_worker or address:
            from vaedist.launch.evaluate import evaluate_on_ray

            opened = replace(opened, folder=opened.folder.absolute())
            found = evaluate_on_ray(
                opened, workers=workers, gpus_per_worker=gpus_per_worker, address=address, **options
            )
        else:
            found = opened.evaluate(**options)
        kind = [split, f"k{samples}", *([f"first{limit}"] if limit else []), *(["no-ema"] if ema is False else [])]
        path = _save(run, opened, split, "-".join(kind), found)
    if as_json:
        click.echo(path.read_text(encoding="utf-8"), nl=False)
        return
    _print(run, opened, split, found)
    folder = opened.folder
    click.echo(f"wrote {join_uri(folder.uri, folder.evaluations.name, path.name) if folder.uri else path}")


def _save(run: str | Path, opened: "Run", split: str, name: str, found: "Evaluation") -> Path:
    """Keep what was found, and what it was found of, in the run's folder."""
    from vaedist.training.evaluations import save_evaluation

    position, folder = opened.checkpoint.position, opened.folder
    record = {
        "run": str(run),
        "checkpoint": join_uri(folder.place, folder.checkpoints.name, opened.checkpoint.path.name),
        "epoch": position.epoch,
        "step": position.step,
        "ema": opened.ema,
        "fingerprint": position.fingerprint,
        "split": split,
        "seed": opened.experiment.seed,
        **found.to_dict(),
    }
    return save_evaluation(folder, name, position.step, record)


def _print(run: str | Path, opened: "Run", split: str, found: "Evaluation") -> None:
    position, samples = opened.checkpoint.position, found.samples
    weights = ", moving averages" if opened.ema else ""
    print_pairs(
        str(run),
        {
            "checkpoint": f"step {position.step} ({position.epoch} epochs){weights}",
            "images": f"{found.images:,} of {split}, {samples} samples of z each",
            "ELBO": _nats(found.elbo),
            f"log p(x) >= L_{samples}": _nats(found.log_p),
            "gap": _nats(found.gap),
            "reconstruction": _nats(found.reconstruction),
            "KL": _nats(found.kl),
            "bits/dim <=": _bits(found.bits_per_dim, samples),
            "effective samples": f"{found.effective_sample_size.mean:.2f} of {samples}",
            "active units": _active(found.active_units, opened.experiment.model.latent),
        },
    )
    if samples > 1:
        from rich.table import Table

        table = Table("k", "L_k, nats an image", "standard error", title="importance-weighted bounds")
        for k, bound in found.bounds.items():
            table.add_row(str(k), f"{bound.mean:.3f}", f"{bound.standard_error:.3f}")
        console().print(table)


def _nats(estimate: "Estimate") -> str:
    return f"{estimate.mean:.3f} +- {estimate.standard_error:.3f} nats"


def _bits(estimates: "dict[int, Estimate] | None", samples: int) -> str:
    if estimates is None:
        return "none: the likelihood is a score of grey values, not a density"
    elbo, log_p = estimates[1], estimates[samples]
    return f"{elbo.mean:.4f} +- {elbo.standard_error:.4f} by the ELBO, {log_p.mean:.4f} by L_{samples}"


def _active(units: int | None, latent: int) -> str:
    return f"{units} of {latent}" if units is not None else "takes 2 samples or more"
