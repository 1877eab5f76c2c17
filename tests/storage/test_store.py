"""Files on an S3 server that is slow, busy or temporarily unreachable, and data read through the cache."""

import fcntl
import hashlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from board import Board
from command import refused
from synthetic import source

from vaedist.data.manifest import load_manifest, verify
from vaedist.data.prepare import prepare
from vaedist.data.shards import open_split
from vaedist.errors import DataError, StorageError
from vaedist.storage.cache import FileCache
from vaedist.storage.follower import Follower
from vaedist.storage.mirror import Mirror
from vaedist.storage.scratch import PREFIX, scratch_folder
from vaedist.storage.stored_folder import open_folder
from vaedist.storage.transfer import Store
from vaedist.storage.uri import absolute_location, fault_of, is_remote, join_uri, local_path, name_of, parent_of


@pytest.fixture
def store(s3, request):
    """Returns an empty folder of the server."""
    return Store(s3.uri(f"tests/{request.node.originalname}"), seconds=10)


def wait_until(true, seconds=20):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_uris_keep_their_query_and_unknown_schemes_are_reported():
    uri = "s3://b/runs?scheme=http"
    assert join_uri(uri, "a", "b.txt") == "s3://b/runs/a/b.txt?scheme=http"
    assert (name_of(uri), parent_of(uri)) == ("runs", "s3://b?scheme=http")
    assert join_uri("a/what?", "b") == "a/what?/b"
    assert absolute_location("s3://b/runs/?scheme=http") == open_folder("s3://b/runs/?scheme=http").location == uri
    assert is_remote(uri)
    assert not is_remote("file:///tmp/x%20y")
    assert str(local_path("file:///tmp/x%20y")) == "/tmp/x y"
    assert fault_of(uri) is None
    assert fault_of("runs") is None
    assert "s3://" in fault_of("s4://b/runs")
    assert "credentials" in fault_of("s3://key:secret@b/runs")
    assert "bucket" in fault_of("s3:///runs")


def test_files_go_there_and_back(store, tmp_path):
    (tmp_path / "big").write_bytes(os.urandom(11 << 20))  # in several parts
    store.upload(tmp_path / "big", "a/big")
    store.write("a/b/small", b"0123456789")
    assert {name: state.size for name, state in store.files().items()} == {"a/big": 11 << 20, "a/b/small": 10}
    assert set(store.files("a/b")) == {"a/b/small"}
    assert store.folders() == ["a"]
    store.download("a/big", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "big").read_bytes()
    assert store.read_from("a/b/small", 7) == b"789"
    store.rename("a/b/small", "c/small")
    store.rename("a/b/small", "c/small")  # as if the first response was lost
    assert store.read("c/small") == b"0123456789"
    store.remove("a/big")
    store.remove("a/big")
    store.remove_folder("c")
    assert store.files() == {}
    with pytest.raises(FileNotFoundError):
        store.read("a/big")


def test_aws_endpoint_url_names_the_server(s3, store, monkeypatch):
    store.write("x", b"1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{s3.proxy.port}")
    assert Store(store.uri.partition("?")[0]).read("x") == b"1"


def test_a_busy_and_a_slow_store_are_waited_for(s3, store):
    store.write("x", b"1")
    busy = iter([True] * 4 + [False] * 100)
    s3.proxy.refuse = lambda method, path: next(busy)
    said = []
    store.notify = said.append
    assert store.read("x") == b"1"
    assert len(said) == 1
    assert "503" in said[0]
    s3.proxy.delay = 3.5  # pyarrow itself gives up after 3 s
    assert store.exists()


def test_retries_end_in_time_unless_the_store_recovers(s3, store):
    store.write("x", b"1")
    s3.proxy.vanish()
    try:
        begin = time.monotonic()
        with pytest.raises(StorageError, match=r"^cannot read s3://.*/x\?.*: .*[Cc]onnect"):
            Store(store.uri, seconds=1).read("x")
        assert time.monotonic() - begin < 10
        threading.Timer(1.0, s3.proxy.appear).start()
        assert store.read("x") == b"1"
    finally:
        wait_until(lambda: Store(store.uri, seconds=5).exists())


