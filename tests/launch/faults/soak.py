"""A run that is disturbed for an hour, compared with an undisturbed one: ELBO, memory, and leftover files.

    python tests/launch/faults/soak.py [--minutes 60] [--every 120] [--seed 0] [--out FOLDER]

Trains a small VAE by `vaedist train` with two workers, on a Ray cluster on this machine, which has a head and three
nodes with one CPU each. At intervals, a fault occurs, in random order and each kind equally often: a worker is killed
or stopped by a signal; a node dies or is preempted after a notice, and joins again; the command is killed or
interrupted, and is resumed; the newest checkpoint is damaged. Then the same run is trained
undisturbed, and both are compared.

Prints each fault with its recovery time, then a table. The exit code is 1 if an expectation is not met. Requires Linux,
for the addresses of the nodes.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from unittest import mock

import numpy as np
import psutil

sys.path.append(str(Path(__file__).parents[2]))

from command import start
from nodes import FIRST, HEAD, SECOND, THIRD, started

from vaedist.config import Experiment
from vaedist.data.prepare import prepare
from vaedist.data.sources import photos
from vaedist.monitor.metrics import read_metrics
from vaedist.runs.checkpoint_store import CheckpointStore
from vaedist.runs.folder import RunFolder

ROWS = 16_000
STEPS = 1000  # steps per epoch
PATIENCE = 400.0  # timeout in seconds for a run to continue
# Ray's log monitor keeps logs of ended processes open until it reaches this number; the default is 200.
OPEN_LOGS = {"RAY_LOG_MONITOR_MAX_OPEN_FILES": "20"}
TEMPORARY = ("vaedist", "ray", "tf", "tmp", "__autograph")


class Soak:
    """The run under test, and its faults.

    Args:
        experiment: the run.
        nodes: nodes of the Ray cluster, which are started here.
        folder: folder for the job's file and the command's output.
        rng: selects faults and their victims.
    """

    def __init__(self, experiment, nodes, folder, rng):
        self.experiment, self.nodes, self.folder, self.rng = experiment, nodes, folder, rng
        self.run = RunFolder.of(experiment)
        self.job = folder / "soak.toml"
        self.job.write_text(experiment.to_toml())
        self.present = [FIRST, SECOND, THIRD]
        nodes.start(HEAD, cpus=0)
        self.wait("the head", lambda: nodes.joined(HEAD))
        for node in self.present:
            nodes.start(node, cpus=1)
        self.wait("the nodes", lambda: all(nodes.joined(node) for node in self.present))
        self.command = None
        self.begin()

    def begin(self, *options):
        """Starts the command."""
        with (self.folder / "said.log").open("a") as log:
            self.command = start("train", self.job, "--address", self.nodes.address, *options, log=log)
        self.nodes.started["command"] = self.command

    def wait(self, what, condition):
        """Waits until a condition holds."""
        end = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(f"{what}: not within {PATIENCE:.0f} s")
            time.sleep(0.2)

    @property
    def step(self):
        """Returns the newest step in the last lines of the metrics."""
        if not self.run.metrics.exists():
            return 0
        with self.run.metrics.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
            whole = file.read().splitlines()[1:-1]  # the first and the last may be cut off
        return json.loads(whole[-1])["step"] if whole else 0

    @property
    def ended(self):
        """Returns True if the command has ended."""
        return self.command.poll() is not None

    def workers(self):
        """Returns the processes of the training workers by ID."""
        found = {}
        for node in self.present:
            for pid in self.nodes.processes(node):
                with contextlib.suppress(psutil.Error):
                    process = psutil.Process(pid)
                    if "RayTrainWorker" in " ".join(process.cmdline()):
                        found[pid] = process
        return found

    def victim(self):
        """Returns one of the workers."""
        return self.rng.choice([process for _, process in sorted(self.workers().items())])

    def recover(self, before):
        """Waits until new workers, other than `before`, have made progress, or the command has ended."""
        self.wait("other workers", lambda: self.ended or (self.workers() and self.workers().keys().isdisjoint(before)))
        at = self.step
        self.wait("the next step", lambda: self.ended or self.step > at)

    def finished(self, code):
        """Waits for the command to end with this exit code."""
        self.command.wait(timeout=None if code == 0 else PATIENCE)
        if self.command.returncode != code:
            said = (self.folder / "said.log").read_text()
            raise AssertionError(f"exit code {self.command.returncode}, not {code}: {said[-2000:]}")

    # The faults. Each returns once it has occurred; the run must then continue.

    def worker_killed(self):
        """kill -9 of a worker."""
        self.victim().kill()

    def worker_stopped(self):
        """SIGSTOP of a worker."""
        self.victim().send_signal(signal.SIGSTOP)

    def node_killed(self):
        """A node with a worker dies, and joins again."""
        self._replace(self._node())

    def node_drained(self):
        """A node with a worker is preempted after a notice of 20 s, and joins again."""
        node = self._node()
        self.nodes.drain(node, 20)
        time.sleep(20)
        self._replace(node)

    def _node(self):
        def hosts():
            workers = self.workers().keys()
            return [node for node in self.present if workers & set(self.nodes.processes(node))]

        self.wait("a node with a worker", hosts)
        return self.rng.choice(hosts() or self.present)

    def _replace(self, node):
        self.nodes.kill(node)
        self.nodes.start(node, cpus=1)
        self.wait("the node", lambda: self.nodes.joined(node))

    def command_killed(self):
        """kill -9 of the command; --resume."""
        self.command.kill()
        self.command.wait()
        self.begin("--resume")

    def command_interrupted(self):
        """Ctrl-C; --resume."""
        self.command.send_signal(signal.SIGINT)
        self.finished(130)
        self.begin("--resume")

    def checkpoint_damaged(self):
        """A byte of the newest checkpoint is flipped, and a worker is killed."""
        newest = CheckpointStore(self.run).committed()[0] / "weights.safetensors"
        with contextlib.suppress(FileNotFoundError), newest.open("r+b") as file:  # it has been removed
            file.seek(-1, os.SEEK_END)
            byte = file.read(1)
            file.seek(-1, os.SEEK_END)
            file.write(bytes([byte[0] ^ 1]))
        self.worker_killed()


FAULTS = (
    Soak.worker_killed, Soak.worker_stopped, Soak.node_killed, Soak.node_drained, Soak.command_killed,
    Soak.command_interrupted, Soak.checkpoint_damaged,
)  # fmt: skip


def memory(pids):
    """Returns the MB that processes use together; each counts its share of a shared page."""
    total = 0
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            total += psutil.Process(pid).memory_full_info().pss
    return total / 2**20


def by_name(pids):
    """Returns the MB that processes use, see `memory`, by their names."""
    found = Counter()
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            line = psutil.Process(pid).cmdline()
            found[" ".join(Path(word).name for word in line[:3] if not word.startswith("-"))[:60]] += memory([pid])
    return found


def handles(pids):
    """Returns the number of open files and sockets of processes."""
    count = 0
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            count += psutil.Process(pid).num_fds()
    return count


def temporary():
    """Returns the contents of the temporary folder that the run may have left, without Ray's logs."""
    found = (path.name for path in Path(tempfile.gettempdir()).iterdir())
    return {name for name in found if name.startswith(TEMPORARY) and name != "ray"}


