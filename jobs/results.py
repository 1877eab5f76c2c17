"""Trains and evaluates the runs of a table, and prints it in Markdown.

    vaedist data prepare cifar10
    python jobs/results.py jobs/tables/cifar10-depth.toml --data data/cifar10

A table's file names a job, and for each row the values that differ from it; a row has a run for each seed. The
script trains and evaluates the runs that are missing, and keeps the job file of each run beside its folder. It can be
stopped at any time, and resumes when it is started again. `--at-once 2` trains two runs at a time, `--only ROW` those
of one row, and `--print` only prints the table; rows without an evaluated run are empty.

Scores are means over seeds, with standard deviations if there are several. They are those of the checkpoint after the
last epoch, on the test images; no checkpoint is selected by a score.
"""

import argparse
import json
import signal
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Annotated, Any, NamedTuple

from curves import curve_of
from pydantic import Field, ValidationError, model_validator

from vaedist.config import Experiment
from vaedist.config.reading import first_fault
from vaedist.config.sections import Section
from vaedist.errors import ConfigError
from vaedist.monitor.metrics import epoch_rows, read_metrics

VAEDIST = (sys.executable, "-m", "vaedist")
RUNNING: set[subprocess.Popen[bytes]] = set()  # commands that have been started and have not ended
FAILED = Event()  # a command has failed or was stopped: no other one is started


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        heading: heading, in which {K} is the number of samples.
        digits: decimals.
        value: its value from the record of an evaluation and from the rows of the metrics; None if there is none.
    """

    heading: str
    digits: int
    value: Callable[[dict[str, Any], list[dict[str, Any]]], float | None]


def importance_bound(record: dict[str, Any]) -> float:
    """Returns L_K."""
    mean: float = record["bounds"][str(record["samples"])]["mean"]
    return mean


def bits_per_dim(record: dict[str, Any]) -> float | None:
    """Returns bits/dim by L_K, None for likelihoods without."""
    bits = record["bits_per_dim"]
    return bits[str(record["samples"])]["mean"] if bits else None


def images_per_second(rows: list[dict[str, Any]]) -> float:
    """Returns the median over the rows of training."""
    return statistics.median(row["images_per_second"] for row in rows if row["kind"] == "train")


COLUMNS = {
    "vlb": Column("VLB", 1, lambda record, _: record["bounds"]["1"]["mean"]),
    "log_p": Column("log p ≥ L_{K}", 1, lambda record, _: importance_bound(record)),
    "nll": Column("NLL by L_{K}", 2, lambda record, _: -importance_bound(record)),
    "rise": Column("L_{K} - L_{half}", 2, lambda record, _: record["rise"]["mean"]),
    "effective_samples": Column("effective samples", 1, lambda record, _: record["effective_sample_size"]["mean"]),
    "gap": Column("gap", 1, lambda record, _: record["gap"]["mean"]),
    "bits_per_dim": Column("bits/dim ≤", 3, lambda record, _: bits_per_dim(record)),
    "active_units": Column("active units", 0, lambda record, _: record["active_units"]),
    "images_per_second": Column("images per second", 0, lambda _, rows: images_per_second(rows)),
    "epochs": Column("epochs", 0, lambda _, rows: len(epoch_rows(rows))),
    "hours": Column("hours of training", 1, lambda _, rows: curve_of("", rows, "elbo").minutes[-1] / 60),
}


class Row(Section):
    """A row of a table.

    Attributes:
        name: text of the first column.
        run: name of the runs, followed by the seed.
        set: values of the experiment by dotted key; that of "model" or "model.flow" may be a table, which replaces the
            job's.
        seeds: seeds of the runs; those of the table if there are none.
        published: text of the last column.
    """

    name: str
    run: str
    set: dict[str, Any] = Field(default_factory=dict)
    seeds: tuple[int, ...] = ()
    published: str = ""


class Table(Section):
    """A table.

    Attributes:
        job: file of the job, in the folder above that of the tables.
        seeds: seeds of the rows that name none.
        samples: K, samples of z per image in evaluations.
        columns: names of `COLUMNS`.
        published: heading of the column with published numbers; there is none if it is empty.
        set: values of the experiment in all rows.
        rows: the rows.
    """

    job: str
    seeds: Annotated[tuple[int, ...], Field(min_length=1)]
    samples: int
    columns: tuple[str, ...]
    published: str = ""
    set: dict[str, Any] = Field(default_factory=dict)
    rows: tuple[Row, ...]

    @model_validator(mode="after")
    def _known_columns(self) -> "Table":
        if unknown := set(self.columns) - COLUMNS.keys():
            raise ValueError(f"columns: no column {', '.join(sorted(unknown))}; there are {', '.join(COLUMNS)}")
        return self


class Trial(NamedTuple):
    """A run of a table."""

    row: Row
    seed: int

    @property
    def name(self) -> str:
        """Name of the run."""
        return f"{self.row.run}-seed-{self.seed}"


def main() -> None:
    """Trains and evaluates all runs, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="file of the table")
    parser.add_argument("--data", required=True, help="folder of the prepared data set")
    parser.add_argument("--runs", type=Path, help="folder of the runs; default: runs/TABLE")
    parser.add_argument("--only", action="append", metavar="ROW", help="train only the rows with this `run`")
    parser.add_argument("--at-once", type=int, default=1, help="runs to train at a time, each on its share of the CPUs")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="as in train")
    parser.add_argument("--print", action="store_true", help="train and evaluate nothing")
    args = parser.parse_args()
    args.runs = args.runs or Path("runs") / args.table.stem
    try:
        table = Table.model_validate(tomllib.loads(args.table.read_text()))
    except (OSError, tomllib.TOMLDecodeError) as error:
        parser.error(f"{args.table}: {error}")
    except ValidationError as error:
        parser.error(f"{args.table}: {first_fault(Table, error)}")
    rows = [row for row in table.rows if not args.only or row.run in args.only]
    if args.only and len(rows) < len(set(args.only)):
        parser.error(f"{args.table} has the rows {', '.join(row.run for row in table.rows)}")
    if not args.print:
        signal.signal(signal.SIGTERM, stop_commands)
        trials = [Trial(row, seed) for row in rows for seed in row.seeds or table.seeds]
        try:
            for trial in trials:
                experiment(table, trial, args)  # all are checked before the first one is trained
        except ConfigError as error:
            parser.error(str(error))
        with ThreadPoolExecutor(args.at_once) as pool:
            list(pool.map(lambda trial: train(table, trial, args), trials))
        for trial in trials:
            evaluate(table, trial, args)
    print("\n".join(markdown(table, args.runs)))