def test_permanent_errors_are_not_retried(s3):
    nowhere = Store(s3.uri("x", bucket="nowhere"), seconds=60)
    begin = time.monotonic()
    with pytest.raises(StorageError, match="there is no bucket nowhere"):
        nowhere.check()
    with pytest.raises(StorageError, match="NO_SUCH_BUCKET"):
        nowhere.write("x", b"1")
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize("name", ["../escape", "a/../../escape", "a/./b", "a\\b"])
def test_names_that_lead_out_of_the_local_folder_are_refused(s3, tmp_path, name):
    folder = f"evil-{len(name)}"
    s3.put(f"{folder}/{name}", b"1")
    store = Store(s3.uri(folder))
    follower = Follower(store, tmp_path / "copy", wanted=lambda name: True, grows=lambda name: False)
    for read in (store.files, follower.update):
        with pytest.raises(StorageError, match="whose name cannot be used"):
            read()
    assert list(tmp_path.rglob("*")) == []


def test_a_data_set_on_s3_is_the_same_and_each_shard_is_fetched_once(s3, small_dataset, request):
    uri = s3.uri(f"data/{request.node.name}")
    s3.proxy.refuse = lambda method, path: method == "PUT" and len(s3.proxy.requests) % 5 == 2
    manifest = prepare(source(train=53, test=19), uri, shards=8)
    assert manifest == load_manifest(str(small_dataset)) == verify(uri)
    s3.proxy.requests.clear()
    for _ in range(2):
        there, here = (open_split(place, manifest, "train", [2, 0, 7]) for place in (uri, str(small_dataset)))
        for one, other in zip(there, here, strict=True):
            np.testing.assert_array_equal(one.images, other.images)
            np.testing.assert_array_equal(one.labels, other.labels)
    assert sum(method == "GET" for method, _ in s3.proxy.requests) == 3
    with pytest.raises(DataError, match="already exists"):
        prepare(source(train=53, test=19), uri, shards=8)


