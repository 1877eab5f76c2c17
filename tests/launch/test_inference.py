"""Encoding and generating on Ray workers: against one process, for any number of workers, resumed, and on S3."""

import io
import json
import re
import shutil
import tracemalloc
from contextlib import contextmanager
from pathlib import Path
from threading import Timer

import numpy as np
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
import ray
import tensorflow as tf
from PIL import Image
from random_runs import save_run
from synthetic import source

import vaedist
from vaedist.config import Experiment
from vaedist.data.lanes import split_numbers
from vaedist.data.manifest import load_manifest
from vaedist.data.prepare import prepare
from vaedist.data.shards import open_split
from vaedist.errors import ClusterError, DataError, Interrupted, RunError
from vaedist.inference.encode import encode_job
from vaedist.inference.generate import generate_job
from vaedist.inference.output import OutputFolder, ParquetFormat, PngFormat, record_text
from vaedist.launch import inference
from vaedist.launch.inference import Workers, run_job
from vaedist.monitor.pictures import to_uint8
from vaedist.storage.transfer import Store

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]

ROWS = 300  # of a part: six of the training images, and one of the test images


@pytest.fixture(scope="module")
def run(trained):
    return vaedist.load_run(trained.run.path)


def write(job, folder, fmt=ParquetFormat(), workers=1, **options):  # noqa: B008 - frozen
    run_job(job, OutputFolder.at(folder), fmt, workers=Workers(workers), **options)
    return folder


