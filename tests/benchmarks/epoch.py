"""Where the time of an epoch goes: the steps, and all that is beside them.

    python tests/benchmarks/epoch.py --data FOLDER [--epochs 6] [--batch 32] [--threads 2]

Trains a prepared data set with the sizes of jobs/cifar10-iaf.toml in this process, as a lone worker of `vaedist train`
does, with pictures after each epoch. The first epoch, which compiles, does not count. Prints the median over the others
of the seconds of each part, and its share of the epoch.

Checkpoints are written while training goes on, which slows its steps down. So all that is beside the loop is what the
epoch takes more than its steps at their usual pace, the median over its calls.
"""

import argparse
import functools
import itertools
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from vaedist.config import Experiment
from vaedist.training.evaluation import Evaluator
from vaedist.training.loop import Loop
from vaedist.training.recorder import Recorder
from vaedist.training.run_folder import RunFolder
from vaedist.training.step import TrainStep
from vaedist.training.worker import Worker, train

PARTS = {
    "the steps": (TrainStep, "run"),
    "waiting for input": (Loop, "_next"),
    "test pass": (Evaluator, "run"),
    "begin of checkpoints, metrics to the disk": (Loop, "_save"),
    "pictures": (Recorder, "pictures"),
    "statistics of the latents": (Recorder, "latents"),
    "metrics of training": (Recorder, "train"),
    "metrics of the test": (Recorder, "test"),
}


def timed(owner, name, spent):
    """Have a method add the seconds that it takes to `spent`, under its name."""
    method = getattr(owner, name)

    @functools.wraps(method)
    def measured(*args, **kwargs):
        begun = time.perf_counter()
        try:
            return method(*args, **kwargs)
        finally:
            spent[owner.__name__, name] += time.perf_counter() - begun

    setattr(owner, name, measured)


def told(label, seconds, whole):
    """The median of a part of each epoch, the least and the most, and its share of the whole."""
    median = statistics.median(seconds)
    return f"{label:42} {median:8.3f} s ({min(seconds):.3f} to {max(seconds):.3f}) {median / whole:8.2%}"


def main():
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    if options.epochs < 2:
        parser.error("--epochs: at least 2, the first of which does not count")
    spent, epochs, calls, paces = defaultdict(float), [], [], []
    for owner, name in PARTS.values():
        timed(owner, name, spent)
    run, end = TrainStep.run, Loop._end_epoch

    def paced(step, chunk, *arguments, **more):
        """A call, noted with its seconds a step."""
        begun = time.perf_counter()
        result = run(step, chunk, *arguments, **more)
        calls.append((time.perf_counter() - begun) / chunk.steps)
        return result

    def ended(loop, **more):
        """The end of an epoch, noted with its steps at their usual pace."""
        means = end(loop, **more)
        paces.append(statistics.median(calls) * loop.steps_per_epoch)
        epochs.append((time.perf_counter(), dict(spent)))
        calls.clear()
        return means

    TrainStep.run, Loop._end_epoch = paced, ended

    with tempfile.TemporaryDirectory(prefix="epoch") as folder:
        experiment = Experiment().with_overrides(
            "run.name=epoch", f"run.folder='{folder}'", f"data.path='{options.data}'", "monitor.pictures_every=1",
            f"training.global_batch={options.batch}", f"training.epochs={options.epochs}",
        )  # fmt: skip
        train(experiment, RunFolder.of(experiment), Worker(threads=options.threads))
    wholes = [after - before for (before, _), (after, _) in itertools.pairwise(epochs)]
    whole = statistics.median(wholes)
    print(f"an epoch: {whole:.2f} s, median of {len(wholes)} ({min(wholes):.2f} to {max(wholes):.2f})")
    rests = np.array(wholes)
    for label, (owner, name) in PARTS.items():
        key = owner.__name__, name
        pairs = itertools.pairwise(epochs)
        seconds = np.array([after.get(key, 0.0) - before.get(key, 0.0) for (_, before), (_, after) in pairs])
        rests -= seconds
        print(told(label, seconds, whole))
    print(told("the rest", rests, whole))
    print(told("all that is beside the loop", np.array(wholes) - paces[1:], whole))


if __name__ == "__main__":
    main()
