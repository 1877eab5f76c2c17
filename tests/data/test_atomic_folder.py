"""Folders on an object store: written as a whole, by one process, and removed after an error."""

import threading

import pytest

from vaedist.data.atomic_folder import CLAIM, uploaded_folder
from vaedist.errors import RunError, StorageError
from vaedist.storage.transfer import Store

FILES = {"a/1.bin": b"1", "b.txt": b"2", "LAST": b"3"}


@pytest.fixture
def store(s3, request):
    """Returns a new folder."""
    return Store(s3.uri(f"atomic/{request.node.name}"), seconds=1)


def write(folder, files=FILES):
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)


def upload(store, files=FILES, before_end=lambda: None):
    """Uploads files, and calls a function before the upload begins."""
    with uploaded_folder(store, last="LAST") as folder:
        write(folder, files)
        before_end()


def interrupt():
    raise KeyboardInterrupt


def contents(store):
    return {name: store.read(name) for name in store.files()}


def test_the_last_file_is_uploaded_last_and_no_claim_is_left(s3, store):
    with uploaded_folder(store, last="LAST") as folder:
        write(folder)
        assert [name.partition("-")[0] for name in store.files()] == [".uploading"]
        s3.proxy.requests.clear()
    written = [path.partition("?")[0].rpartition("/")[2] for method, path in s3.proxy.requests if method == "PUT"]
    assert [name for name in written if name] == ["1.bin", "b.txt", "LAST"]
    assert contents(store) == FILES


def test_a_second_command_is_refused_and_does_not_disturb_the_first(store):
    with uploaded_folder(store, last="LAST") as folder:
        write(folder)
        with pytest.raises(RunError, match="is being written by another process, or was left incomplete"):
            upload(store, dict.fromkeys(FILES, b"x"))
        assert len(store.files()) == 1
    assert contents(store) == FILES


def test_of_two_commands_at_once_at_most_one_writes(store):
    """Each checks before the other, so that neither is refused by the check of an empty folder."""
    both, ended = threading.Barrier(2), []

    def command(content):
        both.wait()
        try:
            upload(store, dict.fromkeys(FILES, content))
            ended.append(content)
        except RunError:
            pass

    threads = [threading.Thread(target=command, args=(content,)) for content in (b"x", b"y")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = contents(store)
    assert len(ended) < 2
    assert found == (dict.fromkeys(FILES, ended[0]) if ended else {})


def test_a_failed_upload_removes_its_own_files_only(s3, store):
    s3.proxy.refuse = lambda method, path: method == "PUT" and "LAST" in path
    with pytest.raises(StorageError, match="cannot write s3://"):
        upload(store, before_end=lambda: store.write("of-another/file", b"kept"))
    assert contents(store) == {"of-another/file": b"kept"}


def test_an_interrupted_command_leaves_nothing(store):
    with pytest.raises(KeyboardInterrupt):
        upload(store, before_end=interrupt)
    assert not store.exists()


def test_an_interrupted_upload_leaves_nothing(s3, store, monkeypatch):
    whole = Store.upload

    def interrupted(self, local, name):
        whole(self, local, name)
        if name == "b.txt":
            interrupt()

    monkeypatch.setattr(Store, "upload", interrupted)
    with pytest.raises(KeyboardInterrupt):
        upload(store)
    assert not store.exists()


def test_what_a_killed_command_leaves_is_refused(store):
    store.write(f"{CLAIM}0", b"")
    with pytest.raises(RunError, match="was left incomplete by one that was killed"):
        upload(store)
    assert store.files().keys() == {f"{CLAIM}0"}


def test_files_of_others_are_refused(store):
    store.write("theirs", b"")
    with pytest.raises(RunError, match="is not empty: choose another output"):
        upload(store)
    assert contents(store) == {"theirs": b""}


def test_a_store_that_is_gone_ends_with_an_error(s3, store):
    try:
        with pytest.raises(StorageError, match="cannot write s3://"):
            upload(store, before_end=s3.proxy.vanish)
    finally:
        s3.proxy.appear()
