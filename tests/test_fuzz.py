"""Fuzzing of the files that vaedist reads: a changed file is read, or raises an error for the user, and no other.

Files are changed as by faulty disks, editors and attackers: bytes are flipped, removed, duplicated, inserted and
replaced, and JSON values are replaced. If a file is protected by digests, these are recomputed.
"""

import gzip
import hashlib
import io
import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from synthetic import cifar10_members, write_archive, write_idx, write_npz

from vaedist.config import Experiment, Sweep, read_job
from vaedist.data.manifest import load_manifest, verify
from vaedist.data.prepare import prepare
from vaedist.data.rows import SplitRows
from vaedist.data.sources import cifar10_archive, idx_folder, npz_file
from vaedist.errors import VaedistError
from vaedist.monitor.metrics import MetricsLog
from vaedist.monitor.tensorboard import TensorBoardWriter
from vaedist.runs.checkpoint import Position
from vaedist.runs.checkpoint_store import CheckpointStore
from vaedist.runs.folder import RunFolder
from vaedist.runs.summary import list_runs, summarize
from vaedist.sweeps import SweepFolder, TrialLog
from vaedist.sweeps.report import write_report

pytestmark = pytest.mark.faults

many = settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
few = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))

PIECES = (
    b"", b"\x00", b"\xff" * 8, b"\n", b'"', b"{", b"}}", b"[" * 50, b"]", b",", b":", b"-1", b"1e999", b"NaN", b"null",
    b"../../outside", b"/outside", b"99999999999999999999", b"[tune]", b"=", b"\xc3\x28",
)  # fmt: skip
edits = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "double", "insert", "replace", "truncate"]),
        st.floats(0, 1),
        st.integers(1, 64),
        st.sampled_from(PIECES) | st.binary(max_size=8),
    ),
    min_size=1,
    max_size=6,
)
values = st.recursive(
    st.sampled_from([None, True, -1, 0, 2**63, 10**400, 0.5, 1e308, "", "../../outside", "/outside", "x" * 5000]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["", "step", "rows", "a"]), inner, max_size=3)
    ),
    max_leaves=6,
)


def edited(content, changes):
    """Returns the content after a sequence of changes, whose positions are fractions of its length."""
    content = bytearray(content)
    for kind, share, length, piece in changes:
        at = min(int(share * len(content)), max(len(content) - 1, 0))
        part = content[at : at + length]
        if kind == "flip" and content:
            content[at] ^= 1 << (length % 8)
        elif kind == "cut":
            del content[at : at + length]
        elif kind == "double":
            content[at:at] = part
        elif kind == "insert":
            content[at:at] = piece
        elif kind == "replace":
            content[at : at + len(piece)] = piece
        elif kind == "truncate":
            del content[at:]
    return bytes(content)


def exchanged(record, path, value):
    """Returns a JSON value in which the part at `path` is replaced or removed."""
    if not path or not isinstance(record, dict | list) or not record:
        return value
    keys = list(record) if isinstance(record, dict) else list(range(len(record)))
    key, copied = keys[path[0] % len(keys)], record.copy()
    if len(path) == 1 and value == "":
        del copied[key]
    else:
        copied[key] = exchanged(record[key], path[1:], value)
    return copied


paths = st.lists(st.integers(0, 30), min_size=1, max_size=5)


def tried(function, *arguments, **named):
    """Returns a function's result, or None if it raises an error for the user, whose message must be one line."""
    try:
        return function(*arguments, **named)
    except VaedistError as error:
        told = str(error)
    assert told.isprintable(), repr(told)
    return None


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Yields a folder to work in; nothing may be created beside it."""
    outer = tmp_path_factory.mktemp("fuzz")
    (outer / "work").mkdir()
    yield outer / "work"
    assert [path.name for path in outer.iterdir()] == ["work"]
    assert not Path("/outside").exists()


SWEEP = {
    "tune": {
        "space": {"model.latent": {"grid": [2, 4]}, "training.learning_rate": {"loguniform": [1e-4, 1e-2]}},
        "search": "random",
    }
}


@pytest.mark.parametrize("made", [Experiment(), Sweep.from_dict(SWEEP)], ids=["experiment", "sweep"])
def test_jobs(place, made):
    job, text = place / "job.toml", made.to_toml().encode()

    @many
    @given(edits)
    def altered(changes):
        job.write_bytes(edited(text, changes))
        tried(read_job, job)

    altered()


def test_manifests(place, small_dataset):
    data = place / "data"
    shutil.copytree(small_dataset, data)
    manifest = data / "manifest.json"
    text, record = manifest.read_bytes(), json.loads(manifest.read_bytes())

    def look():
        if tried(load_manifest, str(data)) is not None:
            tried(verify, str(data))
            tried(lambda: SplitRows(str(data), load_manifest(str(data)), "test").read(0, 8))

    @many
    @given(edits)
    def altered(changes):
        manifest.write_bytes(edited(text, changes))
        look()

    @many
    @given(paths, values)
    def exchanged_values(path, value):
        manifest.write_text(json.dumps(exchanged(record, path, value)))
        look()

    altered()
    exchanged_values()


@pytest.fixture(scope="module")
def run(place):
    """Returns a run's folder, created without training."""
    folder = RunFolder.at(place / "runs" / "run")
    folder.path.mkdir(parents=True)
    experiment = Experiment.from_dict({"run": {"name": "run", "folder": str(place / "runs")}})
    folder.experiment.write_text(experiment.to_toml())
    log = MetricsLog(folder.metrics, resume_step=None)
    for step in (10, 20):
        log.append("train", 1, step, {"elbo": -3.0, "reconstruction": -2.0, "kl": 1.0})
        log.append("test", 1, step, {"elbo": -3.0, "rows": 9, "best": True})
    log.close()
    store = CheckpointStore(folder)
    weights = {"w": np.ones((4, 4), np.float32)}
    for step in (10, 20):
        store.save(
            Position(1, step, "f" * 64, (4, 6, 3), -3.0, {"row.rows": 1.0}), weights, weights, experiment.to_toml()
        )
    look_at_run(folder)
    assert store.newest(pytest.fail).weights().keys() == {"w"}
    assert len(list_runs(folder.path.parent)) == 1
    return folder


