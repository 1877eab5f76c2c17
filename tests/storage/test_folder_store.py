"""Folders on local disk and on an S3 server behave alike for writers and for readers."""

import pickle
from contextlib import contextmanager
from typing import ClassVar

import pytest

from vaedist.errors import RunError
from vaedist.storage.stored_folder import open_folder
from vaedist.storage.transfer import Store

KINDS = ["local", "s3"]


@pytest.fixture(params=KINDS)
def location(request, tmp_path, s3):
    """Path or URI of a folder that does not exist."""
    name = f"{request.node.originalname}-{request.param}"
    return str(tmp_path / name) if request.param == "local" else s3.uri(f"folders/{name}")


@pytest.fixture
def elsewhere(location, tmp_path_factory, monkeypatch):
    """Opens the folder as on a machine without a copy of its files."""

    def look():
        with monkeypatch.context() as patch:
            patch.setenv("VAEDIST_CACHE", str(tmp_path_factory.mktemp("other")))
            return open_folder(location)

    return look


def names(store, under=None):
    return sorted(path.relative_to(store.path).as_posix() for path in store.files(under))


def put(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_files_of_one_process_are_read_by_another(location, elsewhere):
    mine, other = open_folder(location), elsewhere()
    assert (mine.exists(), names(mine)) == (False, [])
    with pytest.raises(FileNotFoundError):
        other.read(other.path / "a.txt")
    mine.write(mine.path / "a.txt", b"one")
    mine.write(mine.path / "b" / "c.txt", b"deep")
    assert other.exists()
    assert other.read(other.path / "a.txt") == b"one"
    assert names(other) == ["a.txt", "b/c.txt"]
    assert names(other, other.path / "b") == ["b/c.txt"]
    assert other.folders() == ["b"]
    assert other.child("b").read(other.path / "b" / "c.txt") == b"deep"
    other.fetch(other.files())
    assert (other.path / "b" / "c.txt").read_text() == "deep"


def test_refreshed_files_follow_those_that_are_kept(location, elsewhere):
    mine, other = open_folder(location), elsewhere()
    record, log = other.path / "record", other.path / "log"
    mine.write(mine.path / "record", b"one")
    other.refresh(record, log)
    assert (record.read_text(), log.exists()) == ("one", False)
    mine.write(mine.path / "record", b"two")
    other.refresh(record)
    assert record.read_text() == "two"
    mine.remove(mine.path / "record")
    other.refresh(record)
    assert not record.exists()


def test_pushed_files_are_seen_and_removed_ones_are_not(location, elsewhere):
    mine, other = open_folder(location), elsewhere()
    first, second = mine.path / "plots" / "a.png", mine.path / "plots" / "b.png"
    for path in (first, second):
        put(path, path.name)
    mine.push(first, second)
    assert names(other) == ["plots/a.png", "plots/b.png"]
    mine.remove(first)
    mine.remove(first)  # it is already removed
    assert names(other) == ["plots/b.png"]
    mine.remove_all()
    assert not other.exists()
    assert not mine.path.exists()
    with pytest.raises(FileNotFoundError):
        other.folders()


def test_a_workspace_publishes_written_files_and_committed_folders(location, elsewhere):
    other, done = elsewhere(), []
    with open_folder(location).workspace(leave=lambda name: name.startswith("points/")) as store:
        put(store.path / "metrics", "row")
        for name in ("one", "two", "three"):
            put(store.path / "points" / name / "data", name)
            put(store.path / "points" / name / "mark", name)
            store.commit_folder(store.path / "points" / name, last="mark", done=lambda name=name: done.append(name))
        store.settle()
        assert done == ["one", "two", "three"]
        store.remove_folder(store.path / "points" / "one", first="mark")
        store.settle()
        store.set_aside(store.path / "points" / "two", first="mark")
        assert [path.name for path in (store.path / "points").glob("[!d]*")] == ["three"]
    assert other.read(other.path / "metrics") == b"row"
    *aside, data, mark = names(other, other.path / "points")
    assert [data, mark] == ["points/three/data", "points/three/mark"]
    assert [name.rpartition("/")[2] for name in aside] == ["data", "mark"]
    assert all(name.startswith("points/damaged-two") for name in aside)
    assert other.read(other.path / aside[0]) == b"two"


def test_a_workspace_that_only_reads_publishes_nothing(s3, tmp_path):
    location = s3.uri("folders/readers")
    open_folder(location).write(open_folder(location).path / "a", b"1")
    with open_folder(location).workspace(writes=False) as store:
        put(store.path / "b", "2")
        store.refresh(store.path / "a")
        assert (store.path / "a").read_text() == "1"
    assert names(open_folder(location)) == ["a"]


class Taken(Exception):  # noqa: N818
    """Raised if another writer has replaced this one."""


def test_a_writer_that_was_replaced_publishes_nothing(location, elsewhere):
    def may_write():
        raise Taken

    with pytest.raises(Taken), open_folder(location).workspace(may_write=may_write) as store:  # noqa: PT012
        store.check_writer()
        put(store.path / "late", "row")
    assert not elsewhere().exists()


class Cluster:
    """A session whose cluster has one lock per name, and which logs a line when it connects."""

    held: ClassVar[set[str]] = set()

    @contextmanager
    def connect(self, log):
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as file:
            file.write("connected\n")
        yield

    @contextmanager
    def lock(self, name, busy):
        if name in self.held:
            raise RunError(busy)
        self.held.add(name)
        yield
        self.held.remove(name)


def claim(store, text):
    return store.claim(store.path / "record", text, busy="busy", log=store.path / "logs" / "log.txt", session=Cluster())


def test_a_claim_writes_a_record_at_once_only_if_there_is_none(location, elsewhere):
    store, other = open_folder(location), elsewhere()

    def record():
        return other.read(other.path / "record").decode()

    for begins in (False, True):
        with claim(store, "first") as claimed:
            assert record() == "first"
            if begins:
                claimed.begin()
        assert other.exists() is begins
    with claim(store, "second") as claimed:
        assert record() == "first"
        claimed.accept()
        assert record() == "second"
    with claim(store, "third") as claimed:
        claimed.begin()
    assert record() == "second"
    assert other.read(other.path / "logs" / "log.txt") == b"connected\n" * 3


def test_a_folder_is_claimed_once_and_left_to_its_owner(location, elsewhere):
    with claim(open_folder(location), "first") as claimed:
        with pytest.raises(RunError, match="busy"), claim(elsewhere(), "second"):
            pass
        claimed.begin()
    other = elsewhere()
    assert other.read(other.path / "record") == b"first"


def test_an_empty_folder_of_the_user_stays_empty_if_no_work_begins(tmp_path):
    store = open_folder(tmp_path)
    with claim(store, "first"):
        assert names(store) == [".lock", "logs/log.txt", "record"]
    assert names(store) == [".lock"]
    assert not (tmp_path / "logs").exists()
    with claim(store, "second") as claimed:
        assert claimed.new


class OtherCluster(Cluster):
    """A session of a cluster that does not see the locks of the other one."""

    held: ClassVar[set[str]] = set()


def claim_elsewhere(store, text):
    log = store.path / "logs" / "log.txt"
    return store.claim(store.path / "record", text, busy="busy", log=log, session=OtherCluster())


def test_a_claim_that_failed_leaves_what_another_command_wrote(s3, tmp_path):
    location = s3.uri(f"folders/{tmp_path.name}")
    mine, other = open_folder(location), open_folder(location)
    with claim(mine, "first"):
        other.write(other.path / "record", b"second")
        other.write(other.path / "part", b"1")
    assert other.read(other.path / "record") == b"second"
    assert other.read(other.path / "part") == b"1"
    with claim(mine, "third") as claimed:
        assert not claimed.new
    assert names(other) == ["logs/log.txt", "part", "record"]


def test_files_of_another_command_with_the_same_record_stay(s3, tmp_path):
    location = s3.uri(f"folders/{tmp_path.name}")
    mine, other = open_folder(location), open_folder(location)
    with claim(mine, "same"), claim_elsewhere(other, "same") as theirs:
        theirs.begin()
        other.write(other.path / "part", b"1")
    assert other.read(other.path / "part") == b"1"


def test_of_two_records_written_at_once_the_last_one_counts(s3, tmp_path, monkeypatch):
    store = open_folder(s3.uri(f"folders/{tmp_path.name}"))
    write = Store.write

    def both(self, name, content):
        write(self, name, content)
        write(self, name, b"of another command")

    monkeypatch.setattr(Store, "write", both)
    with pytest.raises(RunError, match=r"^busy$"), claim(store, "first"):
        pass
    assert store.read(store.path / "record") == b"of another command"


def test_locations_are_shown_in_full_and_readably(tmp_path, s3, monkeypatch):
    monkeypatch.chdir(tmp_path)
    local, remote = open_folder(tmp_path / "runs" / "a"), open_folder(s3.uri("runs/a"))
    picture = local.path / "pictures" / "x.png"
    assert (local.location_of(picture), local.display(picture)) == (str(picture), "runs/a/pictures/x.png")
    assert (local.display(), local.parent, local.name) == ("runs/a", str(tmp_path / "runs"), "a")
    assert remote.location_of(remote.path / "pictures" / "x.png") == s3.uri("runs/a/pictures/x.png")
    assert (remote.display(), remote.parent, remote.name) == (s3.uri("runs/a"), s3.uri("runs"), "a")


def test_a_folder_that_was_used_travels_to_another_process(location):
    store = open_folder(location)
    store.write(store.path / "a", b"1")
    again = pickle.loads(pickle.dumps(store))
    assert again == store
    assert again.read(again.path / "a") == b"1"