def test_a_shard_that_differs_is_reported_with_its_path_and_not_kept(s3, tmp_path, request):
    uri = s3.uri(f"data/{request.node.name}")
    manifest = prepare(source(), uri, shards=4)
    shard = manifest.splits["test"].shards[1]
    content = bytearray(Store(uri).read(shard.file))
    content[len(content) // 2] ^= 1
    Store(uri).write(shard.file, bytes(content))
    with pytest.raises(DataError, match=rf"s3://.*/{shard.file}.* is damaged: its SHA-256"):
        open_split(uri, manifest, "test", [1])
    Store(uri).write(shard.file, bytes(content[:-1]))
    with pytest.raises(DataError, match="is damaged"):
        open_split(uri, manifest, "test", [1])
    Store(uri).write(shard.file, bytes(content) + b"more")
    with pytest.raises(DataError, match="is damaged"):
        open_split(uri, manifest, "test", [1])
    Store(uri).remove(shard.file)
    with pytest.raises(DataError, match="is missing"):
        open_split(uri, manifest, "test", [1])
    assert entries(Path(os.environ["VAEDIST_CACHE"], "shards")) == set()


def entries(folder):
    """Returns the names of the files in a cache."""
    return {path.name for path in folder.iterdir() if path.suffix != ".lock" and path.name not in (".room", ".newest")}


def put(store, number, size=1000):
    """Writes a file of a size to the store; returns the arguments for `fetch`."""
    content = bytes([number]) * size
    store.write(str(number), content)
    return {"name": str(number), "sha256": hashlib.sha256(content).hexdigest(), "size": size}


def test_the_cache_evicts_the_least_recently_used_files_beyond_its_limit(s3, store, tmp_path):
    cache, files = FileCache(tmp_path, limit=2500), [put(store, number) for number in range(4)]
    for number in (0, 1, 0, 2):  # 1 is the oldest when 2 needs space
        cache.fetch(store, **files[number]).release()
    assert entries(tmp_path) == {files[0]["sha256"], files[2]["sha256"]}
    full = pytest.raises(DataError, match=r"no room: 2,000 bytes are in use, 1,000 more .* allows 2,500")
    with cache.fetch(store, **files[0]), cache.fetch(store, **files[2]), full:
        cache.fetch(store, **files[3])
    with cache.fetch(store, **files[3]) as entry:
        assert entry.path.read_bytes() == b"\3" * 1000


def test_recently_used_files_stay_longest_even_if_the_clock_is_set_back(s3, store, tmp_path, monkeypatch):
    cache, files = FileCache(tmp_path, limit=2500), [put(store, number) for number in range(4)]
    for hour, number in enumerate((0, 1, 0, 2)):  # 1 is the oldest when 2 needs space
        monkeypatch.setattr("time.time_ns", lambda hour=hour: 1_700_000_000_000_000_000 - hour * 3_600_000_000_000)
        monkeypatch.setattr("os.utime", stamped(hour))
        cache.fetch(store, **files[number]).release()
    assert entries(tmp_path) == {files[0]["sha256"], files[2]["sha256"]}


def stamped(hour, utime=os.utime):
    """Returns an `os.utime` that behaves as on a machine whose clock was set back by some hours."""
    behind = 1_700_000_000_000_000_000 - hour * 3_600_000_000_000
    return lambda path, times=None, *, ns=None: (
        utime(path, times, ns=ns) if ns or times else utime(path, ns=(behind,) * 2)
    )


def test_an_entry_is_kept_as_long_as_its_arrays(s3, request, monkeypatch):
    uri = s3.uri(f"data/{request.node.name}")
    manifest = prepare(source(), uri, shards=4)
    monkeypatch.setenv("VAEDIST_CACHE_BYTES", str(manifest.splits["test"].shards[0].bytes + 100))
    (first,) = open_split(uri, manifest, "test", [0])
    view = first.images.reshape(len(first.images), -1)[1:]
    del first
    with pytest.raises(DataError, match="no room"):
        open_split(uri, manifest, "test", [1])
    del view
    open_split(uri, manifest, "test", [1])


FETCH = """
import sys
from pathlib import Path
from vaedist.storage.cache import FileCache
from vaedist.storage.scratch import PREFIX, scratch_folder
from vaedist.storage.transfer import Store
store, folder, name, sha256, size = sys.argv[1:]
FileCache(Path(folder), 10**6).fetch(Store(store), name, sha256=sha256, size=int(size))
"""


def test_processes_that_want_the_same_file_fetch_it_once(s3, store, tmp_path):
    file = put(store, 7)
    s3.proxy.delay = 0.3
    s3.proxy.requests.clear()
    arguments = [store.uri, str(tmp_path), *map(str, file.values())]
    processes = [subprocess.Popen([sys.executable, "-c", FETCH, *arguments]) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert sum(method == "GET" for method, _ in s3.proxy.requests) == 1


def test_partial_files_of_a_killed_process_in_the_cache_do_no_harm(s3, store, tmp_path):
    file = put(store, 7)
    (tmp_path / f"{file['sha256']}.part").write_bytes(b"half")
    cache = FileCache(tmp_path, limit=1000)
    with cache.fetch(store, **file) as entry:
        assert entry.path.stat().st_size == 1000
        lock = os.open(entry.path.with_suffix(".lock"), os.O_RDWR)
        with pytest.raises(BlockingIOError):  # the lock is held
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(lock)


def test_a_mirror_uploads_changes_and_commits_in_order(s3, store, tmp_path):
    mirror = Mirror(tmp_path, store, leave=lambda name: name.startswith("points/"), every=0.1)
    (tmp_path / "log").write_text("one\n")
    wait_until(lambda: "log" in store.files())
    with (tmp_path / "log").open("a") as log:
        log.write("two\n")
    (tmp_path / "points" / "1").mkdir(parents=True)
    for name in ("DONE", "a", "b"):
        (tmp_path / "points" / "1" / name).write_text(name)
    done = []
    s3.proxy.requests.clear()
    mirror.commit("points/1", last="DONE", done=lambda: done.append(store.read("log")))
    mirror.settle()
    assert done == [b"one\ntwo\n"]
    written = [path.rpartition("/")[2] for method, path in s3.proxy.requests if method == "PUT"]
    assert [name for name in written if name in ("log", "a", "b", "DONE")] == ["log", "a", "b", "DONE"]
    mirror.remove("points/1", first="DONE")
    (tmp_path / "last").write_text("!")
    mirror.close()
    assert set(store.files()) == {"log", "last"}


def test_a_mirror_continues_after_an_outage_and_does_not_block_its_owner(s3, store, tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "DONE").write_text("x")
    said = []
    mirror = Mirror(tmp_path, Store(store.uri, seconds=30, notify=said.append), leave=lambda name: True)
    s3.proxy.vanish()
    begin = time.monotonic()
    mirror.commit("1", last="DONE")
    assert time.monotonic() - begin < 0.5
    wait_until(lambda: said)
    s3.proxy.appear()
    mirror.close()
    assert set(store.files()) == {"1/DONE"}


def test_a_mirror_ends_with_the_error_of_a_store_that_does_not_recover(s3, store, tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "DONE").write_text("x")
    s3.proxy.refuse = lambda method, path: True
    mirror = Mirror(tmp_path, Store(store.uri, seconds=0.5), leave=lambda name: True)
    mirror.commit("1", last="DONE")
    with pytest.raises(StorageError, match=r"cannot remove .*/1/DONE"):
        mirror.settle()
    with pytest.raises(StorageError):
        mirror.commit("1", last="DONE")
    with pytest.raises(StorageError):
        mirror.close()


def test_a_follower_appends_to_files_that_grow_so_that_tensorboard_reads_on(s3, store, tmp_path):
    from vaedist.monitor.tensorboard import TensorBoardWriter

    writer = TensorBoardWriter(tmp_path / "there", purge_step=None)
    (file,) = (tmp_path / "there").iterdir()
    follower = Follower(
        store, tmp_path / "here", wanted=lambda name: "tensorboard" in name, grows=lambda name: "events" in name
    )
    store.write("run/checkpoints/x", b"1")

    def step(number):
        writer.scalars(number, {"elbo": float(number)})
        writer.flush()
        store.upload(file, f"run/tensorboard/{file.name}")
        follower.update()

    step(1)
    board = Board(tmp_path / "here" / "run" / "tensorboard")
    inode = (tmp_path / "here" / "run" / "tensorboard" / file.name).stat().st_ino
    step(2)
    assert follower.update() == 0
    assert (tmp_path / "here" / "run" / "tensorboard" / file.name).stat().st_ino == inode
    board.reader.Reload()
    assert board.curve("elbo") == [(1, 1.0), (2, 2.0)]
    assert not (tmp_path / "here" / "run" / "checkpoints").exists()
    store.remove(f"run/tensorboard/{file.name}")
    follower.update()
    assert not (tmp_path / "here" / "run" / "tensorboard" / file.name).exists()


JOB = '[data]\npath = "{data}"\n[model]\nhidden = 8\nlatent = 4\n[training]\nepochs = 1\nglobal_batch = 8\n'


def test_bad_locations_are_reported_in_one_line_and_leave_no_files(s3, tmp_path, small_dataset):
    (tmp_path / "job.toml").write_text(JOB.format(data=small_dataset))
    told = refused(tmp_path, "train", "job.toml", "--runs", "s4://bucket/runs")
    assert told.startswith("error: command line: run.folder = 's4://bucket/runs': must be a local path, or a URI")
    told = refused(tmp_path, "train", "job.toml", "--runs", s3.uri("runs", bucket="nowhere"))
    assert told.endswith("there is no bucket nowhere")
    told = refused(tmp_path, "runs", "show", s3.uri("runs/none"))
    assert told.startswith("error: no run at s3://bucket/runs/none")
    told = refused(tmp_path, "train", "job.toml", "--set", f"data.path='{s3.uri('none')}'")
    assert told.startswith("error: no data set at s3://bucket/none")


def test_scratch_folders_of_killed_processes_are_removed_and_those_in_use_are_not(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with scratch_folder() as used:
        abandoned = tmp_path / f"{PREFIX}abandoned"
        for folder in (used, abandoned):
            (folder / "below").mkdir(parents=True)
            os.utime(folder, (0, 0))
        with scratch_folder() as other:
            assert set(tmp_path.iterdir()) == {used, other}
    assert list(tmp_path.iterdir()) == []
