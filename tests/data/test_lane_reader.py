import math
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import image_rows, source

from vaedist.data.lane_reader import READ_AHEAD, LaneReader, read_ahead
from vaedist.data.lanes import LanePlan
from vaedist.data.manifest import load_manifest
from vaedist.data.prepare import prepare
from vaedist.data.shards import open_split
from vaedist.errors import DataError


@st.composite
def layouts(draw):
    """(rows, lanes, global_batch, workers, replicas)."""
    lanes = draw(st.integers(1, 7))
    rows = draw(st.integers(lanes, 60))
    return rows, lanes, draw(st.integers(1, 30)), draw(st.integers(1, lanes)), draw(st.integers(1, 3))


def reader(rows, lanes, global_batch, rank=0, workers=1, *, replicas=1, seed=0):
    """Returns a reader of numbered images: row p of lane l has the number p * lanes + l."""
    plan = LanePlan(rows, lanes, global_batch, rank, workers)
    every = image_rows(0, rows)
    return LaneReader(plan, [every[lane::lanes] for lane in plan.owned], replicas=replicas, seed=seed)


def readers(layout, seed=0):
    *sizes, workers, replicas = layout
    return [reader(*sizes, rank, workers, replicas=replicas, seed=seed) for rank in range(workers)]


def row_of(images):
    """Returns the numbers that image_rows wrote into images [n, H, W, C]; n may be 0."""
    first, second = (images.reshape(len(images), math.prod(images.shape[1:]))[:, i] for i in (0, 1))
    return first.astype(int) * 256 + second


def rows_of(chunk, k):
    """Returns the numbers of a worker's real rows in batch k of a chunk, in order."""
    parts = [chunk.images[r, k, :count] for r, count in enumerate(chunk.counts[:, k])]
    return row_of(np.concatenate(parts)).tolist()


def epoch_of(group, epoch=0):
    """Returns the global batches of an epoch as numbers of rows, from all workers' readers."""
    steps = group[0].plan.steps
    chunks = [each.read(epoch, 0, steps, steps) for each in group]
    return [[row for chunk in chunks for row in rows_of(chunk, k)] for k in range(steps)]


@given(layouts(), st.integers(0, 5))
def test_rows_are_numbered_as_they_were_dealt(layout, epoch):
    for each in readers(layout):
        chunk = each.read(epoch, 0, each.plan.steps, each.plan.steps)
        for k in range(each.plan.steps):
            numbers = [chunk.numbers[r, k, :count] for r, count in enumerate(chunk.counts[:, k])]
            assert np.concatenate(numbers).tolist() == rows_of(chunk, k)


@given(layouts(), st.integers(0, 5))
def test_every_row_comes_once_an_epoch_from_any_number_of_workers_and_replicas(layout, epoch):
    rows = [row for batch in epoch_of(readers(layout), epoch) for row in batch]
    assert sorted(rows) == list(range(layout[0]))


@given(layouts(), st.integers(0, 5))
def test_the_batches_are_the_same_for_any_number_of_workers_and_replicas(layout, epoch):
    assert epoch_of(readers(layout), epoch) == epoch_of([reader(*layout[:3])], epoch)


@given(layouts())
def test_first_rows_and_counts_say_where_each_replicas_rows_stand_in_the_global_batch(layout):
    whole = epoch_of([reader(*layout[:3])])
    for each in readers(layout):
        chunk = each.read(0, 0, each.plan.steps, each.plan.steps)
        for k, batch in enumerate(whole):
            for r, (first, count) in enumerate(zip(chunk.first_rows[:, k], chunk.counts[:, k], strict=True)):
                assert row_of(chunk.images[r, k, :count]).tolist() == batch[first : first + count]


@given(layouts())
def test_rows_beyond_the_count_are_zero(layout):
    for each in readers(layout):
        chunk = each.read(0, 0, each.plan.steps, each.plan.steps)
        for r, k in np.ndindex(chunk.counts.shape):
            assert not chunk.images[r, k, chunk.counts[r, k] :].any()


@given(layouts(), st.data())
def test_resuming_at_any_step_gives_the_same_chunk(layout, data):
    for each, fresh in zip(readers(layout), readers(layout), strict=True):
        steps = each.plan.steps
        first = data.draw(st.integers(0, steps - 1))
        count = data.draw(st.integers(1, steps - first))
        each.read(0, 0, steps, steps)
        whole, part = each.read(1, 0, steps, steps), fresh.read(1, first, count, count)
        assert (part.epoch, part.first_step, part.steps) == (1, first, count)
        np.testing.assert_array_equal(part.images, whole.images[:, first : first + count])
        np.testing.assert_array_equal(part.first_rows, whole.first_rows[:, first : first + count])
        np.testing.assert_array_equal(part.counts, whole.counts[:, first : first + count])


def test_a_chunk_has_the_shapes_and_types_that_a_step_is_compiled_for():
    """The shapes are the same for every chunk, full or not, with the local batch of each worker."""
    each = reader(50, 7, 10, 1, 2, replicas=2)
    for first, steps in ((0, 3), (3, 2)):
        chunk = each.read(0, first, steps, 3)
        assert chunk.images.shape == (2, 3, each.local_batch, 4, 6, 3)
        assert chunk.first_rows.shape == chunk.counts.shape == (2, 3)
        assert (chunk.images.dtype, chunk.first_rows.dtype, chunk.counts.dtype) == (
            np.uint8,
            np.int64,
            np.int32,
        )
        assert not chunk.counts[:, steps:].any()


