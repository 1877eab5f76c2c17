"""Records of benchmarks: times of the parts of a step, and reading and writing files."""

import json

import pytest

from vaedist.bench.record import Measure, Record, changed, ratio, read_record
from vaedist.errors import ConfigError

RECORD = Record(
    machine={"processor": "one", "threads": "2"},
    job={"training.global_batch": 32, "model": {"latent": 5}},
    counts={"images a step": 32, "flops a step": 10**9, "bytes an update": 2 * 10**8, "parameters": 7},
    measures={
        "step": Measure("images/s", (900.0, 1000.0, 1100.0)),
        "products": Measure("GFLOP/s", (100.0,)),
        "update": Measure("updates/s", (200.0,)),
        "memory": Measure("GB/s", (20.0,)),
        "input": Measure("images/s", (320_000.0,)),
        "workers: 1": Measure("images/s", (950.0,)),
        "workers: 2": Measure("images/s", (500.0,)),
    },
)


def test_a_measure_is_its_median_and_its_spread():
    measure = Measure("s", (3.0, 1.0, 2.0))
    assert measure.median == 2
    assert measure.spread == 1


def test_the_parts_of_a_step():
    assert RECORD.seconds_a_step == pytest.approx(
        {"step": 0.032, "products": 0.01, "update": 0.005, "memory": 0.01, "input": 0.0001}
    )
    assert RECORD.share_of_limit == pytest.approx(0.02 / 0.032)
    assert {count: measure.median for count, measure in RECORD.scaling.items()} == {1: 950, 2: 500}


def test_a_record_survives_a_file(tmp_path):
    path = tmp_path / "bench.json"
    path.write_text(RECORD.to_json())
    assert read_record(path) == RECORD


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{}", '{"format": 2}', '{"format": 1}',
        json.dumps({"format": 1, "machine": {}, "job": {}, "counts": {}, "measures": {"step": {"unit": "s"}}}),
        '{"format": 1, "machine": {}, "job": {}, "counts": {}, "measures": {"s": {"unit": "s", "samples": []}}}',
        '{"format": 1, "machine": 5, "job": {}, "counts": {}, "measures": {}}',
    ],
)  # fmt: skip
def test_a_file_that_is_not_a_record_is_refused(tmp_path, text):
    path = tmp_path / "bench.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="holds no benchmark"):
        read_record(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        read_record(tmp_path / "none.json")


def test_comparing():
    assert ratio([2.0, 3.0, 4.0], [1.0, 1.5, 1.2]) == (2.5, True)
    assert ratio([1.0, 3.0, 4.0], [1.0, 1.5, 1.2]) == (2.5, False)
    assert changed({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4}) == ["b: 2, now 3", "c: unknown, now 4"]
