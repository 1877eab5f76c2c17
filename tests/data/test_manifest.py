import hashlib
import json

import numpy as np
import pytest
from synthetic import row_of, source

from vaedist.data.manifest import load_manifest, open_filesystem, parse_manifest, shard_rows, verify
from vaedist.data.prepare import prepare
from vaedist.data.shards import open_split
from vaedist.errors import DataError, StorageError


@pytest.fixture
def dataset(tmp_path):
    out = tmp_path / "numbers"
    prepare(source(), str(out), shards=4)
    return out


def rewrite(dataset, change):
    path = dataset / "manifest.json"
    tables = json.loads(path.read_text())
    change(tables)
    path.write_text(json.dumps(tables))


def test_the_fingerprint_is_the_digest_of_the_file(dataset):
    manifest = load_manifest(str(dataset))
    assert manifest.fingerprint == hashlib.sha256((dataset / "manifest.json").read_bytes()).hexdigest()


def test_the_fingerprint_does_not_depend_on_the_layout_of_the_json(dataset):
    before = load_manifest(str(dataset)).fingerprint
    rewrite(dataset, lambda tables: None)
    assert load_manifest(str(dataset)).fingerprint == before


@pytest.mark.parametrize(("rows", "shards"), [(10, 4), (8, 4), (5, 5), (7, 1), (50_000, 32)])
def test_earlier_shards_hold_the_extra_row(rows, shards):
    sizes = [shard_rows(rows, shards, lane) for lane in range(shards)]
    assert sum(sizes) == rows
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)


OLD = """{
 "classes": [
  "cat"
 ],
 "format": 1,
 "name": "numbers",
 "seed": 3,
 "shape": [
  4,
  6,
  3
 ],
 "source": {
  "kind": "test",
  "name": "numbers",
  "official": null,
  "sha256": null
 },
 "splits": {
  "test": {
   "rows": 2,
   "shards": [
    {
     "bytes": 10,
     "file": "test-00000-of-00001.arrow",
     "rows": 2,
     "sha256": "DIGEST"
    }
   ]
  },
  "train": {
   "rows": 5,
   "shards": [
    {
     "bytes": 20,
     "file": "train-00000-of-00001.arrow",
     "rows": 5,
     "sha256": "DIGEST"
    }
   ]
  }
 }
}
""".replace("DIGEST", 64 * "a")


def test_a_manifest_from_before_there_were_validation_splits_keeps_its_bytes_and_its_fingerprint():
    manifest = parse_manifest(OLD.encode(), "manifest.json")
    assert manifest.to_bytes() == OLD.encode()
    assert manifest.fingerprint == hashlib.sha256(OLD.encode()).hexdigest()
    assert manifest.selection_split == "test"


def test_a_source_may_bring_a_validation_split(tmp_path):
    out = str(tmp_path / "numbers")
    made = prepare(source(validation=17), out, shards=4)
    assert verify(out) == load_manifest(out) == made
    assert made.split_names == ("train", "test", "validation")
    assert (made.format, made.selection_split, made.held_out) == (2, "validation", None)
    arrays = open_split(out, made, "validation", range(4))
    assert sorted(np.concatenate([row_of(part.images) for part in arrays]).tolist()) == list(range(17))


def test_a_validation_split_leaves_the_other_shards_as_they_are(tmp_path):
    without = prepare(source(), str(tmp_path / "without"), shards=4)
    with_one = prepare(source(validation=17), str(tmp_path / "with"), shards=4)
    assert without.format == 1
    assert {split: with_one.splits[split] for split in ("train", "test")} == without.splits


def test_no_data_set_says_how_to_make_one(tmp_path):
    with pytest.raises(DataError, match=r"no data set at .*nowhere: run `vaedist data prepare"):
        load_manifest(str(tmp_path / "nowhere"))


def test_a_relative_path_is_a_local_one(dataset, monkeypatch):
    monkeypatch.chdir(dataset.parent)
    assert load_manifest("numbers") == load_manifest(str(dataset)) == load_manifest(f"file://{dataset}")


def test_an_unknown_kind_of_uri_is_refused():
    with pytest.raises(StorageError, match="cannot open gopher://host/x"):
        open_filesystem("gopher://host/x")


def set_file(name):
    def change(tables):
        tables["splits"]["train"]["shards"][0]["file"] = name

    return change


def move_a_row(tables):
    shards = tables["splits"]["train"]["shards"]
    shards[0]["rows"] -= 1
    shards[1]["rows"] += 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tables: tables.update(format=3), "has format 3; this version of vaedist reads formats 1 and 2"),
        (lambda tables: tables.update(format=2), "format 2 must be with a validation split"),
        (lambda tables: tables.update(held_out="end"), "held_out requires a validation split"),
        (lambda tables: tables.update(held_out="middle"), "held_out: Input should be 'random' or 'end'"),
        (lambda tables: tables["splits"].update(validation=tables["splits"]["test"]), "format 1 must be without"),
        (lambda tables: tables.update(name="../up"), "name: '../up' must match"),
        (lambda tables: tables.update(shape=[0, 6, 3]), "shape"),
        (lambda tables: tables.update(colour="red"), "colour"),
        (lambda tables: tables["splits"].pop("test"), "no test split"),
        (set_file("../../etc/passwd"), "must match"),
        (set_file("/etc/passwd"), "must match"),
        (set_file(".."), "must match"),
        (set_file("test-00000-of-00004.arrow"), "listed twice"),
        (move_a_row, "an even distribution gives"),
    ],
)
def test_a_wrong_manifest_is_refused(dataset, change, message):
    rewrite(dataset, change)
    with pytest.raises(DataError, match=message) as caught:
        load_manifest(str(dataset))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [b"", b"{", b"[1]", b"null", b"\xff\xfe", b"[" * 100_000])
def test_a_file_that_is_not_a_manifest_is_refused(dataset, text):
    (dataset / "manifest.json").write_bytes(text)
    with pytest.raises(DataError, match=r"manifest\.json (is not JSON|has format None)"):
        load_manifest(str(dataset))


def test_verify_reads_every_byte(dataset):
    seen = []
    manifest = verify(str(dataset), progress=seen.append)
    assert manifest == load_manifest(str(dataset))
    assert seen == sorted(seen)
    assert seen[-1] == manifest.bytes == sum(file.stat().st_size for file in dataset.glob("*.arrow"))


def test_verify_finds_one_flipped_bit(dataset):
    shard = dataset / "train-00002-of-00004.arrow"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DataError, match=r"train-00002-of-00004\.arrow is damaged: SHA-256"):
        verify(str(dataset))


def test_verify_finds_a_truncated_shard(dataset):
    shard = dataset / "test-00001-of-00004.arrow"
    size = shard.stat().st_size
    shard.write_bytes(shard.read_bytes()[:-8])
    with pytest.raises(DataError, match=rf"test-00001-of-00004\.arrow is damaged: {size - 8} bytes where {size}"):
        verify(str(dataset))


def test_verify_finds_a_missing_shard(dataset):
    (dataset / "train-00003-of-00004.arrow").unlink()
    with pytest.raises(DataError, match=r"train-00003-of-00004\.arrow is missing"):
        verify(str(dataset))
