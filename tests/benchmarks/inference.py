"""Images per second of `vaedist encode`, relative to the compiled model alone; or memory by the number of rows.

    python tests/benchmarks/inference.py [--images 49152] [--rounds 3] [--workers 1 2]
    python tests/benchmarks/inference.py --memory [10000 100000 1000000]

An untrained model with the sizes of jobs/cifar10-iaf.toml encodes crops of photographs, on Ray workers of one thread
each, to Parquet files. Alternating with this, a loop in a process of its own calls the same compiled program on images
in memory, with one thread, and neither reads nor writes. Start-up and compilation are not counted: the rate of the
workers is that between the first third and 95 % of the images. Prints the median rates, and their ratios by round.

With --memory, `vaedist generate` and `vaedist encode` write tables of these numbers of rows, of small images and an
untrained MLP, in parts of 1,024 rows. Prints the largest resident set of the command's own process, without Ray's
processes and workers, and its time. 10,000 to 1,000,000 rows take some minutes.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # for `random_runs`
sys.path.append(str(Path(__file__).parents[1] / "data"))  # for `synthetic`

import numpy as np
from command import start
from random_runs import save_run
from synthetic import source

import vaedist
from vaedist.config import Experiment
from vaedist.data.prepare import prepare
from vaedist.data.sources import photos
from vaedist.devices.strategy import configure_devices
from vaedist.evaluation.encoding import RowEncoder
from vaedist.inference.encode import encode_job
from vaedist.inference.output import OutputFolder, ParquetFormat
from vaedist.launch.inference import Workers, run_job
from vaedist.launch.session import ray_session
from vaedist.wording import counted

FIRST, LAST = 1 / 3, 0.95
MEMORY_ROWS = (10_000, 100_000, 1_000_000)
SMALL = (4, 6, 1)  # shape of the images of which memory is measured


def bare(run: str, images: int) -> float:
    """Returns images per second of the compiled program alone, with one thread."""
    configure_devices(1, 0, 1)
    encoder = RowEncoder(vaedist.load_run(run).model)
    rows = np.random.default_rng(0).integers(0, 256, (2048, *encoder.model.image_shape), dtype=np.uint8)
    numbers = np.arange(len(rows))
    encoder.encode(rows[: encoder.rows], numbers[: encoder.rows])
    start, done = time.perf_counter(), 0
    while done < images:
        encoder.encode(rows, numbers)
        done += len(rows)
    return done / (time.perf_counter() - start)


def encoded(run: str, workers: int, place: Path) -> float:
    """Returns images per second of workers, without their start."""
    times = []
    job = encode_job(vaedist.load_run(run), split="train", rows=2048)
    run_job(
        job, OutputFolder.at(place / f"{time.monotonic_ns()}"), ParquetFormat(), workers=Workers(workers),
        progress=lambda done, total: times.append((done, time.perf_counter())),
    )  # fmt: skip
    inside = [(done, at) for done, at in times if FIRST <= done / job.parts.rows <= LAST]
    return (inside[-1][0] - inside[0][0]) / (inside[-1][1] - inside[0][1])


def measured(*words) -> tuple[float, float]:
    """Returns the largest resident set of the process of a command, in MiB, and its seconds."""
    started, largest = time.perf_counter(), 0
    with tempfile.TemporaryFile("w+") as log:
        process = start(*words, log=log)
        while process.poll() is None:
            with suppress(OSError):  # it has just ended
                found = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
                largest = max(largest, int(found[1])) if found else largest
            time.sleep(0.05)
        log.seek(0)
        if process.returncode:
            sys.exit(log.read())
    return largest / 1024, time.perf_counter() - started


def print_memory(counts: list[int], workers: int) -> None:
    """Prints the memory and the time of commands that write tables of these numbers of rows."""
    print(f"{'command':10} {'rows':>10} {'largest resident set':>21} {'time':>8}")
    with tempfile.TemporaryDirectory(prefix="inference") as folder:
        for count in counts:
            place = Path(folder, str(count))
            prepare(source(train=count, test=2, shape=SMALL, batch=4096), f"{place}/data", shards=2)
            options = f"data.path={place}/data", "model.hidden=8", "model.latent=2", "model.flow.depth=0"
            save_run(place / "run", Experiment().with_overrides(*options))
            both = "--rows-per-part", 1024, "--workers", workers
            commands = {
                "generate": ("-n", count, "-o", place / "images", *both),
                "encode": ("--split", "train", "-o", place / "encoded", *both),
            }
            for name, words in commands.items():
                largest, seconds = measured(name, place / "run", *words)
                print(f"{name:10} {count:10,} {largest:17.0f} MiB {seconds:6.0f} s", flush=True)


def main():
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=49152)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--memory", type=int, nargs="*", metavar="ROWS", help="measure memory for numbers of rows")
    parser.add_argument("--bare", metavar="RUN", help="print the rate of the compiled program alone")
    options = parser.parse_args()
    if options.bare:
        print(json.dumps(bare(options.bare, options.images)))
        return
    if options.memory is not None:
        print_memory(options.memory or list(MEMORY_ROWS), max(options.workers))
        return
    with tempfile.TemporaryDirectory(prefix="inference") as folder:
        place = Path(folder)
        prepare(photos(options.images, 64), f"{place}/data")
        save_run(place / "run", Experiment().with_overrides(f"data.path={place}/data"))
        rates: dict[str, list[float]] = {"bare": []} | {counted(count, "worker"): [] for count in options.workers}
        command = [sys.executable, __file__, "--bare", f"{place}/run", "--images", str(options.images // 4)]
        with ray_session():
            for _ in range(options.rounds):
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                rates["bare"].append(json.loads(done.stdout))
                for count in options.workers:
                    rates[counted(count, "worker")].append(encoded(f"{place}/run", count, place))
    for name, found in rates.items():
        print(f"{name:12} {statistics.median(found):8.0f} images/s ({min(found):.0f} to {max(found):.0f})")
    for name in list(rates)[1:]:
        shares = [a / b for a, b in zip(rates[name], rates["bare"], strict=True)]
        print(f"{name:12} {statistics.median(shares):8.2f} of bare ({min(shares):.2f} to {max(shares):.2f})")


if __name__ == "__main__":
    main()