def make_experiment(folder, epochs):
    """Returns a run of two workers and a small VAE, on crops of photographs."""
    prepare(photos(ROWS, 1000), str(folder / "data"), shards=8)
    return Experiment.from_dict(
        {
            "run": {"name": "soak", "folder": str(folder / "runs")},
            "data": {"path": str(folder / "data")},
            "model": {"hidden": 128, "latent": 32, "flow": {"depth": 2, "width": 128}},
            "training": {"epochs": epochs, "global_batch": ROWS // STEPS, "learning_rate": 3e-4, "steps_per_call": 8},
            "scaling": {"workers": [1, 2], "cpus_per_worker": 1, "max_failures": 1000, "resize_seconds": 10},
            "checkpoint": {"every_steps": 200},
            "monitor": {"log_every": 10, "pictures_every": 0},
        }
    )


def disturb(soak, minutes, every, rng):
    """Disturbs the run by a fault at regular intervals until it ends; prints each fault.

    Returns:
        the count of each fault, the longest recovery in seconds, and a sample of the head before each fault, after the
        processes that the previous one ended are gone.
    """
    begun, counts, longest, samples, kinds = time.monotonic(), Counter(), 0.0, [], []
    soak.wait("the first steps", lambda: soak.step >= 20)
    due = time.monotonic()
    while not soak.ended and time.monotonic() - begun < 60 * minutes:
        due = max(due, time.monotonic()) + every * rng.uniform(0.5, 1.5)
        time.sleep(due - time.monotonic())
        soak.wait("workers", lambda: soak.ended or soak.workers())
        if soak.ended:
            break
        head = soak.nodes.processes(HEAD)
        samples.append((time.monotonic() - begun, memory(head), handles(head)))
        kinds = kinds or rng.sample(FAULTS, len(FAULTS))
        fault, at, before, at_time = kinds.pop(), soak.step, soak.workers(), time.monotonic()
        fault(soak)
        soak.recover(before)
        took = time.monotonic() - at_time
        counts[fault.__doc__] += 1
        longest = max(longest, took)
        print(
            f"{samples[-1][0] / 60:6.1f} min  step {at:7d}  head {samples[-1][1]:5.0f} MB, {samples[-1][2]} handles  "
            f"recovered in {took:5.1f} s  {fault.__doc__}", flush=True,
        )  # fmt: skip
    soak.finished(0)
    return counts, longest, np.array(samples)


def run_undisturbed(out):
    """Runs calm.toml; returns samples of the memory of all its processes, and of each by name."""
    with (out / "said.log").open("a") as log:
        command = start("train", out / "calm.toml", log=log)
    begun, samples, parts = time.monotonic(), [], []
    while command.poll() is None:
        with contextlib.suppress(psutil.Error):
            pids = [command.pid, *(child.pid for child in psutil.Process(command.pid).children(recursive=True))]
            parts.append(by_name(pids))
            samples.append((time.monotonic() - begun, parts[-1].total(), handles(pids)))
        time.sleep(5)
    assert command.returncode == 0, "the undisturbed run failed"
    return np.array(samples), parts


def slope(samples, column):
    """Returns the growth of a column per hour, and from the first to the last sample at this rate.

    The samples of the first quarter and of the last eighth are not used. The slope is the median of the slopes between
    any two samples (Theil and Sen), because there are outliers: Ray sometimes places an actor of a run, of 110 MB, on
    the head.
    """
    late = samples[len(samples) // 4 : -max(1, len(samples) // 8)]
    if len(late) < 3:
        return 0.0, 0.0
    first, second = np.triu_indices(len(late), 1)
    rise = late[second] - late[first]
    hourly = 3600 * float(np.median(rise[:, column] / rise[:, 0]))
    return hourly, hourly * (late[-1, 0] - late[0, 0]) / 3600


def rows_of(run):
    """Returns the kind and step of each row of metrics."""
    return [(row["kind"], row["step"]) for row in read_metrics(run.metrics)]


def tests_of(run):
    """Returns the test ELBO after each epoch."""
    return np.array([row["elbo"] for row in read_metrics(run.metrics) if row["kind"] == "test"])


def main():
    """Runs the test."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60, help="duration of the faults")
    parser.add_argument("--epochs", type=int, default=80, help="epochs of the run, which should last about as long")
    parser.add_argument("--every", type=float, default=120, help="seconds between two faults, on average")
    parser.add_argument("--seed", type=int, default=0, help="seed of the faults")
    parser.add_argument("--out", type=Path, help="folder in which the runs are kept")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it by default
    rng = random.Random(options.seed)
    with contextlib.ExitStack() as stack:
        out = options.out or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak")))
        out.mkdir(parents=True, exist_ok=True)
        experiment = make_experiment(out, options.epochs)
        before = temporary()
        with started() as (nodes, environment), mock.patch.dict(os.environ, environment | OPEN_LOGS):
            soak = Soak(experiment, nodes, out, rng)
            counts, longest, samples = disturb(soak, options.minutes, options.every, rng)
            left = soak.workers()
        calm = experiment.with_overrides("run.name=undisturbed", "scaling.workers=1", "scaling.cpus_per_worker=2")
        (out / "calm.toml").write_text(calm.to_toml())
        calm_samples, parts = run_undisturbed(out)
        (memory_slope, _), (handles_slope, _) = slope(samples, 1), slope(samples, 2)
        (growth, grown), held = slope(calm_samples, 1), calm_samples[:, 1].mean()
        soaked, undisturbed = RunFolder.of(experiment), RunFolder.of(calm)
        # Rounding depends on the number of workers, and training amplifies it: later epochs agree only on average.
        ours, theirs = tests_of(soaked), tests_of(undisturbed)
        late = max(1, len(theirs) // 8)
        rest = sorted(temporary() - before)
        half = sorted(path.name for path in soaked.checkpoints.iterdir() if path.name.endswith(".tmp"))
        promises = {
            "the run reached its last step": soak.step == options.epochs * STEPS,
            "every row of metrics occurs once": rows_of(soaked) == rows_of(undisturbed),
            f"test ELBO of the first epoch {ours[0]:.4f}, undisturbed {theirs[0]:.4f}": bool(
                np.isclose(ours[0], theirs[0], rtol=1e-4)
            ),
            f"test ELBO of the last {late} epochs {ours[-late:].mean():.4f}, undisturbed {theirs[-late:].mean():.4f}, "
            f"from epoch to epoch +- {theirs[-late:].std():.4f}": bool(
                abs(ours[-late:].mean() - theirs[-late:].mean()) < theirs[-late:].std()
            ),
            f"memory of the head grows by {memory_slope:.1f} MB an hour": memory_slope < 60,
            f"undisturbed, memory of all grows by {growth:.1f} MB an hour, by {grown:.1f} of {held:.0f} in all": (
                grown < held / 50
            ),
            f"handles of the head grow by {handles_slope:.1f} an hour": handles_slope < 60,
            f"{len(left)} workers are left": not left,
            f"files that are left: {', '.join(rest + half) or 'none'}": not rest and not half,
        }
    print(f"\n{sum(counts.values())} faults, longest recovery {longest:.1f} s, largest difference of a test ELBO "
          f"{np.abs(ours / theirs - 1).max():.1e} of it")  # fmt: skip
    for fault, count in counts.most_common():
        print(f"{count:4d}  {fault}")
    first, last = parts[len(parts) // 4], parts[-max(2, len(parts) // 8)]
    print("undisturbed, MB of each process after a quarter and after seven eighths of the run:")
    for name in sorted(last, key=lambda name: first[name] - last[name]):
        print(f"{first[name]:8.1f} {last[name]:8.1f}  {name}")
    for promise, kept in promises.items():
        print(f"{'kept  ' if kept else 'BROKEN'}  {promise}")
    return 0 if all(promises.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
