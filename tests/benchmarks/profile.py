"""Time of the parts of a training step, from a profile of the compiled program.

    python tests/benchmarks/profile.py [--batch 32 256] [--threads 2] [--calls 20]

Trains with the sizes of jobs/cifar10-iaf.toml on random images in this process, in calls of 8 steps, while TensorFlow's
profiler records begin and end of each instruction. Prints the milliseconds per step of each kind of instruction, and
their share. Time at which several instructions run is divided equally among them. (Most instructions use all threads,
but the profiler records only the thread that waits for the others.) The remaining time is not recorded: matrix products
that continue in another thread while no thread waits for them, gaps between instructions, and time outside the program,
in Python and TensorFlow.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from vaedist.config import Experiment
from vaedist.data.lane_reader import LaneReader
from vaedist.data.lanes import LanePlan

STEPS = 8  # steps per call
INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%([\w.\-]+) = (?:\(.*?\)|\S+) ([\w\-]+)\(")
NAME = re.compile(r"op_name=\"([^\"]*)\"")
LABELS = {
    "optimizer": "optimizer",
    "noise": "noise",
    "norm": "norm of the gradient",
}
HOLDING = {"while", "call", "conditional"}  # other instructions, which are counted
PRODUCTS, OTHER = "matrix products", "activations, flow, likelihood"
NOT_NOTED, OUTSIDE = "not noted: between instructions", "outside the program: Python and TensorFlow"
PICO = 1e12


def kinds(program):
    """Returns the kind of each instruction of a program that takes time, by name."""
    found = {}
    for line in program.splitlines():
        match, named = INSTRUCTION.match(line), NAME.search(line)
        if not match or match[2] in HOLDING:
            continue
        scopes = {re.sub(r"_\d+$", "", scope) for scope in named[1].split("/")} if named else set()
        scoped = [label for scope, label in LABELS.items() if scope in scopes]
        found[match[1]] = PRODUCTS if match[2] == "dot" else scoped[0] if scoped else OTHER
    return found


def spent(folder, of):
    """Returns the seconds of each kind of instruction, and of all programs, from a profile."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    (file,) = Path(folder).glob("**/*.xplane.pb")
    space = xplane_pb2.XSpace.FromString(file.read_bytes())
    turns, inside = [], 0
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                name = plane.event_metadata[event.metadata_id].name
                begin = 1000 * line.timestamp_ns + event.offset_ps
                if name in of:
                    turns += [(begin, 1, of[name]), (begin + event.duration_ps, -1, of[name])]
                inside += event.duration_ps if name == "CpuExecutable::ExecuteAsyncOnStream" else 0
    busy, under_way, before = Counter(), Counter(), 0
    for moment, change, kind in sorted(turns):
        if at_once := under_way.total():
            for each, number in under_way.items():
                busy[each] += (moment - before) / PICO * number / at_once
        under_way[kind] += change
        before = moment
    return busy, inside / PICO


def profile(batch, threads, calls):
    """Profiles a batch size, and prints a table."""
    import tensorflow as tf

    from vaedist.devices.strategy import configure_devices, make_strategy
    from vaedist.models.build import build_model
    from vaedist.training.build import build_step

    configure_devices(threads, 0, 1)
    strategy = make_strategy(1)
    experiment = Experiment().with_overrides(f"training.steps_per_call={STEPS}", f"training.global_batch={batch}")
    with strategy.scope():
        model = build_model(experiment, (32, 32, 3))
    step = build_step(experiment, model, strategy, steps_per_epoch=1000, global_batch=batch)
    images = np.random.default_rng(0).integers(0, 256, (batch * STEPS, 32, 32, 3), dtype=np.uint8)
    chunk = LaneReader(LanePlan(len(images), 8, batch), [images[lane::8] for lane in range(8)], seed=0).read(
        0, 0, STEPS, STEPS
    )
    of = kinds(step.program(chunk))
    for call in range(5):
        step.run(chunk, call * STEPS)
    with tempfile.TemporaryDirectory(prefix="profile") as folder:
        tf.profiler.experimental.start(folder)
        begun = time.perf_counter()
        for call in range(5, 5 + calls):
            step.run(chunk, call * STEPS)
        wall = time.perf_counter() - begun
        tf.profiler.experimental.stop()
        busy, inside = spent(folder, of)
    steps = calls * STEPS
    rate = batch * steps / wall
    print(f"\nbatch {batch}: {1e3 * wall / steps:.2f} ms a step under the profiler, {rate:,.0f} images/s")
    print("| kind | ms a step | share |\n|---|---|---|")
    rows = {label: busy.get(label, 0.0) for label in (PRODUCTS, *LABELS.values(), OTHER)}
    rows[NOT_NOTED] = inside - sum(rows.values())
    rows[OUTSIDE] = wall - inside
    for label, seconds in rows.items():
        print(f"| {label} | {1e3 * seconds / steps:.2f} | {seconds / wall:.1%} |")


def main():
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[32, 256])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--calls", type=int, default=20)
    options = parser.parse_args()
    if len(options.batch) > 1:  # each in a separate process
        for batch in options.batch:
            rest = ["--threads", str(options.threads), "--calls", str(options.calls)]
            subprocess.run([sys.executable, __file__, "--batch", str(batch), *rest], check=True)
        return
    profile(options.batch[0], options.threads, options.calls)


if __name__ == "__main__":
    main()
