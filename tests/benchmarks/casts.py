"""Counts the casts in a training step in mixed precision, before XLA optimises it.

    python tests/benchmarks/casts.py [--jobs jobs/cifar10-iaf.toml ...]

For each job it compiles the gradient of the ELBO of a batch, and prints a row: casts of float32 to bfloat16 and of
bfloat16 to float32; values that are cast to float32 and, after operations that only move them, back to bfloat16; and
products and convolutions by type. Casts with which XLA computes the sums of an operation in float32 are counted, too.
"""

import argparse
import re
from pathlib import Path

import numpy as np
import tensorflow as tf

from vaedist.config import Experiment
from vaedist.devices.compilation import compiled
from vaedist.devices.strategy import configure_devices
from vaedist.evaluation.scoring import score
from vaedist.models.build import build_model
from vaedist.models.gradients import WeightGradients
from vaedist.objectives.elbo import bound

JOBS = Path(__file__).parents[2] / "jobs"
DEFAULT = [JOBS / f"{name}.toml" for name in ("cifar10-iaf", "mnist-conv", "cifar10-resnet-small")]
ROWS = 16
INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?(?P<name>\S+) = (?P<type>\(.*?\)|\S+) (?P<operation>[\w\-]+)\((?P<rest>.*)$")
MOVES = {"bitcast", "broadcast", "concatenate", "copy", "pad", "reshape", "reverse", "slice", "transpose"}
NARROW, WIDE = "bf16", "f32"


def gradient_hlo(job):
    """Returns the text of the gradient's HLO."""
    experiment = Experiment.from_file(job)
    shape = (28, 28, 1) if "mnist" in experiment.data.path else (32, 32, 3)
    model = build_model(experiment, shape, "mixed_bfloat16")
    rng = np.random.default_rng(0)
    images = tf.constant(rng.integers(0, 256, (ROWS, *shape)).astype(np.uint8))
    eps = {name: tf.constant(rng.normal(size=(ROWS, *size)), tf.float32) for name, size in model.noise.items()}
    u = tf.constant(rng.uniform(size=(ROWS, *shape)), tf.float32) if model.preprocessing.noisy else None
    model.initialise(images, eps, u)
    weights = [variable.value for variable in model.trainable_variables]

    def gradient(batch):
        def objective():
            return tf.reduce_mean(bound(score(model, batch, eps, u)).elbo), None

        return WeightGradients(model)(objective, weights)[0]

    return compiled(gradient).experimental_get_compiler_ir(images)(stage="hlo")


def count(hlo):
    """Returns the numbers of a row."""
    there = back = forth = 0
    products = {NARROW: 0, WIDE: 0}
    for computation in hlo.split("\n}\n"):
        found = {m["name"]: m for m in map(INSTRUCTION.match, computation.splitlines()) if m}

        def source(name, found=found):
            return re.search(r"%([\w.\-]+)", found[name]["rest"])[1]

        def cast(name, before, after, found=found):
            if name not in found or found[name]["operation"] != "convert" or source(name) not in found:
                return False
            return dtype(found[source(name)]) == before and dtype(found[name]) == after

        for name, instruction in found.items():
            if instruction["operation"] in {"dot", "convolution"}:
                products[dtype(instruction)] += 1
            there += cast(name, WIDE, NARROW)
            back += cast(name, NARROW, WIDE)
            if cast(name, WIDE, NARROW):
                origin = source(name)
                while origin in found and found[origin]["operation"] in MOVES:
                    origin = source(origin)
                forth += cast(origin, NARROW, WIDE)
    return [there, back, forth, *products.values()]


def dtype(instruction):
    """Returns the type of an instruction's elements."""
    return instruction["type"].partition("[")[0]


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=Path, nargs="+", default=DEFAULT)
    options = parser.parse_args()
    configure_devices(threads=1, gpus=0, logical_devices=1)
    headings = ["casts to bfloat16", "to float32", "to float32 and back", "products in bfloat16", "in float32"]
    print("\n".join([f"| job | {' | '.join(headings)} |", "|---" * (1 + len(headings)) + "|"]))
    for job in options.jobs:
        print(f"| `jobs/{job.name}` | {' | '.join(map(str, count(gradient_hlo(job))))} |", flush=True)


if __name__ == "__main__":
    main()
