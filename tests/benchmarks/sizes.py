"""Growth of the time of a training step with the sizes of a model, relative to its floating-point operations.

    python tests/benchmarks/sizes.py JOB --axis model.width=32,48,64 --axis model.blocks=1,2,4 --out FOLDER
        [--set KEY=VALUE ...] [--threads 2] [--rounds 5]

Varies one key of a job at a time, and measures each value in a separate process, as `vaedist bench` does: the step, in
turn with its matrix products alone, where a convolution counts as the product of the image's patches with the kernel.
Prints operations per image, medians of images per second and of the share of the rate of the products, and by how much
the time grew relative to the operations since the first value. Writes sizes.json and sizes.png.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from matplotlib.figure import Figure

from vaedist.bench.record import GIGA, Record
from vaedist.config import Experiment


def point(job, overrides, threads, rounds):
    """Measures a job in this process; prints the record."""
    from vaedist.bench.single import measure

    print(measure(Experiment.from_file(job).with_overrides(*overrides), threads=threads, rounds=rounds).to_json())


def measured(options, key, value):
    """Returns the record of one value of a key, measured in another process."""
    command = [sys.executable, __file__, options.job, "--point", "--threads", str(options.threads)]
    command += ["--rounds", str(options.rounds)]
    for override in (*options.set, f"{key}={value}"):
        command += ["--set", override]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return Record.from_json(done.stdout[done.stdout.index("{") :])


def row(record, first):
    """Returns the numbers of a record, with the growth of its time and operations since the record `first`."""
    seconds, before = record.seconds_a_step, first.seconds_a_step
    flops, images = record.counts["flops a step"], record.counts["images a step"]
    grown = flops / first.counts["flops a step"]
    return {
        "MFLOP an image": flops / images / 1e6,
        "images/s": images / seconds["step"],
        "GFLOP/s": flops / seconds["step"] / GIGA,
        "share of products": seconds["products"] / seconds["step"],
        "time": seconds["step"] / before["step"],
        "operations": grown,
        "time / operations": seconds["step"] / before["step"] / grown,
    }


def draw(results):
    """Plots the time of a step over its operations, both relative to the first value, for each axis."""
    figure = Figure(figsize=(4 * len(results), 4), layout="constrained")
    for axes, (key, found) in zip(figure.subplots(1, len(results), squeeze=False)[0], results.items(), strict=True):
        operations = [each["operations"] for each in found.values()]
        axes.plot(operations, operations, color="0.6", label="as the operations")
        axes.plot(operations, [each["time"] for each in found.values()], "o-", color="#1f77b4", label="measured")
        for value, each in found.items():
            axes.annotate(value, (each["operations"], each["time"]), xytext=(5, -12), textcoords="offset points")
        axes.set_xlabel("operations, relative")
        axes.set_ylabel("time per step, relative")
        axes.set_title(key, fontsize=10)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8)
    return figure


def main():
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job")
    parser.add_argument("--axis", action="append", default=[], metavar="KEY=VALUES")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--point", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.point:
        point(options.job, options.set, options.threads, options.rounds)
        return
    if options.out is None or not options.axis:
        parser.error("--axis and --out are needed")
    options.out.mkdir(parents=True, exist_ok=True)
    results = {}
    for axis in options.axis:
        key, _, values = axis.partition("=")
        records = {value: measured(options, key, value) for value in values.split(",")}
        first = next(iter(records.values()))
        results[key] = {value: row(record, first) for value, record in records.items()}
        names = list(next(iter(results[key].values())))
        print(f"| {key} |", " | ".join(names), "|")
        print("|---" * (len(names) + 1) + "|")
        for value, found in results[key].items():
            print(f"| {value} |", " | ".join(f"{number:,.2f}" for number in found.values()), "|", flush=True)
    (options.out / "sizes.json").write_text(json.dumps(results, indent=2) + "\n")
    draw(results).savefig(options.out / "sizes.png", dpi=120)


if __name__ == "__main__":
    main()
