"""The folder of an output: its record, damaged parts, files that killed commands left, and foreign files."""

import json
import random

import numpy as np
import pyarrow as pa
import pytest
from random_runs import save_run

import vaedist
from vaedist.config import Experiment
from vaedist.errors import RunError, StorageError
from vaedist.inference.encode import encode_job
from vaedist.inference.output import OutputFolder, ParquetFormat, record_text
from vaedist.inference.parts import Part

PARQUET = ParquetFormat()
PART = Part("test-000000", "test", 0, 40)


@pytest.fixture(scope="module")
def run(small_dataset, tmp_path_factory):
    experiment = Experiment().with_overrides(
        f"data.path={small_dataset}", "model.hidden=8", "model.latent=4", "model.flow.depth=0"
    )
    folder = save_run(tmp_path_factory.mktemp("runs") / "x", experiment)
    return vaedist.load_run(folder.path)


@pytest.fixture
def job(run):
    return encode_job(run, split="test")


@pytest.fixture
def output(tmp_path):
    return OutputFolder.at(tmp_path / "out")


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    columns = {
        "split": ["test"] * 40,
        "row": rng.integers(0, 9, 40),
        "z": pa.FixedSizeListArray.from_arrays(pa.array(rng.normal(size=160), pa.float32()), 4),
    }
    return pa.table(columns).replace_schema_metadata({"vaedist": "the job"})


def found(output, columns=("split", "row", "z")):
    return PARQUET.find(output, PART, {"vaedist": "the job"}, columns)


def test_a_part_is_found_if_it_is_of_the_job(output, table):
    assert found(output) is None
    PARQUET.write(output, PART, table)
    assert found(output).equals(table)
    assert found(output, ["row"]).column_names == ["row"]
    assert PARQUET.find(output, PART, {"vaedist": "another job"}, ["row"]) is None
    PARQUET.write(output, PART, table.slice(1))
    assert found(output) is None


@pytest.mark.parametrize("columns", [(), ("row",)])
def test_a_damaged_part_is_not_found(output, table, columns):
    """Its footer, its data, all of it: other errors than these would end the command or be tried again for minutes."""
    PARQUET.write(output, PART, table)
    path = output.path / "test-000000.parquet"
    whole, random_bytes = path.read_bytes(), random.Random(0)
    footer = len(whole) - 8 - 50
    damage = {"footer": (footer, 50), "end": (len(whole) - 4, 4), "length": (len(whole) - 8, 4), "data": (150, 30)}
    for start, count in damage.values():
        path.write_bytes(whole[:start] + random_bytes.randbytes(count) + whole[start + count :])
        assert found(output, columns) is None
    for content in (b"", b"PAR1", whole[:1000], whole[1000:], b"\0" * len(whole)):
        path.write_bytes(content)
        assert found(output, columns) is None


def test_no_damage_of_a_byte_raises_or_changes_values(output, table):
    """The footer has no checksum, so that damage of it may change a column's type."""
    PARQUET.write(output, PART, table)
    path = output.path / "test-000000.parquet"
    whole = path.read_bytes()
    for place in random.Random(1).sample(range(len(whole)), 400):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x41]) + whole[place + 1 :])
        part = found(output)
        assert part is None or part.schema.types != table.schema.types or part.to_pydict() == table.to_pydict()


def test_a_file_that_cannot_be_read_is_reported(output):
    (output.path / "test-000000.parquet").mkdir(parents=True)
    with pytest.raises(StorageError, match=r"^cannot read .*/out/test-000000.parquet: Is a directory$"):
        found(output)


def test_only_temporary_files_of_the_output_are_removed(output, job):
    own = [".train-000001.parquet.123", "_parts/.images-000001.7", ".0040.png.9", "._SUCCESS.5", "._vaedist.json.77"]
    foreign = [".git", ".notes.txt", ".DS_Store", ".mine.123", ".train-000001.parquet.swp", ".lock", "_parts/.keep"]
    for name in own + foreign:
        path = output.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    output.finish(job, PARQUET)
    left = {path.relative_to(output.path).as_posix() for path in output.store.files()}
    assert left == {*foreign, "_vaedist.json", "_SUCCESS"}


@pytest.mark.parametrize("resume", [False, True])
def test_what_a_command_leaves_that_was_killed_before_its_record_is_no_output(output, job, resume):
    output.path.mkdir()
    for name in (".lock", "._vaedist.json.123"):
        (output.path / name).touch()
        output.check(job, PARQUET, resume=resume)
    (output.path / "notes.txt").touch()
    with pytest.raises(RunError, match="is not empty, and not an output of vaedist"):
        output.check(job, PARQUET, resume=resume)


@pytest.mark.parametrize("text", ["", "[1]", "{", "null"])
def test_a_record_that_is_no_object_is_reported(output, job, text):
    output.path.mkdir()
    output.record.write_text(text)
    with pytest.raises(StorageError, match=r"^cannot read .*/out/_vaedist.json: "):
        output.check(job, PARQUET, resume=True)


def test_an_output_with_the_record_of_another_job_is_not_completed(output, job, run):
    output.path.mkdir()
    output.record.write_text(record_text(job, PARQUET))
    output.check_owner(job, PARQUET)
    output.record.write_text(json.dumps(json.loads(record_text(job, PARQUET))))
    output.finish(job, PARQUET)
    output.success.unlink()
    output.record.write_text(record_text(encode_job(run, split="test", seed=1), PARQUET))
    with pytest.raises(RunError, match="another command writes to "):
        output.finish(job, PARQUET)
    assert not output.success.exists()
