"""Rows per second that one core reads with vaedist's lanes, and with other libraries from the same rows.

    python tests/benchmarks/inputs.py [--data FOLDER] [--rows 50000] [--batch 32 256] [--rounds 5] [--datasets PYTHON]

The rows are those of a prepared data set, --data, or crops of photographs, 32 x 32 x 3 bytes each. tf.data reads them
from TFRecords, Ray Data from Parquet, and Hugging Face datasets from its own Arrow files; the latter needs --datasets,
the Python of an environment with `pip install datasets`. Each reader shuffles in its usual way. In each round, every
reader runs once, in a separate process on one core. It makes three passes, of which the first is discarded. The output
is the input of a training step, [batch, pixels] in uint8; a sum over the first pass proves that every row was read.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

PASSES = 3
FILES = 8
BUFFER = 10_000  # rows in a shuffle buffer
CHUNK = 16  # batches per read of the lanes
PIXELS = 3072


def lanes(place, batch):
    """Reads vaedist's lanes as in training, with a full shuffle of each shard."""
    from vaedist.config import Experiment
    from vaedist.data.manifest import load_manifest
    from vaedist.data.worker_data import open_inputs

    data = place / "data"
    experiment = Experiment().with_overrides(f"data.path={data}", f"training.global_batch={batch}")
    reader = open_inputs(experiment, load_manifest(str(data)), rank=0, workers=1, replicas=1).train
    for epoch in range(PASSES):
        for first in range(0, reader.plan.steps, CHUNK):
            chunk = reader.read(epoch, first, min(CHUNK, reader.plan.steps - first), CHUNK)
            for k in range(chunk.steps):
                yield epoch, chunk.images[0, k][: chunk.counts[0, k]]


def tfrecords(place, batch):
    """Reads TFRecords of raw bytes by tf.data, with a shuffle buffer."""
    import tensorflow as tf

    files = sorted(str(file) for file in place.glob("*.tfrecord"))
    feature = {"image": tf.io.FixedLenFeature([], tf.string)}

    def parse(records):
        return tf.io.decode_raw(tf.io.parse_example(records, feature)["image"], tf.uint8)

    rows = tf.data.TFRecordDataset(files, num_parallel_reads=FILES).shuffle(BUFFER, seed=0)
    batches = rows.batch(batch).map(parse, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
    for epoch in range(PASSES):
        for images in batches.as_numpy_iterator():
            yield epoch, images


def ray_data(place, batch):
    """Reads Parquet by Ray Data, with a local shuffle buffer."""
    import ray

    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="error")
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = ray.data.read_parquet(str(place / "parquet"))
    for epoch in range(PASSES):
        for images in rows.iter_batches(batch_size=batch, batch_format="pyarrow", local_shuffle_buffer_size=BUFFER):
            yield epoch, flat(images.column("image"))
    ray.shutdown()


def hugging_face(place, batch):
    """Reads Arrow tables by Hugging Face datasets, fully shuffled by an index."""
    import datasets

    datasets.disable_progress_bars()
    rows = datasets.load_from_disk(str(place / "datasets")).with_format("arrow")
    for epoch in range(PASSES):
        for images in rows.shuffle(seed=epoch, keep_in_memory=True).iter(batch_size=batch):
            yield epoch, flat(images.column("image"))


def flat(column):
    """Returns a column of equally long lists as an array [rows, pixels]."""
    values = column.combine_chunks().flatten() if hasattr(column, "combine_chunks") else column.flatten()
    return values.to_numpy(zero_copy_only=False).reshape(-1, PIXELS)


READERS = {"lanes": lanes, "tf.data": tfrecords, "ray.data": ray_data, "datasets": hugging_face}


