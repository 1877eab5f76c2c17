import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaedist.data.lanes import LanePlan, lane_order
from vaedist.data.manifest import shard_rows
from vaedist.errors import DataError


@st.composite
def layouts(draw):
    """(rows, lanes, global_batch, workers); every shard has a row, as `prepare` makes them."""
    lanes = draw(st.integers(1, 9))
    rows = draw(st.integers(lanes, 80))
    return rows, lanes, draw(st.integers(1, 40)), draw(st.integers(1, lanes))


def taken(plan, step):
    """Returns (lane, position in the lane) of each of a worker's rows in a batch, in order."""
    part = plan.slice(step)
    runs = zip(plan.owned, part.start, part.stop, strict=True)
    return [(lane, place) for lane, start, stop in runs for place in range(start, stop)]


def plans(rows, lanes, global_batch, workers):
    return [LanePlan(rows, lanes, global_batch, rank, workers) for rank in range(workers)]


@given(layouts())
def test_every_row_is_taken_once_an_epoch(layout):
    every = [row for plan in plans(*layout) for step in range(plan.steps) for row in taken(plan, step)]
    plan = LanePlan(*layout[:3])
    assert sorted(every) == [(lane, p) for lane in range(plan.lanes) for p in range(plan.lane_rows(lane))]
    assert len(every) == plan.rows


@given(layouts())
def test_the_workers_rows_one_after_another_are_the_lone_workers_batch(layout):
    alone, workers = LanePlan(*layout[:3]), plans(*layout)
    for step in range(alone.steps):
        assert [row for plan in workers for row in taken(plan, step)] == taken(alone, step)


@given(layouts())
def test_first_row_counts_the_rows_of_the_workers_before(layout):
    workers = plans(*layout)
    for step in range(workers[0].steps):
        before = 0
        for plan in workers:
            assert plan.slice(step).first_row == before
            before += plan.slice(step).rows


@given(layouts())
def test_all_batches_are_full_but_the_last(layout):
    rows, _, global_batch, _ = layout
    workers = plans(*layout)
    sizes = [sum(plan.slice(step).rows for plan in workers) for step in range(workers[0].steps)]
    assert sizes == [global_batch] * (rows // global_batch) + [rows % global_batch] * (rows % global_batch > 0)


@given(layouts())
def test_lanes_are_dealt_from_in_turn(layout):
    """Position p of the epoch is row p // S of lane p % S, and a batch is a range of positions."""
    rows, lanes, global_batch, _ = layout
    plan = LanePlan(rows, lanes, global_batch)
    for step in range(plan.steps):
        positions = range(step * global_batch, min((step + 1) * global_batch, rows))
        assert taken(plan, step) == sorted((p % lanes, p // lanes) for p in positions)


@given(layouts())
def test_every_lane_has_one_owner_and_owners_stand_in_order(layout):
    owned = [lane for plan in plans(*layout) for lane in plan.owned]
    assert owned == list(range(layout[1]))
    shares = [len(plan.owned) for plan in plans(*layout)]
    assert max(shares) - min(shares) <= 1


@given(layouts())
def test_local_batch_is_never_exceeded(layout):
    for plan in plans(*layout):
        assert max(plan.slice(step).rows for step in range(plan.steps)) <= plan.local_batch


@given(layouts())
def test_local_batch_is_reached_if_the_remainder_reaches_every_lane(layout):
    _, lanes, global_batch, workers = layout
    if math.gcd(lanes, global_batch) > 1 and global_batch % lanes:
        global_batch += 1 if math.gcd(lanes, global_batch + 1) == 1 else lanes - global_batch % lanes
    for plan in plans(lanes * global_batch, lanes, global_batch, workers):
        assert max(plan.slice(step).rows for step in range(plan.steps)) == plan.local_batch


def test_local_batches_of_an_evenly_divided_split():
    assert [plan.local_batch for plan in plans(50_000, 32, 256, 4)] == [64] * 4
    assert [plan.local_batch for plan in plans(50_000, 32, 256, 1)] == [256]


@pytest.mark.parametrize(
    ("lanes", "global_batch", "workers", "expected"),
    [(8, 24, 3, [6, 9, 9]), (8, 3, 2, [3, 3]), (8, 10, 2, [6, 6]), (5, 1, 5, [1, 1, 1, 1, 1])],
)
def test_local_batches_of_unevenly_divided_splits(lanes, global_batch, workers, expected):
    assert [plan.local_batch for plan in plans(400, lanes, global_batch, workers)] == expected


@given(layouts())
def test_lane_rows_are_the_shards_rows_of_the_manifest(layout):
    plan = LanePlan(*layout[:3])
    found = [plan.lane_rows(lane) for lane in range(plan.lanes)]
    assert found == [shard_rows(plan.rows, plan.lanes, lane) for lane in range(plan.lanes)]
    assert sum(found) == plan.rows


@given(st.integers(1, 20), st.integers(1, 20))
def test_more_workers_than_shards_are_refused_in_one_line_with_the_limit(lanes, more):
    with pytest.raises(DataError) as error:
        LanePlan(100, lanes, 10, 0, lanes + more)
    message = str(error.value)
    assert "\n" not in message
    assert f"{lanes + more} workers" in message
    assert f"at most {lanes}" in message


@given(st.integers(0, 2**31 - 1), st.integers(0, 1000), st.integers(0, 100), st.integers(1, 50))
def test_an_order_is_a_permutation_that_depends_only_on_seed_epoch_and_lane(seed, epoch, lane, rows):
    order = lane_order(seed, epoch, lane, rows)
    assert sorted(order) == list(range(rows))
    np.testing.assert_array_equal(order, lane_order(seed, epoch, lane, rows))


def test_another_seed_epoch_or_lane_gives_another_order():
    orders = {tuple(lane_order(seed, epoch, lane, 50)) for seed in range(3) for epoch in range(3) for lane in range(3)}
    assert len(orders) == 27
