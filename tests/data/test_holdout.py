from dataclasses import replace

import numpy as np
import pytest
from synthetic import cifar10_members, row_of, source, write_archive

from vaedist.data.holdout import hold_out
from vaedist.data.manifest import verify
from vaedist.data.prepare import prepare
from vaedist.data.shards import open_split
from vaedist.data.sources import cifar10_archive
from vaedist.errors import DataError


def rows_of(read, split):
    parts = [(row_of(images), labels) for images, labels in read.read(split)]
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


@pytest.mark.parametrize("taken", ["random", "end"])
@pytest.mark.parametrize("batch", [1, 7, 100])
def test_every_training_row_is_in_one_split_and_test_stays_as_it_is(taken, batch):
    held = hold_out(source(batch=batch), 13, taken=taken, seed=4)
    assert held.counts == {"train": 40, "test": 11, "validation": 13}
    (train, labels), (validation, validation_labels) = rows_of(held, "train"), rows_of(held, "validation")
    assert sorted([*train, *validation]) == list(range(53))
    assert len(validation) == 13
    np.testing.assert_array_equal(labels, train % 3)
    np.testing.assert_array_equal(validation_labels, validation % 3)
    np.testing.assert_array_equal(rows_of(held, "test")[0], np.arange(11))


def test_the_end_is_the_last_rows_in_their_order():
    np.testing.assert_array_equal(rows_of(hold_out(source(), 13, taken="end"), "validation")[0], np.arange(40, 53))


def test_cifar10_ends_with_its_fifth_batch_at_any_position_in_the_archive(tmp_path):
    members = cifar10_members(train=50)
    shuffled = {name: members[name] for name in sorted(members, key=lambda name: name[::-1], reverse=True)}
    assert list(members) != list(shuffled)
    read = [cifar10_archive(write_archive(tmp_path / f"{k}.tar.gz", m)) for k, m in enumerate((members, shuffled))]
    batches = [np.concatenate([images for images, _ in whole.read("train")]) for whole in read]
    assert not np.array_equal(*batches)
    for whole in read:
        images = np.concatenate([images for images, _ in hold_out(whole, 7, taken="end").read("validation")])
        np.testing.assert_array_equal(images, batches[0][43:])


def test_the_draw_depends_only_on_the_seed_and_the_number_of_rows():
    def drawn(of, seed):
        return rows_of(hold_out(of, 13, seed=seed), "validation")[0].tolist()

    assert drawn(source(), 1) == drawn(source(batch=50), 1) == drawn(replace(source(), classes=("one",) * 3), 1)
    assert drawn(source(), 1) != drawn(source(), 2)
    assert drawn(source(), 1) != list(range(40, 53))


def test_prepared_data_contain_every_image_once_and_describe_the_holdout(tmp_path):
    out = str(tmp_path / "numbers")
    made = prepare(hold_out(source(), 13, seed=4), out, shards=4, seed=4)
    assert verify(out) == made
    assert made.held_out == "random"
    stored = {
        split: np.concatenate([row_of(part.images) for part in open_split(out, made, split, range(4))])
        for split in made.split_names
    }
    assert sorted([*stored["train"], *stored["validation"]]) == list(range(53))
    again = prepare(hold_out(source(batch=50), 13, seed=4), str(tmp_path / "again"), shards=4, seed=4)
    assert again.fingerprint == made.fingerprint
    assert prepare(source(), str(tmp_path / "without"), shards=4, seed=4).splits["test"] == made.splits["test"]


@pytest.mark.parametrize(
    ("of", "count", "message"),
    [
        (
            source(),
            53,
            "53 validation images cannot be held out from the 53 training images of numbers: it must be",
        ),
        (source(), 0, "it must be 1 to 52"),
        (source(validation=9), 5, "numbers already has a validation split, of 9 images"),
    ],
)
def test_an_impossible_holdout_is_refused_in_one_line(of, count, message):
    with pytest.raises(DataError, match=message) as caught:
        hold_out(of, count)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("rows", [40, 60])
def test_a_source_that_gives_other_rows_than_it_said_is_refused(rows):
    held = hold_out(replace(source(), reader=source(train=rows).reader), 13)
    for split in ("train", "validation"):
        with pytest.raises(DataError, match="rows of its train split"):
            list(held.read(split))
