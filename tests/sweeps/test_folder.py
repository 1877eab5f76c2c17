import json
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaedist.config.sections import NAME_PATTERN, RunSection
from vaedist.errors import RunError, StorageError
from vaedist.sweeps import SweepFolder, TrialLog
from vaedist.sweeps.trial import Epoch
from vaedist.sweeps.trial_log import run_name


def test_the_log_reads_back(mixed):
    trials = mixed.folder.read_trials()
    assert trials == list(mixed.log.trials.values()) == list(TrialLog.open(mixed.folder).trials.values())
    assert [trial.number for trial in trials] == list(range(7))
    states = ["finished", "stopped", "finished", "stopped", "failed", "running", "open"]
    assert [trial.state for trial in trials] == states
    assert trials[4].reason == "loss became NaN | at step 130\nof 400"
    assert trials[2].params == {"model.flow.depth": 2, "model.latent": 32}
    assert trials[2].run.path == mixed.folder.path / "0002-depth-2-latent-32"
    assert mixed.folder.read_sweep() == mixed.sweep


def test_epochs_and_best_epoch_of_a_trial(written):
    sweep = written()
    sweep.trial((0, 16), (-3.0, float("nan"), -1.0, -2.0), bits_per_dim=(4.0, 3.0, 2.5, 2.0))
    sweep.trial((0, 32))
    made, none = sweep.folder.read_trials()
    assert made.epochs == (
        Epoch(1, 100, -3.0, None, 4.0),
        Epoch(3, 300, -1.0, None, 2.5),
        Epoch(4, 400, -2.0, None, 2.0),
    )
    assert (made.best("elbo", "max"), made.best("bits_per_dim", "min")) == (-1.0, 2.0)
    assert made.best("importance_bound", "max") is None
    assert (none.epochs, none.best("elbo", "max")) == ((), None)


def test_a_trial_as_it_was_after_an_epoch(written):
    sweep = written()
    sweep.trial((0, 16), (-3.0, -2.5, -1.0, -2.0))
    (made,) = sweep.folder.read_trials()
    then = replace(made, until=2)
    assert ([epoch.epoch for epoch in then.epochs], then.best("elbo", "max")) == ([1, 2], -2.5)
    assert [epoch.epoch for epoch in made.epochs] == [1, 2, 3, 4]


def test_epochs_after_the_one_at_which_a_trial_was_stopped_do_not_count(written):
    sweep = written()
    sweep.trial((0, 16), (-3.0, -2.5, -1.0))
    sweep.log.set(0, "stopped", until=2)
    for trials in (sweep.log.trials, TrialLog.open(sweep.folder).trials):
        assert [epoch.epoch for epoch in trials[0].epochs] == [1, 2]
    sweep.log.set(0, "running")  # resumed
    assert [epoch.epoch for epoch in sweep.folder.read_trials()[0].epochs] == [1, 2, 3]


def test_starts_are_counted_over_retries(mixed):
    for _ in range(2):
        mixed.log.set(4, "running")
        mixed.log.set(4, "failed", "again")
    mixed.log.set(6, "running")
    mixed.log.set(6, "open")
    trials = TrialLog.open(mixed.folder).trials
    assert [trials[number].starts for number in (0, 4, 6)] == [1, 3, 1]
    assert trials[4].reason == "again"
    assert trials[6].state == "open"


def test_a_reason_belongs_to_its_state(mixed):
    assert mixed.log.set(4, "running").reason == ""


@pytest.mark.parametrize("torn", [b'{"trial": 6, "state": "fin', b'{"trial": 6, "state": "failed"}', b"\xff\x00"])
def test_a_torn_last_line_is_ignored_and_cut_off(mixed, torn):
    whole = mixed.folder.trials.read_bytes()
    with mixed.folder.trials.open("ab") as file:
        file.write(torn)
    assert mixed.folder.read_trials()[6].state == "open"
    assert mixed.folder.trials.read_bytes() == whole + torn  # a reader changes nothing
    log = TrialLog.open(mixed.folder)
    assert mixed.folder.trials.read_bytes() == whole
    log.set(6, "finished")
    assert mixed.folder.read_trials()[6].state == "finished"


@pytest.mark.parametrize(
    "damaged",
    [
        "{",
        "[]",
        "null",
        "{}",
        '{"trial": 99, "state": "open"}',
        '{"trial": "0", "state": "open", "run": "x", "params": {}}',
        '{"trial": 0, "state": "lost"}',
        '{"trial": 0, "state": ["open"]}',
    ],
)
def test_a_damaged_line_is_named(mixed, damaged):
    lines = mixed.folder.trials.read_text().splitlines()
    lines[3] = damaged
    mixed.folder.trials.write_text("\n".join(lines) + "\n")
    for read in (mixed.folder.read_trials, lambda: TrialLog.open(mixed.folder)):
        with pytest.raises(RunError, match=r"trials\.jsonl line 4 is not a trial's record") as raised:
            read()
        assert "\n" not in str(raised.value)


def test_a_missing_sweep_is_refused(tmp_path):
    folder = SweepFolder.at(tmp_path / "none")
    for read in (folder.read_sweep, folder.read_trials, lambda: TrialLog.open(folder)):
        with pytest.raises(RunError, match=r"no sweep at .*none: it has no sweep\.toml"):
            read()


def test_a_sweep_without_a_log_has_no_trials(written):
    assert written().folder.read_trials() == []


def test_failed_writes_are_reported_in_one_line(mixed):
    mixed.folder.trials.unlink()
    mixed.folder.trials.mkdir()
    with pytest.raises(StorageError, match=r"^cannot write .*trials\.jsonl: Is a directory$"):
        mixed.log.set(6, "finished")
    assert mixed.log.trials[6].state == "open"


def test_each_line_is_json_with_the_time(mixed):
    records = [json.loads(line) for line in mixed.folder.trials.read_text().splitlines()]
    assert records[0] | {"time": 0} == {
        "trial": 0,
        "state": "open",
        "run": "0000-depth-0-latent-16",
        "params": {"model.flow.depth": 0, "model.latent": 16},
        "time": 0,
    }
    times = [record["time"] for record in records]
    assert times == sorted(times)


VALUES = st.one_of(st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text())


@given(number=st.integers(0, 10**6), params=st.dictionaries(st.text(min_size=1), VALUES, max_size=12))
def test_a_run_may_bear_the_name_of_any_trial(number, params):
    name = run_name(number, params)
    assert re.fullmatch(NAME_PATTERN, name)
    assert RunSection(name=name).name == name
    assert name.startswith(f"{number:04d}")


def test_names_describe_the_trial():
    params = {"model.flow.depth": 3, "training.learning_rate": 1.23456e-4, "model.flow.transform": "gated"}
    assert run_name(7, params) == "0007-depth-3-learning_rate-0.000123-transform-gated"
    assert run_name(12345, {"model.likelihood": "-"}) == "12345-likelihood"
    assert run_name(0, {}) == "0000"
    assert len(run_name(0, {"model.latent": "x" * 200})) == 80
