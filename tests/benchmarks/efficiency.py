"""How well training would use 8 to 512 GPUs: a model of a step, with measured constants or assumed ones.

    python tests/benchmarks/efficiency.py collective [--rounds 5]
    python tests/benchmarks/efficiency.py predict BENCH.json --out FOLDER [--near SECONDS,GB/S] [--far SECONDS,GB/S]
        [--products TFLOP/S] [--memory TB/S] [--node 8]

`collective` times all-reduces of TensorFlow between two processes of one thread each on this machine, from 4 bytes to
32 MB, and fits a latency and a bandwidth. `predict` takes what `vaedist bench` kept of a job: its floating-point
operations, the bytes of an update, and, unless they are given, the rates of products and memory that it measured.

With B images on each of n GPUs, S bytes of gradients, rates p of products and m of memory, a step takes

    T(n) = F B / p + U / m + 2 (g - 1) (a_near + S / (g b_near)) + 2 (k - 1) (a_far + S / (n b_far))

F: floating-point operations an image; U: bytes that an update moves; g = min(n, node) GPUs of a node, k = n / g nodes.
The sum goes around a ring within each node, and then, in g rings at once, each for its g-th part, between the nodes.
The efficiency is T(1) / T(n). Nothing overlaps: gradients are summed when all are there, as the step of vaedist does;
and they travel whole, as those of global batches of 256 images and more do. Left out: the input, which is read ahead,
stragglers, and what a call costs, which many steps share.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from vaedist.bench.record import GIGA, read_record
from vaedist.launch.addresses import free_port
from vaedist.launch.training.packet_filter import LOOPBACK_NETWORKS
from vaedist.launch.training.server_port import ServerPort

SIZES = [4 * 8**k for k in range(8)] + [32 << 20]
GPUS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
BATCHES = (32, 256, 1024, 4096)  # images a GPU
FLOAT = 4
NARROW = 2  # bytes, as training.reduce_dtype = "bfloat16" sends them
SECONDS = 600  # far more than the all-reduces take


def reduce_in_turn(config, rounds):
    """As one of two workers: prints the seconds of an all-reduce of each size."""
    os.environ["TF_CONFIG"] = config
    import tensorflow as tf

    from vaedist.devices.compilation import traced
    from vaedist.devices.strategy import configure_devices, make_strategy

    configure_devices(1, 0, 1)
    told = json.loads(config)
    port = int(told["cluster"]["worker"][told["task"]["index"]].rpartition(":")[2])
    with ServerPort((port, port)).admitting(LOOPBACK_NETWORKS, print):
        strategy = make_strategy(2)

    @traced
    def reduce(x, times):
        def once(x):
            context = tf.distribute.get_replica_context()
            return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(x)) / 2

        def body(k, x):
            return k + 1, strategy.run(once, args=(x,))

        return tf.while_loop(lambda k, _: k < times, body, (tf.constant(0), x))[1]

    found = []
    for size in SIZES:
        x, times = tf.ones(size // FLOAT), tf.constant(max(3, min(200, (8 << 20) // size)))
        reduce(x, times)
        seconds = []
        for _ in range(rounds):
            begun = time.perf_counter()
            reduce(x, times).numpy()
            seconds.append((time.perf_counter() - begun) / int(times))
        found.append(statistics.median(seconds))
    print(json.dumps(found))


def collective(rounds):
    """Latency, seconds, and bandwidth, bytes a second, of a ring of two processes here; prints all sizes."""
    workers = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    processes = []
    for rank in range(2):
        config = json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": rank}})
        command = [sys.executable, __file__, "worker", config, str(rounds)]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    try:
        said = [process.communicate(timeout=SECONDS) for process in processes]
    finally:
        for process in processes:  # one may wait for another that has failed
            process.kill()
    for process, (_, error) in zip(processes, said, strict=True):
        if process.returncode:
            raise RuntimeError(error[-2000:])
    seconds = np.array(json.loads(said[0][0].splitlines()[-1]))
    sizes = np.array(SIZES)
    for size, taken in zip(sizes, seconds, strict=True):
        print(f"{size:12,} bytes {1e3 * taken:9.3f} ms {size / taken / GIGA:7.2f} GB/s")
    # A ring of two passes two halves: T = 2 a + S / b. Relative errors count, or the largest size would be all.
    design = np.stack([np.full(len(sizes), 2.0), sizes], axis=1) / seconds[:, None]
    (latency, inverse), *_ = np.linalg.lstsq(design, np.ones(len(sizes)), rcond=None)
    print(f"latency {1e6 * latency:.0f} us, bandwidth {1 / inverse / GIGA:.2f} GB/s")


def step_seconds(gpus, batch, record, options):
    """T(n), as above."""
    counts = record.counts
    near_latency, near_bandwidth = options.near
    far_latency, far_bandwidth = options.far
    products = counts["flops a step"] / counts["images a step"] * batch / (options.products * 1e12)
    update = counts["bytes an update"] / (options.memory * 1e12)
    narrow = record.job.get("training.reduce_dtype") == "bfloat16"
    size = (NARROW if narrow else FLOAT) * counts["parameters"]
    inside = min(gpus, options.node)
    nodes = gpus // inside
    near = 2 * (inside - 1) * (near_latency + size / inside / (near_bandwidth * GIGA))
    far = 2 * (nodes - 1) * (far_latency + size / gpus / (far_bandwidth * GIGA))
    return products + update + near + far


def efficiency(record, options):
    """T(1) / T(n), [batches, GPUs]."""
    return np.array(
        [
            [step_seconds(1, batch, record, options) / step_seconds(gpus, batch, record, options) for gpus in GPUS]
            for batch in BATCHES
        ]
    )


def predict(options):
    """Draw and print the efficiency."""
    from matplotlib.figure import Figure

    record = read_record(options.bench)
    options.products = options.products or record.measures["products"].median / 1e3
    options.memory = options.memory or record.measures["memory"].median / 1e3
    shares = efficiency(record, options)
    options.out.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for batch, row in zip(BATCHES, shares, strict=True):
        axes.plot(GPUS, 100 * row, "o-", label=f"{batch:,} images a GPU")
    axes.set_xscale("log", base=2)
    axes.set_xticks(GPUS, [str(gpus) for gpus in GPUS])
    axes.set_ylim(0, 105)
    axes.set_xlabel("GPUs")
    axes.set_ylabel("efficiency, %")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(options.out / "efficiency.png", dpi=120)
    lines = ["| images a GPU | " + " | ".join(f"{gpus} GPUs" for gpus in GPUS) + " |", "|---" * (len(GPUS) + 1) + "|"]
    for batch, row in zip(BATCHES, shares, strict=True):
        lines.append(f"| {batch:,} | " + " | ".join(f"{share:.0%}" for share in row) + " |")
    (options.out / "efficiency.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def link(text):
    """SECONDS,GB/S."""
    latency, bandwidth = map(float, text.split(","))
    return latency, bandwidth


def main():
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    timing = commands.add_parser("collective")
    timing.add_argument("--rounds", type=int, default=5)
    worker = commands.add_parser("worker")
    worker.add_argument("config")
    worker.add_argument("rounds", type=int)
    model = commands.add_parser("predict")
    model.add_argument("bench", type=Path)
    model.add_argument("--out", type=Path, required=True)
    model.add_argument("--near", type=link, default=(5e-6, 300.0), help="within a node")
    model.add_argument("--far", type=link, default=(15e-6, 40.0), help="between nodes, of each GPU")
    model.add_argument("--products", type=float, help="TFLOP/s")
    model.add_argument("--memory", type=float, help="TB/s")
    model.add_argument("--node", type=int, default=8, help="GPUs of a node")
    options = parser.parse_args()
    if options.command == "predict" and any(count > options.node and count % options.node for count in GPUS):
        parser.error(f"--node {options.node}: must divide those of {', '.join(map(str, GPUS))} that are larger")
    if options.command == "collective":
        collective(options.rounds)
    elif options.command == "worker":
        reduce_in_turn(options.config, options.rounds)
    else:
        predict(options)


if __name__ == "__main__":
    main()
