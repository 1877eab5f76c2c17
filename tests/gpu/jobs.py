"""Parts of run.py that use Ray: a run whose worker is killed, a run that is stopped and resumed, and a sweep.

    python tests/gpu/jobs.py train|sweep gpu|cpu

The last line of the output is a JSON object of tables, as in measure.py.
"""

import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from measure import finish

from vaedist.data.prepare import prepare
from vaedist.data.sources import photos
from vaedist.sweeps import SweepFolder

ALLOWED, SECONDS = 1e-4, 100
JOB = """
[data]
path = "{data}"

[model]
hidden = 64
latent = 16

[model.flow]
depth = 2
width = 64

[training]
epochs = {epochs}
global_batch = 32
steps_per_call = 4

[checkpoint]
every_steps = 20

[monitor]
log_every = 1
pictures_every = 0

[scaling]
{scaling}

[run]
folder = "{runs}"
"""
SPACE = """
[tune]
search = "grid"
scheduler = "none"

[tune.space]
"training.learning_rate" = { grid = [1e-4, 2e-4, 4e-4, 8e-4] }
"""


def job(place, name, device, epochs, gpus, more=""):
    """Writes a job file; returns its path."""
    data = place / "data"
    if not data.exists():
        prepare(photos(640, 128), str(data))
    scaling = f"gpus_per_worker = {gpus}\ncpus_per_worker = 1" if device == "gpu" else "cpus_per_worker = 0.5"
    path = place / f"{name}.toml"
    path.write_text(JOB.format(data=data, runs=place / "runs", epochs=epochs, scaling=scaling) + more)
    return path


def started(*arguments):
    """Starts `vaedist ARGUMENTS`."""
    return subprocess.Popen([sys.executable, "-m", "vaedist", *map(str, arguments)])


def rows_of(place, name):
    """Returns step, kind and ELBO of each row of a run's metrics."""
    path = place / "runs" / name / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(row["step"], row["kind"], row["elbo"]) for row in map(json.loads, lines)]


def wait_for_rows(place, name, count):
    """Waits until a run has logged so many rows."""
    end = time.monotonic() + SECONDS
    while len(rows_of(place, name)) < count:
        assert time.monotonic() < end, f"{name}: {len(rows_of(place, name))} rows after {SECONDS} s"
        time.sleep(0.05)


def kill_worker(command):
    """Kills the worker of a run, as kill -9 does."""
    for process in psutil.Process(command.pid).children(recursive=True):
        if any("RayTrainWorker" in part for part in process.cmdline()):
            process.kill()
            return
    raise AssertionError("no worker was found")


def difference(one, other):
    """Returns the largest relative difference of two runs' ELBOs, which must be of the same steps."""
    assert [row[:2] for row in one] == [row[:2] for row in other], "the runs have other rows"
    return max(abs(a[2] - b[2]) / abs(a[2]) for a, b in zip(one, other, strict=True))


def train(device, place):
    """Compares a run whose worker is killed, and which is then stopped and resumed, with an undisturbed one."""
    path, epochs = job(place, "train", device, 6, 1), 6
    plain = started("train", path, "--name", "plain")
    assert plain.wait(SECONDS) == 0, "the undisturbed run failed"
    rows = rows_of(place, "plain")
    begun = time.monotonic()
    disturbed = started("train", path, "--name", "disturbed")
    wait_for_rows(place, "disturbed", len(rows) // 4)
    kill_worker(disturbed)
    wait_for_rows(place, "disturbed", len(rows) // 2)
    disturbed.send_signal(signal.SIGTERM)
    code = disturbed.wait(SECONDS)
    kept = len(rows_of(place, "disturbed"))
    resumed = started("train", path, "--name", "disturbed", "--resume")
    assert resumed.wait(SECONDS) == 0, "the resumed run failed"
    found = difference(rows, rows_of(place, "disturbed"))
    table = [
        ["what", "found"],
        ["epochs, rows", f"{epochs}, {len(rows)}"],
        ["exit code of the stopped run", code],
        ["rows when it stopped", kept],
        ["seconds, disturbed", f"{time.monotonic() - begun:.0f}"],
        ["largest relative difference of the ELBO", f"{found:.1e}"],
    ]
    return {"": table}, [f"ELBOs differ by {found:.1e}"] if found > ALLOWED else []


def sweep(device, place):
    """Runs four trials at once, each with a quarter of the device."""
    path = job(place, "sweep", device, 2, 0.25, SPACE)
    begun = time.monotonic()
    assert started("tune", "run", path, "--name", "sweep").wait(SECONDS) == 0, "the sweep failed"
    trials = SweepFolder.at(place / "runs" / "sweep").read_trials()
    table = [["trial", "state", "epochs"], *([trial.name, trial.state, len(trial.epochs)] for trial in trials)]
    table.append(["seconds", f"{time.monotonic() - begun:.0f}", ""])
    return {"": table}, [f"trial {trial.name} is {trial.state}" for trial in trials if trial.state != "finished"]


def main():
    """Runs a part."""
    name, device = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="gpu-") as folder:
        return finish(*{"train": train, "sweep": sweep}[name](device, Path(folder)))


if __name__ == "__main__":
    sys.exit(main())