@given(layouts())
def test_replicas_have_room_for_the_workers_rows_and_no_more_than_is_needed(layout):
    for each in readers(layout):
        assert 0 <= each.local_batch * each.replicas - each.plan.local_batch < each.replicas


def test_epochs_differ_in_order_and_the_same_epoch_does_not():
    each = reader(60, 4, 10)
    first, second = epoch_of([each], 0), epoch_of([each], 1)
    assert first != second
    assert epoch_of([each], 0) == first
    assert epoch_of([reader(60, 4, 10)], 1) == second


def test_another_seed_gives_another_order():
    assert epoch_of([reader(60, 4, 10, seed=0)]) != epoch_of([reader(60, 4, 10, seed=1)])


def test_a_shuffled_epoch_reads_rows_from_every_part_of_every_lane():
    batch = epoch_of([reader(600, 2, 60)])[0]
    assert max(batch) > 400
    assert batch != sorted(batch)


@given(layouts(), st.integers(0, 3))
def test_without_a_seed_every_epoch_has_the_stored_order(layout, epoch):
    rows, lanes, global_batch, _, _ = layout
    batches = epoch_of(readers(layout, seed=None), epoch)
    stored = [range(k, min(k + global_batch, rows)) for k in range(0, rows, global_batch)]
    assert batches == [sorted(batch, key=lambda row: (row % lanes, row // lanes)) for batch in stored]


def test_batches_of_prepared_shards_are_the_rows_of_the_source(tmp_path):
    prepare(source(train=53, test=8), str(tmp_path / "set"), shards=5)
    manifest = load_manifest(str(tmp_path / "set"))
    original = image_rows(0, 53)
    seen = []
    for rank in range(2):
        plan = LanePlan(manifest.splits["train"].rows, 5, 12, rank, 2)
        shards = open_split(str(tmp_path / "set"), manifest, "train", plan.owned)
        chunk = LaneReader(plan, [shard.images for shard in shards], seed=3).read(0, 0, plan.steps, plan.steps)
        for k in range(plan.steps):
            rows = rows_of(chunk, k)
            np.testing.assert_array_equal(chunk.images[0, k, : len(rows)], original[rows])
            seen += rows
    assert sorted(seen) == list(range(53))


def reading_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("lanes")]


def requests(steps, size=2):
    return [(0, first, min(size, steps - first)) for first in range(0, steps, size)]


def same(chunk):
    return chunk


def test_read_ahead_gives_the_chunks_in_the_order_of_the_requests():
    each = reader(50, 4, 5)
    asked = [*requests(10, 3), (1, 0, 3), (1, 3, 2)]
    chunks = list(read_ahead(each, iter(asked), capacity=3, place=same))
    assert [(chunk.epoch, chunk.first_step, chunk.steps) for chunk in chunks] == asked
    for chunk, request in zip(chunks, asked, strict=True):
        np.testing.assert_array_equal(chunk.images[:, : chunk.steps], each.read(*request, 3).images[:, : chunk.steps])
    assert reading_threads() == []


def test_read_ahead_of_nothing_is_nothing():
    assert list(read_ahead(reader(50, 4, 5), [], capacity=3, place=same)) == []


def test_read_ahead_closes_its_thread_when_the_consumer_stops_early():
    stream = read_ahead(reader(50, 4, 5), requests(10), capacity=2, place=same)
    next(stream)
    assert len(reading_threads()) == 1
    stream.close()
    assert reading_threads() == []


def test_read_ahead_does_not_exceed_its_limit():
    asked = []

    def counted():
        for request in requests(50, 1):
            asked.append(request)
            yield request

    stream = read_ahead(reader(500, 4, 10), counted(), capacity=1, place=same)
    for taken in range(1, 20):
        next(stream)
        assert len(asked) <= taken + READ_AHEAD
    stream.close()
    assert len(asked) < 25


class Failing(LaneReader):
    """Returns a reader whose shard is missing from some step on."""

    def read(self, epoch, first_step, steps, capacity):
        if first_step >= 4:
            raise DataError("shard gone")
        return super().read(epoch, first_step, steps, capacity)


def test_read_ahead_passes_on_the_readers_error_in_its_turn_and_closes_its_thread():
    plan = LanePlan(50, 4, 5)
    every = image_rows(0, 50)
    failing = Failing(plan, [every[lane::4] for lane in range(4)], seed=0)
    stream = read_ahead(failing, requests(10), capacity=2, place=same)
    assert [next(stream).first_step for _ in range(2)] == [0, 2]
    with pytest.raises(DataError, match="shard gone"):
        next(stream)
    assert reading_threads() == []


def test_read_ahead_passes_on_an_error_of_the_requests_and_closes_its_thread():
    def broken():
        yield from requests(10)[:3]
        raise ValueError("no more")

    stream = read_ahead(reader(50, 4, 5), broken(), capacity=2, place=same)
    with pytest.raises(ValueError, match="no more"):
        list(stream)
    assert reading_threads() == []


def test_lanes_that_do_not_fit_the_plan_are_refused():
    plan = LanePlan(50, 4, 5)
    with pytest.raises(ValueError, match="zip"):
        LaneReader(plan, [image_rows(0, 13)] * 3, seed=0).read(0, 0, 1, 1)