def experiment(table: Table, trial: Trial, args: argparse.Namespace) -> Experiment:
    """Returns the experiment of a trial."""
    values = {**table.set, **trial.row.set, "seed": trial.seed, "data.path": args.data}
    return Experiment.from_file(args.table.parent.parent / table.job, args.overrides, values)


def train(table: Table, trial: Trial, args: argparse.Namespace) -> None:
    """Trains a trial, unless it is complete."""
    chosen = experiment(table, trial, args)
    if epochs_of(args.runs / trial.name) >= chosen.training.epochs:
        return
    job = args.runs / f"{trial.name}.toml"
    job.parent.mkdir(parents=True, exist_ok=True)
    job.write_text(chosen.to_toml(), encoding="utf-8")
    vaedist("train", str(job), "--runs", str(args.runs), "--name", trial.name, "--resume")


def evaluate(table: Table, trial: Trial, args: argparse.Namespace) -> None:
    """Evaluates a trial after its last epoch, unless its evaluation exists."""
    run = args.runs / trial.name
    if not evaluations(run, table.samples):
        vaedist("evaluate", str(run), "--checkpoint", "newest", "--samples", str(table.samples), "--data", args.data)


def vaedist(*words: str) -> None:
    """Runs a command of vaedist; if it fails, the script ends with its exit code."""
    if FAILED.is_set():
        return
    sys.stderr.write(f"vaedist {' '.join(words)}\n")  # whole lines: several threads write
    with subprocess.Popen([*VAEDIST, *words], stdout=subprocess.DEVNULL) as command:
        RUNNING.add(command)
        code = command.wait()
        RUNNING.discard(command)
    if code:
        FAILED.set()
        sys.exit(code)


def stop_commands(*_: Any) -> None:
    """Passes SIGTERM on to the commands, which save their runs and end, and with them the script."""
    for command in tuple(RUNNING):
        command.terminate()


def metrics(run: Path) -> list[dict[str, Any]]:
    """Returns the rows of a run's metrics; none if there is no such run."""
    path = run / "metrics.jsonl"
    return read_metrics(path) if path.exists() else []


def epochs_of(run: Path) -> int:
    """Returns the number of epochs that a run has completed."""
    return len(epoch_rows(metrics(run)))


def evaluations(run: Path, samples: int) -> list[Path]:
    """Returns the files of a run's evaluations."""
    return sorted((run / "evaluations").glob(f"test-k{samples}-step-*.json"))


def markdown(table: Table, runs: Path) -> Iterator[str]:
    """Yields the lines of the table; rows without an evaluated run have empty cells."""
    columns = [COLUMNS[name] for name in table.columns]
    headings = [column.heading.format(K=table.samples, half=table.samples // 2) for column in columns]
    last = [table.published] if table.published else []
    yield line(["model", "seeds", *headings, *last])
    yield "|---" * (2 + len(headings) + len(last)) + "|"
    for row in table.rows:
        folders = [runs / Trial(row, seed).name for seed in row.seeds or table.seeds]
        done = [(evaluations(folder, table.samples), metrics(folder)) for folder in folders]
        found = [(json.loads(files[-1].read_text()), rows) for files, rows in done if files]
        cells = [spread([column.value(*each) for each in found], column.digits) for column in columns]
        yield line([row.name, str(len(found)), *cells, *([row.published] if table.published else [])])


def line(cells: Sequence[str]) -> str:
    """Returns a line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def spread(values: Sequence[float | None], digits: int) -> str:
    """Returns mean and standard deviation as text; nothing if a value is missing."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return ""
    mean = f"{statistics.mean(known):,.{digits}f}"
    return mean if len(set(known)) == 1 else f"{mean} ± {statistics.stdev(known):.{digits}f}"


if __name__ == "__main__":
    main()
