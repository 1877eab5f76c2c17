"""Speed of TensorFlow's all-reduce between two processes of one thread each on this machine.

    python tests/benchmarks/collective.py [--rounds 5]

Times all-reduces from 4 bytes to 32 MB, and fits a latency and a bandwidth.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

import numpy as np

from vaedist.bench.record import GIGA
from vaedist.launch.addresses import free_port
from vaedist.launch.training.packet_filter import LOOPBACK_NETWORKS
from vaedist.launch.training.server_port import ServerPort

SIZES = [4 * 8**k for k in range(8)] + [32 << 20]
FLOAT = 4  # bytes
SECONDS = 600  # timeout


def reduce_in_turn(config, rounds):
    """Prints, as one of two workers, the seconds of an all-reduce of each size."""
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
    """Prints the time of each size, and the latency and bandwidth of the ring of two processes."""
    workers = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    processes = []
    for rank in range(2):
        config = json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": rank}})
        command = [sys.executable, __file__, "--worker", config, "--rounds", str(rounds)]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    try:
        said = [process.communicate(timeout=SECONDS) for process in processes]
    finally:
        for process in processes:  # if one has failed, the other waits for it
            process.kill()
    for process, (_, error) in zip(processes, said, strict=True):
        if process.returncode:
            raise RuntimeError(error[-2000:])
    seconds = np.array(json.loads(said[0][0].splitlines()[-1]))
    sizes = np.array(SIZES)
    for size, taken in zip(sizes, seconds, strict=True):
        print(f"{size:12,} bytes {1e3 * taken:9.3f} ms {size / taken / GIGA:7.2f} GB/s")
    # In a ring of two, each process sends two halves: T = 2 a + S / b. The fit minimises relative errors.
    design = np.stack([np.full(len(sizes), 2.0), sizes], axis=1) / seconds[:, None]
    (latency, inverse), *_ = np.linalg.lstsq(design, np.ones(len(sizes)), rcond=None)
    print(f"latency {1e6 * latency:.0f} us, bandwidth {1 / inverse / GIGA:.2f} GB/s")


def main():
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--worker", metavar="TF_CONFIG", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        reduce_in_turn(options.worker, options.rounds)
    else:
        collective(options.rounds)


if __name__ == "__main__":
    main()
