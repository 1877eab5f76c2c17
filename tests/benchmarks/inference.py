"""Images per second of `vaedist encode`, relative to the compiled model alone.

    python tests/benchmarks/inference.py [--images 49152] [--rounds 3] [--workers 1 2]

An untrained model with the sizes of jobs/cifar10-iaf.toml encodes crops of photographs, on Ray workers of one thread
each, to Parquet files. Alternating with this, a loop in a process of its own calls the same compiled program on images
in memory, with one thread, and neither reads nor writes. Start-up and compilation are not counted: the rate of the
workers is that between the first third and 95 % of the images. Prints the median rates, and their ratios by round.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # for `random_runs`

import numpy as np
from random_runs import save_run

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


def main():
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=49152)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--bare", metavar="RUN", help="print the rate of the compiled program alone")
    options = parser.parse_args()
    if options.bare:
        print(json.dumps(bare(options.bare, options.images)))
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
