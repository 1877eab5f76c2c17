"""Names of runs in TensorBoard."""

import os

import pytest

from vaedist.monitor.board_view import BoardView


def make(*folders):
    """Creates runs, each with an event file."""
    for folder in folders:
        (folder / "tensorboard" / "train").mkdir(parents=True)
        (folder / "tensorboard" / "events.out.tfevents.1").touch()
        (folder / "checkpoints" / "step-1").mkdir(parents=True)


def names(view):
    """Returns the relative paths of the links, and where they lead."""
    links = [path for path in view.rglob("*") if path.is_symlink()]
    return {path.relative_to(view).as_posix(): os.path.realpath(path) for path in links}


@pytest.fixture
def shown(tmp_path):
    """Returns a function that shows some folders, and returns the names of the runs."""

    def show(*sources):
        view = tmp_path / f"view-{len(list(tmp_path.iterdir()))}"
        view.mkdir()
        BoardView(view, sources).update()
        return names(view)

    return show


def test_runs_and_trials_in_a_folder_have_their_own_names(tmp_path, shown):
    runs = tmp_path / "runs"
    make(runs / "a", runs / "sweep" / "trial-0000", runs / "sweep" / "trial-0001")
    (runs / "empty").mkdir()
    assert shown(runs) == {
        name: str(runs / name / "tensorboard") for name in ("a", "sweep/trial-0000", "sweep/trial-0001")
    }


def test_a_run_alone_has_its_name(tmp_path, shown):
    make(tmp_path / "a")
    expected = {"a": str(tmp_path / "a" / "tensorboard")}
    assert shown(tmp_path / "a") == expected
    assert shown(tmp_path / "a" / "tensorboard") == expected


def test_several_folders_are_told_apart(tmp_path, shown):
    make(tmp_path / "one" / "runs" / "a", tmp_path / "two" / "runs" / "a", tmp_path / "b")
    assert set(shown(tmp_path / "one" / "runs" / "a", tmp_path / "b")) == {"a", "b"}
    assert set(shown(tmp_path / "one" / "runs", tmp_path / "two" / "runs")) == {"one/runs/a", "two/runs/a"}
    assert set(shown(tmp_path / "b", tmp_path / "one" / "runs")) == {"b", "runs/a"}


def test_other_folders_of_events_are_shown_too(tmp_path, shown):
    (tmp_path / "logs" / "keras" / "train").mkdir(parents=True)
    (tmp_path / "logs" / "keras" / "train" / "events.out.tfevents.1").touch()
    assert set(shown(tmp_path / "logs")) == {"keras/train"}
    assert set(shown(tmp_path / "logs" / "keras" / "train")) == {"train"}


def test_links_of_the_user_are_followed_but_not_in_circles(tmp_path, shown):
    make(tmp_path / "elsewhere" / "a")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "a").symlink_to(tmp_path / "elsewhere" / "a")
    (tmp_path / "runs" / "self").symlink_to(tmp_path / "runs")
    assert set(shown(tmp_path / "runs")) == {"a"}


def test_new_runs_are_added_and_removed_ones_are_not_shown(tmp_path):
    runs, view = tmp_path / "runs", tmp_path / "view"
    view.mkdir()
    make(runs / "a", runs / "b")
    board = BoardView(view, [runs])
    board.update()
    (runs / "a").rename(runs / "c")
    board.update()
    assert set(names(view)) == {"b", "c"}
