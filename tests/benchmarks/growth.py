"""Growth of the time and memory of training with rows, latents, flow depth and workers: plots and fitted exponents.

    python tests/benchmarks/growth.py --out FOLDER [--axis rows latent depth workers] [--rounds 5]

Every point is a training run in a separate process, on crops of photographs. Rows: epochs of a small VAE with batch
1024, until all rows are read. Latents and depth: otherwise the sizes of jobs/cifar10-iaf.toml, with batch 32. Workers:
the same job with batch 256, on a local Ray that is configured with four CPUs, regardless of the machine's number.
Writes growth.json, .png and .md.

Memory is the maximum private memory of the process. It excludes mapped files, whose pages the system can evict. An
exponent is the slope of log y over log x, by least squares; for depth, x is the number of steps plus one.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from vaedist.config import Experiment
from vaedist.data.prepare import prepare
from vaedist.data.sources import photos
from vaedist.errors import Interrupted
from vaedist.monitor.events import Progress

AXES = {
    "rows": (10_000, 30_000, 100_000, 300_000, 1_000_000),
    "latent": (64, 128, 256, 512, 1024, 2048),
    "depth": (0, 1, 2, 4, 8, 16),
    "workers": (1, 2, 4),
}
KEYS = {"latent": "model.latent", "depth": "model.flow.depth"}
TIME, MEMORY = "seconds", "bytes"
THREADS = 2


def experiment_of(axis, value, place):
    """Returns the experiment of a point."""
    base = [
        "run.name=point", f"run.folder={place / 'runs'}", f"data.path={place / 'data'}", "training.epochs=100000",
        "monitor.pictures_every=0", "checkpoint.every_steps=0",
    ]  # fmt: skip
    if axis == "rows":
        small = ["model.hidden=16", "model.latent=8", "model.flow.depth=1", "model.flow.width=16"]
        epochs = max(1, 330_000 // value)
        sizes = [*small, "training.global_batch=1024", "training.steps_per_call=8", f"training.epochs={epochs}"]
        sizes += ["monitor.log_every=8"]
        return Experiment().with_overrides(*base, *sizes)
    sizes = [f"{KEYS[axis]}={value}", "training.steps_per_call=8", "monitor.log_every=24"]
    return Experiment().with_overrides(*base, *sizes)


def own_memory():
    """Returns the bytes of this process's private memory, from Linux."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise OSError("no RssAnon")


def point(axis, value, place, rounds):
    """Trains at a point; prints seconds of a step or of the epoch, and bytes."""
    from vaedist.runs.folder import RunFolder
    from vaedist.training.worker import Worker, train

    experiment, rates, most = experiment_of(axis, value, place), [], [0]

    def watch():
        while True:
            most[0] = max(most[0], own_memory())
            time.sleep(0.05)

    def notify(event):
        if isinstance(event, Progress):
            rates.append(event.images_per_second)

    threading.Thread(target=watch, daemon=True).start()
    enough = (lambda: False) if axis == "rows" else (lambda: len(rates) > rounds)
    worker = Worker(threads=THREADS, notify=notify, should_stop=enough)
    begun = time.perf_counter()
    with contextlib.suppress(Interrupted):
        train(experiment, RunFolder.of(experiment), worker)
    images = value if axis == "rows" else experiment.training.global_batch
    seconds = images / statistics.median(rates[1:])  # the first call compiles
    print(json.dumps({TIME: seconds, MEMORY: most[0], "in all": time.perf_counter() - begun}))


def points(axis, rounds):
    """Measures an axis; returns a dictionary of lists."""
    found = {"x": [], TIME: [], MEMORY: []}
    with tempfile.TemporaryDirectory(prefix="growth") as name:
        if axis != "rows":
            prepare(photos(6400, 256), str(Path(name, "data")))
        for value in AXES[axis]:
            place = Path(name) if axis != "rows" else Path(name, str(value))
            if axis == "rows":
                prepare(photos(value, 256), str(place / "data"))
            command = [sys.executable, __file__, "--point", axis, str(value), str(place), "--rounds", str(rounds)]
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(done.stderr[-2000:])
            said = json.loads(done.stdout.splitlines()[-1])
            for key, kept in zip(("x", TIME, MEMORY), (value, said[TIME], said[MEMORY]), strict=True):
                found[key].append(kept)
            print(f"{axis} {value:>9,}: {said[TIME]:9.4f} s, {said[MEMORY] / 2**20:7.0f} MB", flush=True)
            subprocess.run(["rm", "-rf", str(place / "runs")], check=True)
    return found


