"""Checkpoints are complete and intact, or are not used."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from vaedist.errors import CheckpointError
from vaedist.runs.checkpoint import Position, open_checkpoint
from vaedist.runs.checkpoint_store import CheckpointStore
from vaedist.runs.folder import RunFolder
from vaedist.storage.local_folder import LocalFolderStore

WEIGHTS = {"vae/encoder/kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "vae/bias": np.zeros(3, np.float32)}
SLOTS = {f"m/{name}": array + 1 for name, array in WEIGHTS.items()}


def position(step, elbo=None):
    return Position(step // 10, step, "f" * 64, (4, 6, 3), elbo, {"row.rows": 0.1 + 0.2})


def save(store, step, elbo=None):
    return store.save(position(step, elbo), WEIGHTS, SLOTS, "seed = 0\n")


@pytest.fixture
def store(tmp_path):
    return CheckpointStore(RunFolder.at(tmp_path), keep=2)


def steps(store):
    return [int(path.name.removeprefix("step-")) for path in store.committed()]


def test_a_saved_checkpoint_loads_unchanged(store):
    save(store, 10, -1.5)
    found = store.newest()
    assert found.position == position(10, -1.5)
    assert found.experiment == "seed = 0\n"
    for saved, loaded in ((WEIGHTS, found.weights()), (SLOTS, found.optimizer())):
        assert saved.keys() == loaded.keys()
        assert all(np.array_equal(saved[name], loaded[name]) for name in saved)


def test_the_newest_and_the_best_stay(store):
    for step, elbo in ((10, -3.0), (20, -1.0), (25, None), (30, -2.0), (40, -4.0)):
        save(store, step, elbo)
    assert steps(store) == [40, 30, 20]
    assert store.best().position.step == 20
    assert store.newest().position.step == 40


def test_one_is_opened_by_its_step(store):
    for step in (10, 20):
        save(store, step)
    assert store.at(10).position.step == 10
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 15 in .*; it has steps 10, 20"):
        store.at(15)
    with pytest.raises(CheckpointError, match="it has no checkpoint"):
        CheckpointStore(RunFolder.at(store.folder / "elsewhere")).at(10)


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors", "experiment.toml", "state.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "empty"])
def test_a_damaged_one_is_named_and_the_one_before_is_taken(store, name, damage):
    save(store, 10)
    file = save(store, 20) / name
    content = bytearray(file.read_bytes())
    if damage == "remove":
        file.unlink()
    else:
        content[len(content) // 2] ^= 1
        file.write_bytes({"flip": content, "truncate": content[:-1], "empty": b""}[damage])
    warnings = []
    assert store.newest(warnings.append).position.step == 10
    assert len(warnings) == 1
    assert "step-000000020" in warnings[0]
    assert name in warnings[0]
    store.drop_after(10)
    assert steps(store) == [10]
    assert [p.name for p in store.folder.iterdir() if p.name.startswith("damaged-step-000000020")]


def test_a_damaged_one_is_named_where_the_best_is_asked_for(store):
    save(store, 10, elbo=-2.0)
    (save(store, 20, elbo=-1.0) / "weights.safetensors").write_bytes(b"")
    warnings = []
    assert store.best(warnings.append).position.step == 10
    assert len(warnings) == 1
    assert "step-000000020" in warnings[0]


def test_without_an_intact_checkpoint_there_is_an_error(store):
    (save(store, 10) / "weights.safetensors").unlink()
    with pytest.raises(CheckpointError, match="none of the 1 checkpoints"):
        store.newest()
    assert CheckpointStore(RunFolder.at(store.folder / "elsewhere")).newest() is None


def test_a_folder_without_a_marker_is_ignored_and_removed(store):
    save(store, 10)
    (save(store, 20) / "COMMITTED").unlink()
    (store.folder / ".step-000000030.ab.tmp").mkdir()
    assert store.newest().position.step == 10
    store.clean()
    save(store, 40)
    assert sorted(path.name for path in store.folder.iterdir()) == ["step-000000010", "step-000000040"]


def test_a_state_that_names_files_elsewhere_is_refused(store, tmp_path):
    path = save(store, 10)
    (tmp_path / "secret").write_text("x")
    state = json.loads((path / "state.json").read_bytes())
    state["files"] = {"../../secret": "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"}
    import hashlib

    text = json.dumps(state).encode()
    (path / "state.json").write_bytes(text)
    (path / "COMMITTED").write_text(hashlib.sha256(text).hexdigest())
    with pytest.raises(CheckpointError, match="damaged"):
        open_checkpoint(path)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_never_written(store, bad):
    with pytest.raises(CheckpointError, match="m/vae/bias is not finite"):
        store.save(position(10), WEIGHTS, SLOTS | {"m/vae/bias": np.array([bad], np.float32)}, "")
    assert store.newest() is None


def test_a_full_disk_leaves_the_ones_before_intact(store):
    save(store, 10)
    program = f"""
import resource, signal, numpy as np
from vaedist.runs.folder import RunFolder
from vaedist.errors import StorageError
from vaedist.runs.checkpoint import Position
from vaedist.runs.checkpoint_store import CheckpointStore
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
big = {{"w": np.zeros(100_000, np.float32)}}
try:
    CheckpointStore(RunFolder.at({str(store.folder.parent)!r})).save(Position(1, 20, "f", (1, 1, 1)), big, {{}}, "")
except StorageError as error:
    print(error)
"""
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "cannot write checkpoint" in printed
    assert printed.count("\n") == 1
    assert store.newest().position.step == 10
    assert [path.name for path in store.folder.iterdir()] == ["step-000000010"]


def test_a_writer_whose_place_another_has_taken_leaves_everything_as_it_was(store):
    save(store, 10)
    save(store, 20)
    (store.folder / ".step-000000025.abcd.tmp").mkdir()  # of the other writer
    before = {path.name for path in store.folder.iterdir()}

    class Taken(Exception):  # noqa: N818
        pass

    for allowed in (0, 1):  # captured before or during the write
        answers = [None] * allowed

        def may_write(answers=answers):
            if not answers:
                raise Taken
            answers.pop()

        late = CheckpointStore(RunFolder(LocalFolderStore(store.folder.parent, may_write)), keep=1)
        with pytest.raises(Taken):
            save(late, 30)
        assert steps(store) == [20, 10]
        assert {path.name for path in store.folder.iterdir()} == before


def test_the_best_is_selected_by_the_validation_images_if_they_were_scored(store):
    for step, elbo in ((10, -1.0), (20, -3.0), (30, -2.0)):
        store.save(replace(position(step), validation_elbo=elbo), WEIGHTS, SLOTS, "seed = 0\n")
    assert steps(store) == [30, 20, 10]
    best = store.best().position
    assert (best.step, best.elbo, best.validation_elbo, best.test_elbo) == (10, -1.0, -1.0, None)


def test_a_checkpoint_from_before_there_were_validation_splits_is_read(store):
    path = save(store, 10, -1.5)
    state = json.loads((path / "state.json").read_text())
    del state["validation_elbo"]
    content = json.dumps(state).encode()
    (path / "state.json").write_bytes(content)
    (path / "COMMITTED").write_text(hashlib.sha256(content).hexdigest())
    assert store.best().position == position(10, -1.5)
