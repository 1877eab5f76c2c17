"""Plots the test curves of runs over minutes of training and over steps.

    python jobs/curves.py runs/cifar10-resnet-small runs/cifar10-resnet-small-gaussian --out curves.png

Curves are in bits/dim if all runs have them, else the ELBO in nats. With --train, they are of the ELBO, beside the mean
ELBO of each epoch's training steps as dashed lines. Runs that differ only in -seed-N at the end of their names share a
colour. Minutes are the sum of the steps' times in `metrics.jsonl`, without tests and breaks. Also prints the last score
before each time in --minutes as a table.
"""

import argparse
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from vaedist.monitor.metrics import EPOCH_KINDS, epoch_rows, read_metrics

HEIGHT = 4.2  # inches


class Curve(NamedTuple):
    """Scores of a run after each epoch."""

    name: str
    minutes: list[float]
    steps: list[int]
    scores: list[float]
    training: list[float]  # mean ELBO of each epoch's training steps, nan if unknown


def main() -> None:
    """Plots the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--out", type=Path, required=True, help="PNG to write")
    parser.add_argument("--train", action="store_true", help="also plot the ELBO of the training steps")
    parser.add_argument("--minutes", nargs="*", type=float, default=[20, 60, 120], help="times of the table's rows")
    args = parser.parse_args()
    found = [(run.name, read_metrics(run / "metrics.jsonl")) for run in args.runs]
    scored = [epoch_rows(rows) for _, rows in found]
    comparable = all("bits_per_dim" in row for rows in scored for row in rows)
    key = "bits_per_dim" if comparable and not args.train else "elbo"
    curves = [curve_of(name, rows, key) for name, rows in found]
    splits = " and ".join(sorted({row["kind"] for rows in scored for row in rows}))
    label = f"{splits} {'bits/dim' if key == 'bits_per_dim' else 'ELBO, nats'}"
    draw(curves, label, train=args.train).savefig(args.out, dpi=120)
    print(table(curves, args.minutes))


def curve_of(name: str, rows: list[dict[str, Any]], key: str) -> Curve:
    """Returns the curve of a run from the rows of its metrics."""
    curve, seconds, before, of_step = Curve(name, [], [], [], []), 0.0, 0, 0.0
    for row in sorted(rows, key=lambda row: row["step"]):
        of_step = row.get("step_seconds", of_step)  # that of the last rows, for steps after them
        seconds += (row["step"] - before) * of_step
        before = row["step"]
        if row["kind"] in EPOCH_KINDS and row[key] is not None:  # it diverged otherwise
            curve.minutes.append(seconds / 60)
            curve.steps.append(row["step"])
            curve.scores.append(row[key])
            curve.training.append(row.get("train_elbo", math.nan))
    return curve


def draw(curves: list[Curve], label: str, *, train: bool) -> Figure:
    """Plots scores over minutes on the left, and over steps on the right."""
    figure = Figure(figsize=(2.6 * HEIGHT, HEIGHT), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    left.set_xlabel("minutes of training")
    right.set_xlabel("steps")
    left.set_ylabel(label)
    colours = {model: f"C{number}" for number, model in enumerate(dict.fromkeys(map(model_of, curves)))}
    for curve in curves:
        colour = colours[model_of(curve)]
        left.plot(curve.minutes, curve.scores, ".-", color=colour)
        right.plot(curve.steps, curve.scores, ".-", color=colour)
    for model, colour in colours.items():
        right.plot([], [], ".-", color=colour, label=model)
    if train:
        bottom = left.get_ylim()[0]  # the first epochs of training are far below
        for curve in curves:
            colour = colours[model_of(curve)]
            left.plot(curve.minutes, curve.training, "--", color=colour)
            right.plot(curve.steps, curve.training, "--", color=colour)
        right.plot([], [], "--", color="grey", label="training")
        left.set_ylim(bottom=bottom)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    right.legend(frameon=False)
    return figure


def model_of(curve: Curve) -> str:
    """Returns the name without its seed."""
    return re.sub(r"-seed-\d+$", "", curve.name)


def table(curves: list[Curve], minutes: list[float]) -> str:
    """Returns the last score before each time, and the last of all, as Markdown."""
    lines = ["| minutes | " + " | ".join(curve.name for curve in curves) + " |", "|---" * (len(curves) + 1) + "|"]
    for limit in (*minutes, float("inf")):
        cells = []
        for curve in curves:
            reached = [number for number, minute in enumerate(curve.minutes) if minute <= limit]
            last = reached[-1] if reached else None
            cells.append("" if last is None else f"{curve.scores[last]:.3f} (step {curve.steps[last]:,})")
        lines.append(f"| {'end' if limit == float('inf') else f'{limit:g}'} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