def over_workers(rounds):
    """Measures the seconds per step of 256 images by number of workers, on a Ray that is configured with four CPUs."""
    from vaedist.launch.bench import bench
    from vaedist.launch.session import start_ray

    with tempfile.TemporaryDirectory(prefix="growth") as name:
        prepare(photos(12_800, 256), str(Path(name, "data")))
        experiment = Experiment().with_overrides(
            f"run.folder={name}/runs", f"data.path={name}/data", "training.global_batch=256",
            "training.steps_per_call=8",
        )  # fmt: skip
        start_ray(num_cpus=max(AXES["workers"]), log_to_driver=False)
        record = bench(experiment, workers=AXES["workers"], rounds=rounds, progress=print)
    seconds = [256 / measure.median for measure in record.scaling.values()]
    return {"x": list(record.scaling), TIME: seconds}


def exponent(x, y):
    """Returns the slope of log y over log x."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def told(axis, found):
    """Returns the exponents of an axis: from all points, and from the last three."""
    x = np.array(found["x"]) + (axis == "depth")
    return {
        what: (exponent(x, found[what]), exponent(x[-3:], found[what][-3:])) for what in (TIME, MEMORY) if what in found
    }


def draw(results):
    """Plots time above and memory below, with a column for each axis."""
    figure = Figure(figsize=(4 * len(results), 7), layout="constrained")
    grid = figure.subplots(2, len(results), squeeze=False)
    for column, (axis, found) in enumerate(results.items()):
        time = ("seconds an epoch", 1) if axis == "rows" else ("ms a step", 1e-3)
        for row, (what, (label, unit)) in enumerate(((TIME, time), (MEMORY, ("MB", 2**20)))):
            axes = grid[row][column]
            if what not in found:
                axes.axis("off")
                continue
            x = np.array(found["x"]) + (axis == "depth")
            axes.plot(x, np.array(found[what]) / unit, "o-", color="#1f77b4")
            whole, late = told(axis, found)[what]
            axes.set_title(f"slope {whole:.2f}, of the last three {late:.2f}", fontsize=10)
            axes.set_xscale("log", base=2 if axis != "rows" else 10)
            if what == TIME:
                axes.set_yscale("log")
                axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axes.yaxis.set_major_formatter("{x:g}")
            else:
                axes.set_ylim(0, 1.1 * max(found[what]) / unit)
            axes.set_xticks(x, [f"{value:,}" for value in found["x"]], rotation=45 if axis == "rows" else 0)
            axes.minorticks_off()
            axes.grid(alpha=0.3)
            axes.set_xlabel({"depth": "flow depth", "latent": "latents"}.get(axis, axis))
            axes.set_ylabel(label)
    return figure


def table(results):
    """Returns all numbers as Markdown."""
    lines = []
    for axis, found in results.items():
        of = "an epoch" if axis == "rows" else "a step"
        memory = MEMORY in found
        lines += [f"| {axis} | seconds {of} |" + (" MB |" if memory else ""), "|---|---|" + ("---|" if memory else "")]
        for number, x in enumerate(found["x"]):
            more = f" {found[MEMORY][number] / 2**20:,.0f} |" if memory else ""
            lines.append(f"| {x:,} | {found[TIME][number]:.4f} |{more}")
        slopes = [f" {whole:.2f} ({late:.2f}) |" for whole, late in told(axis, found).values()]
        lines += ["| slope (of the last three) |" + "".join(slopes), ""]
    return "\n".join(lines)


def main():
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--axis", nargs="+", choices=AXES, default=list(AXES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--point", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.point:
        axis, value, place = options.point
        point(axis, int(value), Path(place), options.rounds)
        return
    if options.out is None:
        parser.error("--out is missing")
    options.out.mkdir(parents=True, exist_ok=True)
    kept = options.out / "growth.json"
    results = json.loads(kept.read_text()) if kept.exists() else {}
    for axis in options.axis:
        results[axis] = over_workers(options.rounds) if axis == "workers" else points(axis, options.rounds)
        results = {axis: results[axis] for axis in AXES if axis in results}
        kept.write_text(json.dumps(results, indent=2) + "\n")
    draw(results).savefig(options.out / "growth.png", dpi=120)
    (options.out / "growth.md").write_text(table(results))
    print(table(results))


if __name__ == "__main__":
    main()
