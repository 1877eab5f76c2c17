"""Encoding and generating on Ray workers: against one process, for any number of workers, resumed, and on S3."""

import io
import json
import shutil

import numpy as np
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
import ray
import tensorflow as tf
from PIL import Image

import vaedist
from vaedist.data.lanes import split_numbers
from vaedist.data.manifest import load_manifest
from vaedist.data.shards import open_split
from vaedist.errors import ClusterError, DataError
from vaedist.inference.encode import encode_job
from vaedist.inference.generate import generate_job
from vaedist.inference.output import OutputFolder, ParquetFormat, PngFormat
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


def images_of(path, split):
    """Returns the images and labels of a split by their numbers."""
    manifest = load_manifest(str(path))
    shards = open_split(str(path), manifest, split, range(8))
    numbers = np.concatenate([split_numbers(8, lane, np.arange(len(s.labels))) for lane, s in enumerate(shards)])
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