def one(name, place, batch):
    """Runs a reader; prints the rows per second of each pass but the first, and the sum over all pixels of a pass."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    rates, begun, rows, total, last = [], time.perf_counter(), 0, 0, 0
    for epoch, images in READERS[name](place, batch):
        if epoch != last:
            now = time.perf_counter()
            rates.append(rows / (now - begun))
            begun, rows, last = now, 0, epoch
            if epoch == 1:
                first_total = total
        assert images.dtype == np.uint8
        assert images.size == len(images) * PIXELS
        rows += len(images)
        if epoch == 0:  # not timed
            total += int(images.sum(dtype=np.int64))
    rates.append(rows / (time.perf_counter() - begun))
    print(json.dumps({"rows_per_second": statistics.median(rates[1:]), "rows": rows, "sum": first_total}), flush=True)


def write(place, rows, data, python):
    """Writes the rows in the format of each reader."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import tensorflow as tf

    from vaedist.data.manifest import load_manifest
    from vaedist.data.prepare import prepare
    from vaedist.data.shards import open_split
    from vaedist.data.sources import photos

    if data:
        (place / "data").symlink_to(data.resolve())
    else:
        prepare(photos(rows, 256), str(place / "data"), shards=FILES)
    manifest = load_manifest(str(place / "data"))
    shards = open_split(str(place / "data"), manifest, "train", range(len(manifest.splits["train"].shards)))
    images = np.concatenate([shard.images.reshape(len(shard.images), -1) for shard in shards])
    (place / "parquet").mkdir()
    for number, part in enumerate(np.array_split(images, FILES)):
        with tf.io.TFRecordWriter(str(place / f"{number}.tfrecord")) as writer:
            for image in part:
                bytes_ = tf.train.Feature(bytes_list=tf.train.BytesList(value=[image.tobytes()]))
                example = tf.train.Example(features=tf.train.Features(feature={"image": bytes_}))
                writer.write(example.SerializeToString())
        column = pa.FixedSizeListArray.from_arrays(pa.array(part.reshape(-1)), PIXELS)
        pq.write_table(pa.table({"image": column}), place / "parquet" / f"{number}.parquet", compression="none")
    if python:
        np.save(place / "images.npy", images)
        keep = (
            "import datasets, numpy, pyarrow, sys\n"
            "images = numpy.load(sys.argv[1])\n"
            f"column = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(images.reshape(-1)), {PIXELS})\n"
            "datasets.Dataset(pyarrow.table({'image': column})).save_to_disk(sys.argv[2])\n"
        )
        subprocess.run(
            [python, "-c", keep, str(place / "images.npy"), str(place / "datasets")], check=True, capture_output=True
        )
    return len(images), int(images.sum(dtype=np.int64))


def show(batch, rates):
    """Returns a table."""
    print(f"\nbatch {batch:<8} rows/s, median (least to most)      GB/s   lanes are faster by, median (least to most)")
    for name, found in rates.items():
        ratios = [ours / theirs for ours, theirs in zip(rates["lanes"], found, strict=True)]
        rate = f"{statistics.median(found):,.0f} ({min(found):,.0f} to {max(found):,.0f})"
        ratio = f"{statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})"
        bytes_ = f"{statistics.median(found) * PIXELS / 1e9:.2f}"
        print(f"{name:14} {rate:36} {bytes_:>6}   {ratio if name != 'lanes' else ''}")
    print(flush=True)


def main():
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a prepared data set of 32 x 32 x 3 images")
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--batch", type=int, nargs="+", default=[32, 256])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--datasets", metavar="PYTHON")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        name, place, batch = options.one
        one(name, Path(place), int(batch))
        return
    names = [name for name in READERS if name != "datasets" or options.datasets]
    with tempfile.TemporaryDirectory(prefix="inputs") as folder:
        place = Path(folder)
        rows, total = write(place, options.rows, options.data, options.datasets)
        for batch in options.batch:
            rates = {name: [] for name in names}
            for _ in range(options.rounds):
                for name in names:
                    python = options.datasets if name == "datasets" else sys.executable
                    command = [python, __file__, "--one", name, str(place), str(batch)]
                    said = subprocess.run(command, check=False, capture_output=True, text=True)
                    if said.returncode:
                        raise RuntimeError(f"{name}: {said.stderr[-2000:]}")
                    found = json.loads(said.stdout.splitlines()[-1])
                    assert (found["rows"], found["sum"]) == (rows, total), (name, found, rows, total)
                    rates[name].append(found["rows_per_second"])
            show(batch, rates)


if __name__ == "__main__":
    main()
