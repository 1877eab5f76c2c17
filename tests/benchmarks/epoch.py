"""Where the time of an epoch goes: the steps, and all that is beside them.

    python tests/benchmarks/epoch.py --data FOLDER [--epochs 6] [--batch 32] [--threads 2]

Trains a prepared data set with the sizes of jobs/cifar10-iaf.toml in this process, as a lone worker of `vaedist train`
does, with pictures after each epoch. The first epoch, which compiles, does not count. Prints the median over the others
of the seconds of each part, and its share of the epoch.

Checkpoints are written while training goes on, which slows its steps down. What they cost in this way is the time that
calls of the step during a write take more than their steps at the usual pace of the epoch, the median over the calls in
which nothing is written. That other calls are slower than usual is not the run's doing, and told by itself.
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
from vaedist.evaluation.test_pass import Evaluator
from vaedist.runs.async_checkpointer import AsyncCheckpointer
from vaedist.runs.folder import RunFolder
from vaedist.training.loop import Loop
from vaedist.training.run_logger import RunLogger
from vaedist.training.step import TrainStep
from vaedist.training.worker import Worker, train

PARTS = {
    "the steps": (TrainStep, "run"),
    "waiting for input": (Loop, "_next"),
    "test pass": (Evaluator, "run"),
    "begin of checkpoints, metrics to the disk": (Loop, "_save"),
    "pictures": (RunLogger, "pictures"),
    "statistics of the latents": (RunLogger, "latents"),
    "metrics of training": (RunLogger, "train"),
    "metrics of the test": (RunLogger, "epoch"),
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
    return f"{label:44} {median:8.3f} s ({min(seconds):.3f} to {max(seconds):.3f}) {median / whole:8.2%}"


def more_than_usual(calls, writes):
    """The seconds that calls took more than their steps at the usual pace: those during writes, and the others.

    Args:
        calls, writes: begin and end of each; of a call also its number of steps.
    """
    during = [any(begun < end and start < ended for start, end in writes) for begun, ended, _ in calls]
    usual = statistics.median((e - b) / n for (b, e, n), wrote in zip(calls, during, strict=True) if not wrote)
    sums = {True: 0.0, False: 0.0}
    for (begun, ended, steps), wrote in zip(calls, during, strict=True):
        sums[wrote] += ended - begun - steps * usual
    return sums[True], sums[False]


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
    spent, epochs, calls, slower, writes = defaultdict(float), [], [], [], []
    for owner, name in PARTS.values():
        timed(owner, name, spent)
    run, end, begin = TrainStep.run, Loop._end_epoch, AsyncCheckpointer.begin

    def noted(step, chunk, *arguments, **more):
        """A call of the step, noted with its begin, its end and its number of steps."""
        begun = time.perf_counter()
        result = run(step, chunk, *arguments, **more)
        calls.append((begun, time.perf_counter(), chunk.steps))
        return result

    def written(saver, write):
        """A checkpoint's writing, noted with its begin and its end."""

        def timed_write():
            place = [time.perf_counter(), float("inf")]
            writes.append(place)
            write()
            place[1] = time.perf_counter()

        begin(saver, timed_write)

    def ended(loop, **more):
        """The end of an epoch, noted with what its calls took more than usual: during writes, and the others."""
        means = end(loop, **more)
        slower.append(more_than_usual(calls, writes))
        epochs.append((time.perf_counter(), dict(spent)))
        calls.clear()
        return means

    TrainStep.run, Loop._end_epoch, AsyncCheckpointer.begin = noted, ended, written

    with tempfile.TemporaryDirectory(prefix="epoch") as folder:
        experiment = Experiment().with_overrides(
            "run.name=epoch", f"run.folder={folder}", f"data.path={options.data}", "monitor.pictures_every=1",
            f"training.global_batch={options.batch}", f"training.epochs={options.epochs}",
        )  # fmt: skip
        train(experiment, RunFolder.of(experiment), Worker(threads=options.threads))
    wholes = [after - before for (before, _), (after, _) in itertools.pairwise(epochs)]
    whole = statistics.median(wholes)
    print(f"an epoch: {whole:.2f} s, median of {len(wholes)} ({min(wholes):.2f} to {max(wholes):.2f})")
    rests, beside = np.array(wholes), np.zeros(len(wholes))
    for label, (owner, name) in PARTS.items():
        key = owner.__name__, name
        pairs = itertools.pairwise(epochs)
        seconds = np.array([after.get(key, 0.0) - before.get(key, 0.0) for (_, before), (_, after) in pairs])
        rests -= seconds
        print(told(label, seconds, whole))
        if label != "the steps":
            beside += seconds
    print(told("the rest", rests, whole))
    during, others = np.array(slower[1:]).T
    print(told("steps slowed down by a checkpoint's writing", during, whole))
    print(told("all that is beside the loop", beside + rests + during, whole))
    print(told("other steps slower than usual", others, whole))


if __name__ == "__main__":
    main()
