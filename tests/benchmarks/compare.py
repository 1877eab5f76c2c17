"""Images per second of `vaedist train` and of loops in other frameworks, alternated.

    python tests/benchmarks/compare.py [--model mlp] [--batch 32 256] [--rounds 5] [--images 6400] [--out FOLDER]
        [--peer torch=PYTHON] [--peer jax=PYTHON]

The model is the default one, an MLP of the sizes of jobs/cifar10-iaf.toml, or with `--model resnet` the ResNet VAE of 1
level of 2 blocks, with Adamax, a moving average of the weights, and free bits.

The loops are in peers/, NAME_loop.py for the MLP and NAME_resnet.py for the ResNet VAE. Those in TensorFlow and Keras,
for the MLP only, run in this environment. Those in PyTorch (`pip install torch numpy`; it also needs a C++ compiler)
and JAX (`pip install jax optax`) need separate environments, whose Python interpreters are given by --peer.

In each round, every loop runs once, in a separate process, on the same crops of photographs. A loop makes three passes;
the first one compiles and is discarded. The run of vaedist is one epoch of three times as many images, whose first
third is discarded, so that it writes no checkpoint during the measurement, as the other loops write none (`epoch.py`
measures their cost). Prints the medians, and the speedup of vaedist, computed by round. --out writes compare.png, or
compare-resnet.png.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from vaedist.config import Experiment
from vaedist.data.manifest import load_manifest
from vaedist.data.prepare import prepare
from vaedist.data.shards import open_split
from vaedist.data.sources import photos
from vaedist.monitor.metrics import read_metrics
from vaedist.runs.folder import RunFolder

PEERS = Path(__file__).parent / "peers"
SCRIPTS = {"mlp": "loop", "resnet": "resnet"}  # NAME_loop.py, NAME_resnet.py
HERE = {"mlp": ("tensorflow", "keras"), "resnet": ()}  # loops that run in this environment
SETTINGS = {
    "mlp": {},
    "resnet": {
        "model": {"type": "resnet", "levels": 1, "blocks": 2, "width": 32, "latent": 16},
        "training": {"optimizer": "adamax", "learning_rate": 2e-3, "ema_decay": 0.999},
        "objective": {"free_bits": 0.25},
    },
}
PASSES = 3
OURS = "vaedist"
CALL = 64  # maximum number of steps per call; a pass has at least as many, so that it contains the first call


def train(experiment, first, place, number):
    """Returns the images per second of `vaedist train` over one epoch without its `first` steps, by its own metrics."""
    one = experiment.with_overrides(f"run.name=round-{number}", f"run.folder={place}")
    job = place / f"round-{number}.toml"
    job.write_text(one.to_toml())
    command = [sys.executable, "-m", "vaedist", "train", str(job)]
    subprocess.run(command, check=True, capture_output=True)
    rows = [row for row in read_metrics(RunFolder.of(one).metrics) if row["kind"] == "train" and row["step"] > first]
    return statistics.median(row["images_per_second"] for row in rows)


def peer(script, python, images, batch):
    """Returns the images per second of another loop, for all passes but the first."""
    command = [python, str(PEERS / script), str(images), str(batch), str(PASSES)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    passes = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert all(np.isfinite(one["loss"]) for one in passes)
    return statistics.median(one["images_per_second"] for one in passes[1:])


def compare(experiment, peers, steps, file, place, rounds):
    """Returns a list of rates for each loop, one per round, with `steps` steps in a pass; prints each rate."""
    batch, script = experiment.training.global_batch, SCRIPTS[experiment.model.type]
    rates = {OURS: [], **{name: [] for name in peers}}
    for number in range(rounds):
        rates[OURS].append(train(experiment, steps, place, number))
        for name, python in peers.items():
            rates[name].append(peer(f"{name}_{script}.py", python, file, batch))
        told = ", ".join(f"{name} {found[-1]:,.0f}" for name, found in rates.items())
        print(f"batch {batch}, round {number + 1}: {told}", flush=True)
    return rates


def show(batch, rates):
    """Returns a table."""
    print(f"\nbatch {batch:<12} images/s, median (least to most)    vaedist is faster by, median (least to most)")
    for name, found in rates.items():
        ratios = [ours / theirs for ours, theirs in zip(rates[OURS], found, strict=True)]
        rate = f"{statistics.median(found):,.0f} ({min(found):,.0f} to {max(found):,.0f})"
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"{name:18} {rate:38} {ratio if name != OURS else ''}")
    print()


def draw(results):
    """Plots the rates, a panel for each batch size: bars for medians, lines for ranges."""
    figure = Figure(figsize=(4.5 * len(results), 2.6), layout="constrained")
    for axes, (batch, rates) in zip(figure.subplots(1, len(results), squeeze=False)[0], results.items(), strict=True):
        medians = {name: statistics.median(found) for name, found in rates.items()}
        names = sorted(medians, key=medians.get)
        colours = ["#1f77b4" if name == OURS else "#b0b0b0" for name in names]
        axes.barh(names, [medians[name] for name in names], color=colours)
        for name in names:
            axes.plot([min(rates[name]), max(rates[name])], [name, name], color="black")
        axes.set_title(f"batch {batch}")
        axes.set_xlabel("images/s")
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def main():
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SCRIPTS, default="mlp")
    parser.add_argument("--batch", type=int, nargs="+", default=[32, 256])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=6400, help="number of images per pass")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON")
    options = parser.parse_args()
    peers = dict.fromkeys(HERE[options.model], sys.executable)
    peers |= dict(each.split("=", 1) for each in options.peer)
    results = {}
    with tempfile.TemporaryDirectory(prefix="compare") as name:
        place = Path(name)
        data = place / "data"
        prepare(photos(PASSES * options.images, 256), str(data))
        manifest = load_manifest(str(data))
        shards = open_split(str(data), manifest, "train", range(len(manifest.splits["train"].shards)))
        flat = np.concatenate([shard.images.reshape(len(shard.images), -1) for shard in shards])
        np.save(place / "images.npy", flat[: options.images])
        for batch in options.batch:
            steps = options.images // batch
            experiment = Experiment.from_dict(SETTINGS[options.model]).with_overrides(
                f"data.path={data}", f"training.global_batch={batch}", "training.epochs=1",
                f"training.steps_per_call={min(CALL, steps)}", f"monitor.log_every={max(1, steps // 4)}",
                "monitor.pictures_every=0", "checkpoint.every_steps=0",
            )  # fmt: skip
            folder = place / f"batch-{batch}"
            folder.mkdir()
            results[batch] = compare(experiment, peers, steps, place / "images.npy", folder, options.rounds)
            show(batch, results[batch])
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        name = "compare.png" if options.model == "mlp" else f"compare-{options.model}.png"
        draw(results).savefig(options.out / name, dpi=120)


if __name__ == "__main__":
    main()