def contents(folder):
    """Returns the content of all files but logs, by name."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != "_logs"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def encoded(run, tmp_path_factory):
    """Returns an output of two workers, which tests must not change, and what was reported."""
    progress, parts = [], []
    folder = write(
        encode_job(run, seed=3, rows=ROWS), tmp_path_factory.mktemp("out") / "encoded", workers=2, reported=["elbo"],
        report=lambda part, table: parts.append((part.name, table)),
        progress=lambda done, total: progress.append((done, total)),
    )  # fmt: skip
    return folder, progress, dict(parts)


def images_of(path, split, lanes=8):
    """Returns the images and labels of a split by their numbers."""
    manifest = load_manifest(str(path))
    shards = open_split(str(path), manifest, split, range(lanes))
    numbers = np.concatenate([split_numbers(lanes, lane, np.arange(len(s.labels))) for lane, s in enumerate(shards)])
    order = np.argsort(numbers)
    return tuple(np.concatenate([getattr(s, name) for s in shards])[order] for name in ("images", "labels"))


def test_each_row_is_that_of_one_process(encoded, run, blob_data):
    folder, progress, reported = encoded
    every = pyarrow.dataset.dataset(folder).to_table()
    assert every.column_names == [
        "split", "row", "label", "class", "elbo", "reconstruction", "kl", "z", "z_mean", "z_log_sigma",
    ]  # fmt: skip
    assert progress[-1] == (1696, 1696)
    assert sorted(reported) == sorted(path.stem for path in folder.glob("*.parquet"))
    for split in ("train", "test"):
        table = every.filter(pyarrow.compute.field("split") == split).sort_by("row")
        images, labels = images_of(blob_data, split)
        np.testing.assert_array_equal(table["row"], np.arange(len(images)))
        np.testing.assert_array_equal(table["label"], labels)
        assert table["class"].to_pylist() == ["abcd"[label] for label in labels]
        z = np.stack(table["z"].to_numpy())
        np.testing.assert_allclose(z, run.encode(images, seed=3), rtol=1e-3, atol=1e-4)
        scores = run.score(images, seed=3)
        for name in ("elbo", "reconstruction", "kl"):
            np.testing.assert_allclose(table[name], getattr(scores, name), rtol=1e-3)
        mean, log_sigma = run.model.posterior_base(run.model.encode(images))["z"]
        np.testing.assert_allclose(np.stack(table["z_mean"].to_numpy()), mean, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(np.stack(table["z_log_sigma"].to_numpy()), log_sigma, rtol=1e-3, atol=1e-4)
    record = json.loads((folder / "_vaedist.json").read_text())
    told = json.loads(pq.read_schema(folder / "test-000000.parquet").metadata[b"vaedist"])
    assert {"format": "parquet", **told} == record
    assert (record["step"], record["seed"]) == (run.checkpoint.position.step, 3)
    assert record["fingerprint"] == load_manifest(str(blob_data)).fingerprint
    assert (folder / "_SUCCESS").exists()


def test_one_worker_writes_the_same_bytes_and_an_interrupted_output_is_completed(encoded, run, tmp_path):
    folder, _, reported = encoded
    whole, job = contents(folder), encode_job(run, seed=3, rows=ROWS)
    part = tmp_path / "part"
    shutil.copytree(folder, part)
    for name in ("_SUCCESS", "train-000001.parquet", "test-000000.parquet"):
        (part / name).unlink()
    (part / "train-000004.parquet").write_bytes(whole["train-000004.parquet"][:5000])
    (part / ".train-000001.parquet.123").write_bytes(b"half")
    kept = (part / "train-000000.parquet").stat().st_mtime_ns
    parts = {}
    write(job, part, resume=True, reported=["elbo"], report=lambda part, table: parts.update({part.name: table}))
    assert contents(part) == whole
    assert (part / "train-000000.parquet").stat().st_mtime_ns == kept
    assert parts == reported
    assert contents(write(job, tmp_path / "alone")) == whole


def test_images_are_those_of_one_process(run, tmp_path):
    job = generate_job(run, 70, seed=5, temperature=0.8, rows=32)
    folder = write(job, tmp_path / "parquet", workers=2)
    table = pyarrow.dataset.dataset(folder).to_table().sort_by("index")
    np.testing.assert_array_equal(table["index"], np.arange(70))
    images = np.stack([np.asarray(Image.open(io.BytesIO(png))) for png in table["image"].to_pylist()])
    expected = to_uint8(run.sample(70, seed=5, temperature=0.8))
    assert np.abs(images.astype(int) - expected).max() <= 1
    files = write(job, tmp_path / "files", PngFormat(2))
    assert [(files / f"{i:02d}.png").read_bytes() for i in range(70)] == table["image"].to_pylist()
    whole = contents(files)
    for name in ("_parts/images-000001", "40.png", "_SUCCESS"):
        (files / name).unlink()
    (files / ".40.png.123").write_bytes(b"half")
    assert contents(write(job, files, PngFormat(2), resume=True)) == whole


def test_arrays_of_drawn_pixels_are_those_of_one_process(run, tmp_path):
    job = generate_job(run, 40, seed=5, pixels="sample", content="array", rows=32)
    table = pyarrow.dataset.dataset(write(job, tmp_path / "out")).to_table().sort_by("index")
    images = table["image"].combine_chunks().to_numpy_ndarray()
    assert (images.shape, images.dtype) == ((40, 8, 8, 3), np.uint8)
    expected = to_uint8(run.sample(40, seed=5, pixels="sample"))
    assert (np.abs(images.astype(int) - expected) <= 1).mean() > 0.999  # the levels of few pixels are at a threshold


def test_a_hierarchy_of_grey_images_is_encoded_and_generates(tmp_path):
    prepare(source(train=20, test=10, shape=(4, 8, 1)), str(tmp_path / "grey"), shards=4)
    options = ("model.type=resnet", "model.width=4", "model.latent=2", "model.levels=2", "model.blocks=1")
    experiment = Experiment().with_overrides(f"data.path={tmp_path / 'grey'}", *options)
    run = vaedist.load_run(save_run(tmp_path / "run", experiment).path)
    images, _ = images_of(tmp_path / "grey", "test", lanes=4)
    frame = run.encode_dataset(split="test", workers=1).to_pandas().sort_values("row")
    layers = [name for name in frame.columns if name.startswith("z")]
    assert len(layers) == 2
    z = np.concatenate([np.stack(frame[name]) for name in layers], axis=1)
    np.testing.assert_allclose(z, run.encode(images), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(frame["elbo"], run.score(images).elbo, rtol=1e-3)
    files = write(generate_job(run, 3, seed=5), tmp_path / "files", PngFormat(1))
    drawn = np.stack([np.asarray(Image.open(files / f"{i}.png")) for i in range(3)])[..., None]
    assert np.abs(drawn.astype(int) - to_uint8(run.sample(3, seed=5))).max() <= 1


@pytest.fixture
def documented(trained, tmp_path, monkeypatch):
    """Changes to a folder where the run of the documentation's examples is."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/cifar10-iaf").symlink_to(trained.run.path)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("documented")
def test_the_examples_of_the_documentation_run(capsys):
    page = (Path(__file__).parents[2] / "docs/after-training.md").read_text()
    section = page.partition("## In Python")[2].partition("\n## ")[0]
    names = {}
    for snippet in re.findall(r"```python\n(.*?)```", section, re.DOTALL):
        exec(snippet, names)
    *_, score = capsys.readouterr().out.split()
    assert float(score) > 0.9
    assert np.loadtxt("vectors.tsv").shape == (96, 6)
    assert set(Path("classes.tsv").read_text().split()) <= set("abcd")


def test_an_error_of_a_worker_is_raised_as_what_it_is_when_a_dataset_is_consumed(run, tmp_path):
    (tmp_path / "one.png").write_bytes(b"no image")
    dataset = vaedist.encode_dataset(run, folder=tmp_path, workers=1)
    with pytest.raises(DataError, match=r"image .*/one\.png: "):
        dataset.to_pandas()


def test_a_million_parts_take_no_memory_of_the_command(run, tmp_path):
    job = generate_job(run, 10**6, rows=1)

    def interrupt(done, total):
        raise KeyboardInterrupt

    tracemalloc.start()
    try:
        with pytest.raises(Interrupted, match=r"stopped with 1 of 1,000,000 rows in .*/out; --resume completes it"):
            write(job, tmp_path / "out", progress=interrupt)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("resume", [False, True])
