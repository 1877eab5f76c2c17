import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaedist.errors import RunError, StorageError
from vaedist.monitor.metrics import MetricsLog, read_metrics


def write(path, steps, *, resume_step=None, elbo=0.0):
    log = MetricsLog(path, resume_step=resume_step)
    for step in steps:
        log.append("train", 1, step, {"elbo": elbo + step})
    log.close()


def test_a_row_contains_its_keys_and_values(tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    log = MetricsLog(path, resume_step=None)
    log.append("train", 1, 50, {"elbo": -1909.9, "kl": 72.5})
    log.append("test", 1, 100, {"elbo": -1886.9})
    log.close()
    assert read_metrics(path) == [
        {"kind": "train", "epoch": 1, "step": 50, "elbo": -1909.9, "kl": 72.5},
        {"kind": "test", "epoch": 1, "step": 100, "elbo": -1886.9},
    ]
    assert path.read_text().count("\n") == 2


def test_a_reader_sees_each_row_before_the_log_is_closed(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, resume_step=None)
    for step in (1, 2, 3):
        log.append("train", 1, step, {})
        assert [row["step"] for row in read_metrics(path)] == list(range(1, step + 1))
    log.close()


@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_floats_read_back_as_the_same(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("log") / "metrics.jsonl"
    log = MetricsLog(path, resume_step=None)
    log.append("train", 1, 1, {"plain": value, "numpy": np.float64(value)})
    log.close()
    (row,) = read_metrics(path)
    assert row["plain"] == value == row["numpy"]
    assert math.copysign(1, row["plain"]) == math.copysign(1, value)


def test_numpy_scalars_and_what_is_not_finite_make_valid_json(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, resume_step=None)
    values = {"a": math.nan, "b": math.inf, "c": np.float32("-inf"), "d": np.float32(0.1), "e": 7}
    log.append("train", np.int64(1), np.int64(5), values)
    log.close()

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    row = json.loads(path.read_text(), parse_constant=refuse)
    assert (row["a"], row["b"], row["c"], row["step"], row["e"]) == (None, None, None, 5, 7)
    assert np.float32(row["d"]) == np.float32(0.1)


def test_a_value_must_not_replace_a_key_of_the_row(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl", resume_step=None)
    with pytest.raises(AssertionError, match="is a key of the row"):
        log.append("train", 1, 1, {"step": 3.0})
    log.close()


@pytest.mark.parametrize("torn", [b"", b'{"kind": "train", "epoch": 1, "st', b'{"step": 5}'])
def test_a_resumed_run_has_every_row_once(tmp_path, torn):
    path = tmp_path / "metrics.jsonl"
    write(path, range(1, 11))
    with path.open("ab") as file:
        file.write(torn)
    write(path, range(6, 13), resume_step=5, elbo=100.0)
    rows = read_metrics(path)
    assert [row["step"] for row in rows] == list(range(1, 13))
    assert [row["elbo"] for row in rows] == [1, 2, 3, 4, 5, 106, 107, 108, 109, 110, 111, 112]
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize(("resume_step", "kept"), [(None, []), (0, []), (2, [1, 2]), (9, [1, 2, 3])])
def test_rows_up_to_the_checkpoint_stay(tmp_path, resume_step, kept):
    path = tmp_path / "metrics.jsonl"
    write(path, [1, 2, 3])
    write(path, [], resume_step=resume_step)
    assert [row["step"] for row in read_metrics(path)] == kept


def test_a_resumed_run_without_a_log_starts_one(tmp_path):
    write(tmp_path / "metrics.jsonl", [6], resume_step=5)
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [6]


def test_a_truncated_last_line_is_ignored(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, [1, 2])
    path.write_bytes(path.read_bytes()[:-5])
    assert [row["step"] for row in read_metrics(path)] == [1]


@pytest.mark.parametrize("line", ["{", "[1]", '{"kind": "train"}', "\udc80"])
def test_a_damaged_line_before_the_last_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    good = '{"kind": "train", "epoch": 1, "step": 1}'
    path.write_text(f"{good}\n{line}\n{good}\n", errors="surrogateescape")
    before = path.read_bytes()
    with pytest.raises(RunError, match=r"metrics\.jsonl line 2"):
        read_metrics(path)
    with pytest.raises(RunError, match=r"metrics\.jsonl line 2"):
        MetricsLog(path, resume_step=1)
    assert path.read_bytes() == before


def test_metrics_that_are_missing_are_an_error_of_the_run(tmp_path):
    with pytest.raises(RunError, match="no metrics at"):
        read_metrics(tmp_path / "metrics.jsonl")


def test_a_full_disk_leaves_whole_rows(tmp_path, file_size_limit):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, resume_step=None)
    log.append("train", 1, 1, {"elbo": -1.0})
    size = path.stat().st_size
    with (
        file_size_limit(size + 10),
        pytest.raises(StorageError, match=r"cannot write metrics .*metrics\.jsonl"),
    ):
        log.append("train", 1, 2, {"elbo": -2.0})
    assert path.stat().st_size == size
    log.append("train", 1, 3, {"elbo": -3.0})
    log.close()
    assert [row["step"] for row in read_metrics(path)] == [1, 3]


def test_a_full_disk_while_resuming_loses_no_row(tmp_path, file_size_limit):
    path = tmp_path / "metrics.jsonl"
    write(path, range(1, 100))
    before = path.read_bytes()
    with file_size_limit(100), pytest.raises(StorageError):
        MetricsLog(path, resume_step=50)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_log_below_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write metrics"):
        MetricsLog(tmp_path / "file" / "metrics.jsonl", resume_step=None)


def test_a_replaced_writer_writes_nothing_once_another_continues(tmp_path):
    path = tmp_path / "metrics.jsonl"
    given_up = MetricsLog(path, resume_step=None)
    given_up.append("train", 1, 1, {})
    write(path, [2], resume_step=1)
    given_up.append("train", 1, 2, {})
    given_up.close()
    write(path, [3], resume_step=2)
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 3]
