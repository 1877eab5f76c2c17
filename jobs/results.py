"""Trains, evaluates and tabulates the results in the README: CIFAR-10 by flow depth, several seeds each.

    vaedist data prepare cifar10
    python jobs/results.py                  # trains and evaluates missing runs, and prints the table in Markdown

It can be stopped at any time, and resumes when it is started again. `--at-once 2` trains two runs at a time.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

JOB = Path(__file__).with_name("cifar10-iaf.toml")
VAEDIST = (sys.executable, "-m", "vaedist")
SEEDS = (0, 1, 2)
CASES = (
    *(("bernoulli", depth) for depth in (0, 1, 2, 3, 4, 8)),
    ("discretized_logistic", 0),
    ("discretized_logistic", 3),
)
SAMPLES = 128


@dataclass(frozen=True)
class Trial:
    """One run of the table."""

    likelihood: str
    depth: int
    seed: int

    @property
    def name(self) -> str:
        """Name of its run."""
        return f"{self.likelihood}-depth-{self.depth}-seed-{self.seed}"


def main() -> None:
    """Trains and evaluates all runs, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/results"), help="folder of the runs")
    parser.add_argument("--data", default="data/cifar10", help="folder of the prepared data set")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--at-once", type=int, default=1, help="runs to train at a time, each on its share of the CPUs")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="as in train")
    args = parser.parse_args()
    trials = [Trial(likelihood, depth, seed) for seed in SEEDS for likelihood, depth in CASES]
    with ThreadPoolExecutor(args.at_once) as pool:
        list(pool.map(lambda trial: train(trial, args), trials))
    for trial in trials:
        evaluate(trial, args)
    print(table(trials, args.runs))


def train(trial: Trial, args: argparse.Namespace) -> None:
    """Trains a trial, unless it is complete."""
    run = args.runs / trial.name
    if len(rows(run, "test", "validation")) >= args.epochs:
        return
    settings = {
        "seed": trial.seed,
        "data.path": args.data,
        "model.likelihood": trial.likelihood,
        "model.flow.depth": trial.depth,
        "training.epochs": args.epochs,
        "monitor.pictures_every": 0,
    }
    overrides = [f"{key}={value}" for key, value in settings.items()] + args.overrides
    command = ["train", str(JOB), "--runs", str(args.runs), "--name", trial.name, "--resume"]
    vaedist(*command, *(word for override in overrides for word in ("--set", override)))


def evaluate(trial: Trial, args: argparse.Namespace) -> None:
    """Evaluates a trial after its last epoch, unless its evaluation exists."""
    if not evaluations(args.runs / trial.name):
        run = str(args.runs / trial.name)
        vaedist("evaluate", run, "--checkpoint", "newest", "--samples", str(SAMPLES), "--data", args.data)


def vaedist(*words: str) -> None:
    """Runs a command of vaedist."""
    print("vaedist", *words, file=sys.stderr, flush=True)
    subprocess.run([*VAEDIST, *words], check=True, stdout=subprocess.DEVNULL)


def rows(run: Path, *kinds: str) -> list[dict[str, Any]]:
    """Returns the rows of a run's metrics of some kinds."""
    path = run / "metrics.jsonl"
    found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [row for row in found if row["kind"] in kinds]


def evaluations(run: Path) -> list[Path]:
    """Returns the files of a run's evaluations."""
    return sorted((run / "evaluations").glob(f"test-k{SAMPLES}-step-*.json"))


def table(trials: Sequence[Trial], runs: Path) -> str:
    """Returns a Markdown table of means and standard deviations over the seeds, on the test images."""
    lines = [
        "Test images; checkpoints after the last epoch, so that no split selects anything.",
        "",
        f"| likelihood | depth | VLB | log p >= L_{SAMPLES} | L_{SAMPLES} - L_{SAMPLES // 2} | effective samples | gap "
        "| bits/dim <= | active units | images per second |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for likelihood, depth in CASES:
        of_case = [trial for trial in trials if (trial.likelihood, trial.depth) == (likelihood, depth)]
        found = [json.loads(evaluations(runs / trial.name)[-1].read_text()) for trial in of_case]
        speeds = [
            statistics.median(row["images_per_second"] for row in rows(runs / trial.name, "train")) for trial in of_case
        ]
        bits, units = ([record[name] for record in found] for name in ("bits_per_dim", "active_units"))
        cells = (
            likelihood,
            str(depth),
            spread([record["bounds"]["1"]["mean"] for record in found], 1),
            spread([record["bounds"][str(SAMPLES)]["mean"] for record in found], 1),
            spread([record["rise"]["mean"] for record in found], 2),
            spread([record["effective_sample_size"]["mean"] for record in found], 1),
            spread([record["gap"]["mean"] for record in found], 1),
            spread([each[str(SAMPLES)]["mean"] for each in bits], 3) if all(bits) else "",
            "" if None in units else spread(units, 0),
            f"{statistics.median(speeds):,.0f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: Sequence[float], digits: int) -> str:
    """Returns mean and standard deviation as text."""
    return f"{statistics.mean(values):.{digits}f} +- {statistics.stdev(values):.{digits}f}"


if __name__ == "__main__":
    main()