def test_an_output_that_another_command_starts_meanwhile_is_left_to_it(run, s3, monkeypatch, resume):
    """It has checked the folder, too, and writes its record while this one connects to Ray."""
    out = OutputFolder.at(s3.uri(f"encoded/meanwhile-{resume}"))
    theirs = record_text(generate_job(run, 9), ParquetFormat()).encode()

    @contextmanager
    def connecting(*_):
        out.store.write(out.record, theirs)
        yield

    monkeypatch.setattr(inference, "ray_session", connecting)
    with pytest.raises(RunError, match="its rows is" if resume else "already exists"):
        write(generate_job(run, 10), out.location, resume=resume)
    assert out.read(out.record.name) == theirs


@pytest.mark.slow
def test_an_output_whose_record_another_command_replaced_is_not_continued(run, s3):
    out = OutputFolder.at(s3.uri("encoded/replaced"))
    theirs = record_text(generate_job(run, 9), ParquetFormat()).encode()
    with pytest.raises(RunError, match="another command writes to s3://"):
        write(generate_job(run, 200, rows=10), out.location, progress=lambda *_: out.store.write(out.record, theirs))
    assert out.read(out.record.name) == theirs
    assert out.read("_SUCCESS") is None


@pytest.mark.slow
def test_a_store_that_does_not_answer_is_waited_for_and_reported(run, s3):
    job, said, gone = generate_job(run, 200, rows=20), [], []
    out = s3.uri("encoded/outage")

    def vanish(done, total):
        if not gone:
            s3.proxy.vanish()
            gone.append(Timer(60, s3.proxy.appear))  # if nobody says that the store is gone
            gone[0].start()

    def notify(text):
        said.append(text)
        if len(said) == 1:
            gone[0].cancel()
            s3.proxy.appear()

    run_job(job, OutputFolder.at(out), ParquetFormat(), workers=Workers(1), progress=vanish, notify=notify)
    assert re.match(r"cannot (read|write) s3://.*; retrying for 600 s$", said[0])
    assert len([name for name in Store(out).files() if name.endswith(".parquet")]) == 10


@pytest.mark.slow
def test_from_a_store_to_a_store(encoded, run, blob_data, s3):
    there = Store(s3.uri("data/blobs-encoded"))
    for path in blob_data.iterdir():
        there.upload(path, path.name)
    job = encode_job(run, seed=3, rows=ROWS, data=there.uri, split="test")
    out = s3.uri("encoded/out")
    for resume in (False, True):
        write(job, out, resume=resume)
        store = Store(out)
        table = pq.read_table(io.BytesIO(store.read("test-000000.parquet")))
        assert table.equals(pq.read_table(encoded[0] / "test-000000.parquet"))
        assert {"_vaedist.json", "_SUCCESS", "test-000000.parquet"} <= store.files().keys()
        store.remove("test-000000.parquet")


def test_a_folder_of_images_is_encoded(run, tmp_path, blob_data):
    images, _ = images_of(blob_data, "test")
    for name, image in zip(("b/one.png", "a/two.png"), images[:2], strict=True):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True)
        Image.fromarray(image).save(path)
    dataset = vaedist.encode_dataset(run, folder=tmp_path / "images", latents=["sample"], workers=1)
    frame = dataset.to_pandas().sort_values("row")
    assert list(frame["file"]) == ["a/two.png", "b/one.png"]
    assert list(frame.columns) == ["row", "file", "elbo", "reconstruction", "kl", "z"]
    np.testing.assert_allclose(np.stack(frame["z"]), run.encode(images[[1, 0]]), rtol=1e-3, atol=1e-4)


def test_an_error_of_a_worker_ends_the_command(run, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/one.png").write_bytes(b"no image")
    job = encode_job(run, folder=tmp_path / "images")
    with pytest.raises(DataError, match=r"image .*images/one\.png: "):
        write(job, tmp_path / "out")
    assert not (tmp_path / "out/_SUCCESS").exists()
    (tmp_path / "images/two.png").write_bytes(b"no image, either")
    with pytest.raises(DataError, match="have changed in the meantime"):
        write(job, tmp_path / "out", resume=True)
    assert not [actor for actor in ray.util.list_named_actors(all_namespaces=True) if "claim" in actor["name"]]


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="this machine has GPUs")
def test_workers_share_a_gpu(run, tmp_path):
    """Ray's only GPU does not exist: each of the two workers that it is assigned to finds that TensorFlow has none."""
    job = encode_job(run, rows=ROWS)
    with pytest.raises(ClusterError, match=r"was assigned 1 GPU\(s\), and TensorFlow sees 0"):
        run_job(job, OutputFolder.at(tmp_path / "out"), ParquetFormat(), workers=Workers(2, 0.5))


def test_workers_without_room_are_refused(run, tmp_path):
    job = encode_job(run, rows=10)
    with pytest.raises(ClusterError, match=r"no room for the job: 64 workers, each of 1 CPU, .* fewer"):
        write(job, tmp_path / "out", workers=64)
    assert not (tmp_path / "out").exists()
