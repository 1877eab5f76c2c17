"""Speed of evaluation with K samples per image, relative to the machine's rate of matrix products.

    python tests/benchmarks/evaluation.py [--samples 256] [--images 512] [--threads 2] [--rounds 5]

An untrained model with the sizes of jobs/cifar10-iaf.toml scores crops of photographs, as `vaedist evaluate` does in
one worker. Alternating with this, the same matrix products are computed alone, compiled in the same way. Prints the
median rates of both, and their ratio, computed by round.
"""

import argparse
import statistics
import tempfile

from vaedist.bench.hlo_cost import Dot, work_of
from vaedist.bench.machine import products_task
from vaedist.bench.record import GIGA
from vaedist.bench.tasks import Task, in_turn
from vaedist.config import Experiment
from vaedist.data.manifest import load_manifest
from vaedist.data.prepare import prepare
from vaedist.data.rows import SplitRows
from vaedist.data.sources import photos
from vaedist.devices.strategy import configure_devices
from vaedist.evaluation.importance import ImportanceEvaluator
from vaedist.models.build import build_model


def products_of(evaluator: ImportanceEvaluator) -> tuple[list[Dot], list[Dot]]:
    """Returns the matrix products of a block that run once, in the encoder, and those of each round."""
    together = evaluator.block * evaluator.at_once
    once, each = [], []
    for product in work_of(evaluator.program()).products:
        (each if together in (product.rows, product.columns) else once).append(product)
    return once, each


def main():
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if options.samples < 2:
        parser.error("--samples: at least 2, or the encoder's products cannot be told from those of each round")
    configure_devices(options.threads, 0, 1)
    with tempfile.TemporaryDirectory(prefix="evaluation") as data:
        prepare(photos(256, options.images), f"{data}/data")
        manifest = load_manifest(f"{data}/data")
        model = build_model(Experiment(), manifest.shape)
        rows = SplitRows(f"{data}/data", manifest, "test")
        evaluator = ImportanceEvaluator(model, rows, samples=options.samples, seed=0)
        once, each = products_of(evaluator)
        flops = sum(one.flops for one in once) + evaluator.rounds * sum(one.flops for one in each)
        tasks = {
            "evaluation": Task(lambda: list(evaluator.scores()), evaluator.blocks * flops / GIGA, "GFLOP/s"),
            "products": products_task(each),
        }
        measures = in_turn(tasks, options.rounds)
    print(f"{options.images} images, {options.samples} samples of z each, {options.threads} threads: "
          f"{evaluator.blocks} blocks of {evaluator.block} images, {evaluator.at_once} samples at once")  # fmt: skip
    for name, measure in measures.items():
        least, most = min(measure.samples), max(measure.samples)
        print(f"{name:12} {measure.median:6.1f} {measure.unit} ({least:.1f} to {most:.1f})")
    shares = [a / b for a, b in zip(measures["evaluation"].samples, measures["products"].samples, strict=True)]
    print(f"share        {statistics.median(shares):6.2f} ({min(shares):.2f} to {max(shares):.2f})")


if __name__ == "__main__":
    main()
