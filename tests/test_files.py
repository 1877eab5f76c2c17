from vaedist.files import mark_used


def test_later_use_has_a_later_time_even_if_the_clock_runs_backwards(tmp_path, monkeypatch):
    files = [tmp_path / name for name in "abc"]
    for number, file in enumerate((*files, files[0])):
        file.touch()
        monkeypatch.setattr("time.time_ns", lambda number=number: 4_000_000_000_000_000_000 - number * 10**12)
        mark_used(file, tmp_path / ".newest")
    assert sorted(files, key=lambda file: file.stat().st_mtime_ns) == [files[1], files[2], files[0]]
    with files[1].open("r+") as opened:
        mark_used(opened.fileno(), tmp_path / ".newest")
    assert max(files, key=lambda file: file.stat().st_mtime_ns) == files[1]
    assert files[1].stat().st_mtime_ns == (tmp_path / ".newest").stat().st_mtime_ns


def test_the_time_is_that_of_the_clock_while_it_advances(tmp_path, monkeypatch):
    (tmp_path / "a").touch()
    monkeypatch.setattr("time.time_ns", lambda: 4_000_000_000_000_000_000)
    mark_used(tmp_path / "a", tmp_path / ".newest")
    assert (tmp_path / "a").stat().st_mtime_ns == 4_000_000_000_000_000_000
