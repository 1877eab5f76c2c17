"""Rows of a split by number, against the shards in sequence."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vaedist.data.manifest import load_manifest
from vaedist.data.rows import SplitRows
from vaedist.data.shards import open_split


@pytest.fixture(scope="module")
def whole(small_dataset):
    shards = open_split(str(small_dataset), load_manifest(str(small_dataset)), "train", range(8))
    return np.concatenate([shard.images for shard in shards])


def rows(small_dataset, limit=None):
    return SplitRows(str(small_dataset), load_manifest(str(small_dataset)), "train", limit)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.integers(0, 52), count=st.integers(1, 60))
def test_any_run_of_rows_is_that_of_the_shards_in_their_order(small_dataset, whole, start, count):
    np.testing.assert_array_equal(rows(small_dataset).read(start, start + count), whole[start : start + count])


def test_reading_on_gives_each_row_once(small_dataset, whole):
    reader = rows(small_dataset)
    parts = [reader.read(start, start + 10) for start in range(0, reader.rows, 10)]
    assert reader.rows == 53
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_a_limit_ends_the_rows(small_dataset, whole):
    reader = rows(small_dataset, 12)
    assert reader.rows == 12
    np.testing.assert_array_equal(reader.read(8, 20), whole[8:12])
    assert rows(small_dataset, 1000).rows == 53
