"""Time of the parts of an epoch: the steps, and everything else.

    python tests/benchmarks/epoch.py --data FOLDER [--epochs 6] [--batch 32] [--threads 2]

Trains on a prepared data set with the sizes of jobs/cifar10-iaf.toml in this process, as a single worker of `vaedist
train` does, with pictures after each epoch. The first epoch, which compiles, does not count. Prints the median of the
seconds of each part over the other epochs, and its share of the epoch.

Checkpoints are written while training continues, which slows down its steps. The cost is the additional time of calls
of the step during a write, compared with the usual pace of the epoch: the median over the calls without a write, or in
an epoch so short that all its calls overlap with a write, the pace of its fastest call. The additional time of other
calls is not caused by the run, and is printed separately.
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
    "starting checkpoints, flushing metrics": (Loop, "_save"),
    "pictures": (RunLogger, "pictures"),
    "latent statistics": (RunLogger, "latents"),
    "training metrics": (RunLogger, "train"),
    "test metrics": (RunLogger, "epoch"),
}


def timed(owner, name, spent):
    """Makes a method add its seconds to `spent`, under its name."""
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
    """Returns a line with the median, minimum and maximum of a part over the epochs, and its share of the whole."""
    median = statistics.median(seconds)
    return f"{label:44} {median:8.3f} s ({min(seconds):.3f} to {max(seconds):.3f}) {median / whole:8.2%}"


def more_than_usual(calls, writes):
    """Returns the additional seconds of calls compared with the usual pace: of those during writes, and of the others.

    Args:
        calls: begin, end and number of steps of each call.
        writes: begin and end of each write.
    """
    during = [any(begun < end and start < ended for start, end in writes) for begun, ended, _ in calls]
    paces = [(ended - begun) / steps for begun, ended, steps in calls]
    undisturbed = [pace for pace, wrote in zip(paces, during, strict=True) if not wrote]
    usual = statistics.median(undisturbed) if undisturbed else min(paces)
    sums = {True: 0.0, False: 0.0}
    for (begun, ended, steps), wrote in zip(calls, during, strict=True):
        sums[wrote] += ended - begun - steps * usual
    return sums[True], sums[False]


def main():
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    if options.epochs < 2:
        parser.error("--epochs: must be at least 2, as the first does not count")
    spent, epochs, calls, slower, writes = defaultdict(float), [], [], [], []
    for owner, name in PARTS.values():
        timed(owner, name, spent)
    run, end, begin = TrainStep.run, Loop._end_epoch, AsyncCheckpointer.begin

    def noted(step, chunk, *arguments, **more):
        """Calls the step, and records begin, end and number of steps."""
        begun = time.perf_counter()
        result = run(step, chunk, *arguments, **more)
        calls.append((begun, time.perf_counter(), chunk.steps))
        return result

    def written(saver, write):
        """Begins to write a checkpoint, and records begin and end."""

        def timed_write():
            place = [time.perf_counter(), float("inf")]
            writes.append(place)
            write()
            place[1] = time.perf_counter()

        begin(saver, timed_write)

    def ended(loop, **more):
        """Ends an epoch, and records the additional time of its calls."""
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
    print(told("slower steps during checkpoint writes", during, whole))
    print(told("everything but the steps", beside + rests + during, whole))
    print(told("other steps slower than usual", others, whole))


if __name__ == "__main__":
    main()
