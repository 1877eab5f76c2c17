"""`vaedist bench`: training throughput of a job, compared with the limits of the machine."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from vaedist.cli.loading import quiet
from vaedist.cli.options import LocalPath, address_option, job_argument, json_option
from vaedist.cli.output import console, print_pairs, status_line
from vaedist.config import Experiment
from vaedist.files import display_path, replace_file
from vaedist.wording import counted

if TYPE_CHECKING:
    from vaedist.bench.record import Record


class Counts(click.ParamType):
    """Numbers of workers, such as 1,2,4."""

    name = "counts"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Parses the numbers."""
        if isinstance(value, tuple):
            return value
        parts = str(value).split(",")
        if not all(part.strip().isdecimal() and 1 <= int(part) <= 4096 for part in parts):
            self.fail(f"{value!r}: must be numbers from 1 to 4096, such as 1,2,4", param, ctx)
        return tuple(int(part) for part in parts)


@click.command()
@job_argument
@click.option("--workers", type=Counts(), metavar="N,N,...", default=(1,), show_default="1",
              help="Numbers of workers for which to measure training.")  # fmt: skip
@click.option("--rounds", type=click.IntRange(1, 1000), default=5, show_default=True,
              help="Rounds of measurements.")  # fmt: skip
@click.option("--out", type=LocalPath(path_type=Path, dir_okay=False), help="JSON file to write the result to.")
@click.option("--against", type=LocalPath(path_type=Path, dir_okay=False), help="Compare with an earlier result.")
@address_option
@json_option
def bench(
    job: Path, overrides: tuple[str, ...], workers: tuple[int, ...], rounds: int, out: Path | None,
    against: Path | None, address: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Measure the training throughput of JOB on this machine.

    The step time is compared with its lower limit: the time of the matrix products alone, plus that of the memory
    traffic of parameters and optimizer state. A convolution counts as the matrix product of the image's patches with
    the kernel. Every round measures everything once; rates are medians over rounds.
    """
    from vaedist.bench.record import read_record

    experiment = Experiment.from_file(job, overrides)
    before = read_record(against) if against else None
    with status_line() as progress, quiet():
        from vaedist.launch.bench import bench as launch

        record = launch(experiment, workers=workers, rounds=rounds, address=address, progress=progress)
    if out:
        replace_file(out, record.to_json())
    if as_json:
        click.echo(record.to_json(), nl=False)
    else:
        _print(job, record)
        if before:
            _compare(record, before)
    if out:
        click.echo(f"wrote {display_path(out)}", err=as_json)


def _print(job: Path, record: "Record") -> None:
    from rich.table import Table

    machine, counts = record.machine, record.counts
    kinds = {"products": "matrix products", "convolutions": "convolutions"}
    multiplied = [f"{counts[name]} {kind}" for name, kind in kinds.items() if counts[name]]
    print_pairs(
        str(job),
        {
            "machine": f"{machine['processor']}, {machine['threads']} threads, GPUs: {machine['GPUs']}",
            "software": ", ".join(f"{name} {machine[name]}" for name in ("vaedist", "tensorflow", "numpy", "python")),
            "model": f"{counted(counts['parameters'], 'weight')}, {counted(counts['images a step'], 'image')} a step",
            "a step": f"{counts['flops a step'] / 1e9:.2f} GFLOP in {' and '.join(multiplied)}",
        },
    )
    table = Table("what", "median", "spread", "ms a step", "share of a step", title="one worker", title_justify="left")
    for name, label in LABELS.items():
        measure, seconds = record.measures[name], record.seconds_a_step.get(name)
        digits = 0 if measure.median >= 100 else 1
        table.add_row(
            label,
            f"{measure.median:,.{digits}f} {measure.unit}",
            f"{measure.spread:.0%}",
            "" if seconds is None else f"{1e3 * seconds:.2f}",
            "" if seconds is None else f"{seconds / record.seconds_a_step['step']:.0%}",
        )
    console().print(table)
    click.echo(f"the step reaches {record.share_of_limit:.0%} of the limit of its matrix products and memory traffic")
    if record.scaling:
        table = Table("workers", "images/s", "spread", "of one process", title="training", title_justify="left")
        one = record.measures["step"].median
        for count, measure in record.scaling.items():
            table.add_row(str(count), f"{measure.median:,.0f}", f"{measure.spread:.0%}", f"{measure.median / one:.2f}")
        console().print(table)


LABELS = {
    "step": "step",
    "products": "its matrix products, alone",
    "update": "its update, alone",
    "memory": "memory traffic of its update",
    "input": "input pipeline, in another thread",
    "test": "test pass",
}


def _compare(record: "Record", before: "Record") -> None:
    from rich.table import Table

    from vaedist.bench.record import changed, ratio

    table = Table("what", "before", "now", "now / before", title="comparison", title_justify="left")
    for name, measure in record.measures.items():
        if name not in before.measures:
            continue
        old = before.measures[name]
        factor, apart = ratio(measure.samples, old.samples)
        shown = f"{factor:.3f}" if apart else f"{factor:.3f}, within the spread"
        table.add_row(name, f"{old.median:,.1f} {old.unit}", f"{measure.median:,.1f}", shown)
    console().print(table)
    for line in (*changed(before.machine, record.machine), *changed(before.job, record.job),
                 *changed(before.counts, record.counts)):  # fmt: skip
        click.echo(f"changed: {line}")
