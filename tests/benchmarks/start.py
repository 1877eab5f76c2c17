"""Seconds from the command to the first training step, alternated with a minimal script for Ray Train and TensorFlow.

    python tests/benchmarks/start.py [--rounds 5] [--workers 1]

The minimal script starts a local Ray, and a Ray Train job whose worker imports TensorFlow and multiplies two matrices.
`vaedist train` trains with the sizes of jobs/cifar10-iaf.toml on crops of photographs, with one step per call, until
the first step is in the metrics: once with an empty cache, and once with the compiled programs of an earlier run.
`vaedist --help` is measured, too. Prints medians, and ratios, computed by round.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from vaedist.config import Experiment
from vaedist.data.prepare import prepare
from vaedist.data.sources import photos
from vaedist.devices.compile_cache import LIMIT
from vaedist.runs.folder import RunFolder

BARE = """
import sys
import ray
from ray.train import RunConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

place = sys.argv[1]

def work():
    import tensorflow as tf
    with open(place, "w") as file:
        file.write(str(tf.matmul(tf.ones((500, 500)), tf.ones((500, 500))).numpy()[0, 0]))

ray.init(include_dashboard=False, log_to_driver=False)
scaling = ScalingConfig(num_workers=int(sys.argv[2]), resources_per_worker={"CPU": 1})
DataParallelTrainer(work, scaling_config=scaling, run_config=RunConfig(storage_path=sys.argv[3])).fit()
"""


def until(path, command, **variables):
    """Returns the seconds from a command's start until a file is not empty; waits for the end of the command."""
    begun = time.perf_counter()
    with (
        tempfile.TemporaryFile("w+") as said,
        subprocess.Popen(command, env=os.environ | variables, stdout=subprocess.DEVNULL, stderr=said) as process,
    ):
        while not (path.exists() and path.stat().st_size):
            if process.poll() is not None:
                said.seek(0)
                raise RuntimeError(said.read()[-2000:])
            time.sleep(0.005)
        return time.perf_counter() - begun


def bare(place, number, workers):
    """Returns the seconds of the script."""
    done = place / f"bare-{number}"
    return until(done, [sys.executable, "-c", BARE, str(done), str(workers), str(place / "ray")])


def ours(experiment, number, **variables):
    """Returns the seconds of `vaedist train`."""
    one = experiment.with_overrides(f"run.name=round-{number}")
    job = Path(one.run.folder) / f"round-{number}.toml"
    job.parent.mkdir(exist_ok=True)
    job.write_text(one.to_toml())
    return until(RunFolder.of(one).metrics, [sys.executable, "-m", "vaedist", "train", str(job)], **variables)


def help_seconds():
    """Returns the seconds of `vaedist --help`."""
    begun = time.perf_counter()
    subprocess.run([Path(sys.executable).with_name("vaedist"), "--help"], check=True, capture_output=True)
    return time.perf_counter() - begun


def told(values, digits=1):
    """Returns the median, minimum and maximum as text."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def main():
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    times = {"bare": [], "first": [], "again": [], "help": []}
    with tempfile.TemporaryDirectory(prefix="start") as name:
        place = Path(name)
        prepare(photos(3200, 256), str(place / "data"))
        experiment = Experiment().with_overrides(
            f"data.path={place / 'data'}", f"run.folder={place / 'runs'}", "training.epochs=1",
            f"scaling.workers={options.workers}", "training.steps_per_call=1", "monitor.log_every=1",
            "monitor.pictures_every=0",
        )  # fmt: skip
        cache = {"VAEDIST_CACHE": str(place / "cache")}
        ours(experiment, "warm", **cache)
        for number in range(options.rounds):
            times["bare"].append(bare(place, number, options.workers))
            times["first"].append(ours(experiment, f"{number}-first", **cache, **{LIMIT: "0"}))
            times["again"].append(ours(experiment, f"{number}-again", **cache))
            times["help"] += [help_seconds() for _ in range(3)]
            print(f"round {number + 1}: " + ", ".join(f"{key} {found[-1]:.2f} s" for key, found in times.items()))
    print(f"\nseconds, median (least to most), {options.workers} workers")
    print(f"Ray Train and two matrices      {told(times['bare'])}")
    for key, label in (("first", "vaedist train, the first time"), ("again", "vaedist train, programs kept")):
        ratios = [mine / least for mine, least in zip(times[key], times["bare"], strict=True)]
        print(f"{label:31} {told(times[key])}   times the above: {told(ratios, 2)}")
    print(f"vaedist --help                  {told(times['help'], 2)}")


if __name__ == "__main__":
    main()
