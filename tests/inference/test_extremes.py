"""The sheet of images with the lowest and the highest ELBO."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import source

from vaedist.data.manifest import load_manifest
from vaedist.data.prepare import prepare
from vaedist.data.rows import SplitRows
from vaedist.inference.extremes import Extremes
from vaedist.inference.parts import Parts
from vaedist.inference.sources import PreparedSource
from vaedist.monitor.pictures import captioned

SHAPE = (4, 6, 3)
TITLE = 26  # height of a title
TOP = TITLE + 4  # of the first image below it


@pytest.fixture(scope="module")
def prepared(small_dataset):
    return PreparedSource.at(str(small_dataset), ["train", "test"], SHAPE)


@settings(max_examples=30)
@given(st.randoms(), st.integers(1, 20), st.integers(1, 6))
def test_the_extremes_are_those_of_all_rows_in_any_order_of_the_parts(prepared, random, size, count):
    scores = {name: [random.choice([0.0, 1.0, random.random()]) for _ in range(n)]
              for name, n in prepared.groups.items()}  # fmt: skip
    parts = list(Parts(prepared.groups, size))
    random.shuffle(parts)
    extremes = Extremes(prepared, count)
    for part in parts:
        columns = {"elbo": pa.array(scores[part.group][part.start : part.stop], pa.float32())}
        columns |= {name: pa.array(["-"] * part.rows) for name in ("split", "row", "class")}
        extremes.add(part, pa.table(columns))
    every = sorted((np.float32(score), group, row) for group in scores for row, score in enumerate(scores[group]))
    found = [(one.elbo, one.group, one.place) for one in extremes.lowest]
    assert [score for score, *_ in found] == [score for score, *_ in every[:count]]
    assert len(set(found)) == len(found)
    assert [one.elbo for one in extremes.highest] == [score for score, *_ in every[::-1][:count]]


def test_the_sheet_shows_the_images_of_the_extremes(prepared, small_dataset):
    extremes = Extremes(prepared, 2)
    (part,) = Parts({"test": 19}, 50)
    elbo = np.linspace(0, -18, 19, dtype=np.float32)
    elbo[5] = np.nan  # worse than all others
    rows = prepared.read(part)
    extremes.add(part, pa.table({"elbo": elbo, **rows.columns}))
    assert [one.place for one in extremes.lowest] == [5, 18]
    assert [one.place for one in extremes.highest] == [0, 1]
    stored = SplitRows(str(small_dataset), load_manifest(str(small_dataset)), "test")
    assert extremes.lowest[1].caption.splitlines() == [
        "-18.0", "test", str(rows.numbers[18]), rows.columns["class"][18].as_py(),
    ]  # fmt: skip
    sheet = extremes.sheet()
    for row, (image, height) in enumerate(((5, 0), (0, len(sheet) // 2))):
        shown = sheet[height + TOP : height + TOP + 64, 4 : 4 + 96][::16, ::16]
        assert (sheet[height : height + TITLE] < 128).any()
        np.testing.assert_array_equal(shown, stored.read(image, image + 1)[0], err_msg=str(row))


@pytest.mark.parametrize(("channels", "shown"), [(2, 1), (4, 3)])
def test_the_sheet_shows_images_of_any_number_of_channels(channels, shown, tmp_path):
    shape = (4, 6, channels)
    prepare(source(train=20, test=19, shape=shape), str(tmp_path / "data"), shards=4)
    prepared = PreparedSource.at(str(tmp_path / "data"), ["test"], shape)
    extremes = Extremes(prepared, 2)
    (part,) = Parts({"test": 19}, 50)
    rows = prepared.read(part)
    extremes.add(part, pa.table({"elbo": np.arange(19, dtype=np.float32), **rows.columns}))
    picture = extremes.sheet()[TOP : TOP + 64, 4 : 4 + 96][::16, ::16]
    np.testing.assert_array_equal(picture, rows.images[0][..., :shown])


def test_captions_are_below_the_images():
    images = np.zeros((3, 4, 6, 1), np.uint8)
    sheet = captioned(images, ["a\nb", "a\nb", "a\n "], 2)
    cells = [sheet[y : y + 94, x : x + 96, 0] for y in (4, 102) for x in (4, 104)]
    assert all((cell[:64] == 0).all() for cell in cells[:3])
    labels = [cell[64:] for cell in cells]
    np.testing.assert_array_equal(labels[0], labels[1])
    assert (labels[0] < 128).any()
    np.testing.assert_array_equal(labels[0][:15], labels[2][:15])
    assert (labels[2][15:] == 255).all()
    assert (cells[3] == 255).all()