def look_at_run(folder):
    for found in tried(list_runs, folder.path.parent) or []:
        tried(summarize, found)
    store = CheckpointStore(folder)
    for choose in (store.newest, store.best):
        checkpoint = tried(choose)
        if checkpoint is not None:
            tried(checkpoint.weights)
            tried(checkpoint.optimizer)
            tried(Experiment.from_toml, checkpoint.experiment)


FILES = ("state.json", "weights.safetensors", "optimizer.safetensors", "COMMITTED")
READ = ("experiment.toml", "metrics.jsonl", *(f"checkpoints/step-000000020/{name}" for name in FILES))


@pytest.mark.parametrize("name", READ)
def test_runs(run, name):
    path = run.path / name
    content = path.read_bytes()

    @many
    @given(edits)
    def altered(changes):
        path.write_bytes(edited(content, changes))
        look_at_run(run)

    try:
        altered()
    finally:
        path.write_bytes(content)


def commit(folder):
    """Recomputes the digests of a checkpoint, for the files that its state still names."""
    state = folder / "state.json"
    record = json.loads(state.read_bytes())
    if isinstance(record, dict) and isinstance(record.get("files"), dict):
        for name in record["files"]:
            if (folder / name).is_file():
                record["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        state.write_text(json.dumps(record))
    (folder / "COMMITTED").write_text(hashlib.sha256(state.read_bytes()).hexdigest())


def test_checkpoints_with_digests_that_fit(run):
    folder = run.checkpoints / "step-000000020"
    kept = {path: path.read_bytes() for path in folder.iterdir()}
    record = json.loads(kept[folder / "state.json"])

    @many
    @given(st.sampled_from(["weights.safetensors", "optimizer.safetensors", "experiment.toml"]), edits)
    def altered(name, changes):
        (folder / name).write_bytes(edited(kept[folder / name], changes))
        commit(folder)
        look_at_run(run)
        for path, content in kept.items():
            path.write_bytes(content)

    @many
    @given(paths, values)
    def exchanged_values(path, value):
        (folder / "state.json").write_text(json.dumps(exchanged(record, path, value)))
        commit(folder)
        look_at_run(run)
        for path, content in kept.items():
            path.write_bytes(content)

    altered()
    exchanged_values()


def test_rows_of_metrics(run):
    content = run.metrics.read_bytes()
    rows = [json.loads(line) for line in content.splitlines()]

    @many
    @given(paths, values)
    def exchanged_values(path, value):
        run.metrics.write_text(
            "".join(json.dumps(row) + "\n" for row in exchanged(rows, path, [value] if len(path) == 0 else value) or [])
        )
        look_at_run(run)
        log = tried(MetricsLog, run.metrics, resume_step=10)
        if log is not None:
            log.close()

    try:
        exchanged_values()
    finally:
        run.metrics.write_bytes(content)


def test_events(run):
    """TensorBoard reads the events that were written, and a damaged file does not affect the next writer."""
    writer = TensorBoardWriter(run.tensorboard, purge_step=None)
    writer.scalars(1, {"elbo/train": -3.0})
    writer.close()
    path = next(run.tensorboard.glob("events*"))
    content = path.read_bytes()

    @few
    @given(edits)
    def altered(changes):
        path.write_bytes(edited(content, changes))
        again = tried(TensorBoardWriter, run.tensorboard, purge_step=2)
        again.scalars(2, {"elbo/train": -2.0})
        again.close()
        for other in run.tensorboard.glob("events*"):
            if other != path:
                other.unlink()

    altered()


def test_logs_of_trials(place):
    folder = SweepFolder.at(place / "sweeps" / "sweep")
    folder.path.mkdir(parents=True)
    folder.sweep.write_text(
        Sweep.from_dict(SWEEP | {"run": {"name": "sweep", "folder": str(place / "sweeps")}}).to_toml()
    )
    log = TrialLog(folder)
    for number in range(2):
        trial = log.add(number, {"model.latent": 2, "training.learning_rate": 0.001})
        log.set(number, "running")
        metrics = MetricsLog(trial.run.metrics, resume_step=None)
        metrics.append("test", 1, 10, {"elbo": -3.0 - number})
        metrics.close()
        log.set(number, "finished")
    content = folder.trials.read_bytes()
    records = [json.loads(line) for line in content.splitlines()]

    def look():
        trials = tried(folder.read_trials)
        if trials is not None:
            tried(write_report, folder)
            tried(TrialLog.open, folder)

    @few
    @given(edits)
    def altered(changes):
        folder.trials.write_bytes(edited(content, changes))
        look()

    @few
    @given(paths, values)
    def exchanged_values(path, value):
        changed = exchanged(records, path, value)
        folder.trials.write_text("".join(json.dumps(record) + "\n" for record in changed if isinstance(changed, list)))
        look()

    altered()
    exchanged_values()


def look_at_source(place, function, *arguments):
    """Prepares a data set from a source, if the source can be opened."""
    source = tried(function, *arguments)
    if source is not None:
        tried(prepare, source, str(place / "prepared"), shards=2)
        shutil.rmtree(place / "prepared", ignore_errors=True)


def test_archives(place):
    whole = write_archive(place / "whole.tar.gz", cifar10_members()).read_bytes()
    plain = gzip.decompress(whole)
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        headers = [member.offset for member in tar]
    archive = place / "archive.tar.gz"

    def look():
        look_at_source(place, cifar10_archive, archive)

    @few
    @given(edits)
    def altered(changes):
        archive.write_bytes(edited(whole, changes))
        look()

    @few
    @given(st.sampled_from(headers), st.integers(0, 511), st.sampled_from(PIECES))
    def headers_altered(offset, at, piece):
        content = bytearray(plain)
        content[offset + at : offset + at + len(piece)] = piece
        content[offset + 148 : offset + 156] = b" " * 8  # a valid checksum
        content[offset + 148 : offset + 156] = b"%06o\0 " % sum(content[offset : offset + 512])
        archive.write_bytes(gzip.compress(bytes(content), 1))
        look()

    altered()
    headers_altered()


@pytest.mark.parametrize("compress", [False, True])
def test_idx_files(place, compress):
    files = sorted(write_idx(place / f"idx-{compress}", compress=compress).iterdir())
    whole = {file: file.read_bytes() for file in files}

    @few
    @given(st.sampled_from(files), edits)
    def altered(file, changes):
        file.write_bytes(edited(whole[file], changes))
        look_at_source(place, idx_folder, file.parent, "digits")
        file.write_bytes(whole[file])

    @few
    @given(st.sampled_from(files), st.integers(0, 15), st.sampled_from(PIECES) | st.binary(max_size=8))
    def headers_altered(file, at, piece):
        plain = gzip.decompress(whole[file]) if compress else whole[file]
        content = plain[:at] + piece + plain[at + len(piece) :]
        file.write_bytes(gzip.compress(content, 1) if compress else content)
        look_at_source(place, idx_folder, file.parent, "digits")
        file.write_bytes(whole[file])

    altered()
    headers_altered()


# Parts of the header of a NumPy array.
HEADER = (b"|O", b"'>u8'", b"'<f8'", b"'|V8'", b"(-1,", b"(99999999, 4096, 4096)", b"True", b"\x93NUMPY\x02\x00")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_numpy_archives(place, save):
    path = write_npz(place / "digits.npz", save)
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}

    @many
    @given(edits)
    def altered(changes):
        path.write_bytes(edited(whole, changes))
        look_at_source(place, npz_file, path, "digits")

    @many
    @given(st.sampled_from(sorted(members)), st.lists(st.tuples(st.integers(0, 127), st.sampled_from(PIECES + HEADER))))
    def headers_altered(name, changes):
        content = bytearray(members[name])
        for at, piece in changes:
            content[at : at + len(piece)] = piece
        with zipfile.ZipFile(path, "w") as archive:
            for each in members:
                archive.writestr(each, bytes(content) if each == name else members[each])
        look_at_source(place, npz_file, path, "digits")

    altered()
    headers_altered()
