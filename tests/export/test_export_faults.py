"""Exports to a disk that is full, and to an object store that is gone or written by others."""

import pytest
from disks import fill, mounted

import vaedist
from vaedist.errors import RunError, StorageError
from vaedist.export import folder as export_folder
from vaedist.storage.transfer import Store

pytestmark = pytest.mark.faults


@pytest.fixture
def run(place):
    return vaedist.load_run(place / "mlp")


@pytest.mark.parametrize("part", ["save_servable", "_save_keras", "model_card"])
def test_a_disk_that_fills_up_at_any_part_is_a_storage_error_and_leaves_nothing(part, run, tmp_path, monkeypatch):
    """The real functions write to a disk that another program fills just before."""
    real = getattr(export_folder, part)
    (tmp_path / "disk").mkdir()
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=8m", "none") as disk:

        def filled(*arguments):
            fill(disk)
            return real(*arguments)

        monkeypatch.setattr(export_folder, part, filled)
        with pytest.raises(StorageError, match=rf"^cannot write [^\n]*{disk}[^\n]*$"):
            run.export(disk / "exported")
        assert [path.name for path in disk.iterdir()] == ["filler"]


def test_a_store_that_is_gone_before_or_during_the_upload_is_a_storage_error(run, s3, monkeypatch):
    out = s3.uri("exports/gone")
    monkeypatch.setattr("vaedist.export.folder.Store", lambda uri: Store(uri, seconds=1))

    def progress(text):
        if text.startswith("uploading"):
            s3.proxy.vanish()

    try:
        with pytest.raises(StorageError, match=r"^cannot write s3://[^\n]*$"):
            run.export(out, progress=progress)
        with pytest.raises(StorageError, match=r"^cannot reach s3://[^\n]*$"):
            run.export(out)
    finally:
        s3.proxy.appear()
    with pytest.raises(RunError, match="already exists and is not an empty folder"):
        run.export(out)  # its claim could not be removed
    Store(out).remove_all()
    run.export(out)
    assert "README.md" in Store(out).files()
