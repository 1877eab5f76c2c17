import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaedist.inference.parts import Parts

GROUPS = st.dictionaries(st.sampled_from(["train", "validation", "test"]), st.integers(1, 300), min_size=1)


@given(GROUPS, st.integers(1, 90))
def test_each_row_is_in_one_part(groups, size):
    parts = Parts(groups, size)
    found = {group: [] for group in groups}
    for part in parts:
        assert 1 <= part.rows <= size
        found[part.group] += range(part.start, part.stop)
    assert found == {group: list(range(rows)) for group, rows in groups.items()}
    assert sum(part.rows for part in parts) == parts.rows
    assert len({part.name for part in parts}) == len(parts) == len(list(parts))
    for group in groups:
        names = [part.name for part in parts if part.group == group]
        assert names == sorted(names)


def test_names_of_more_than_a_million_parts_sort():
    parts = Parts({"train": 1_000_001, "test": 3}, 1)
    names = [parts[number].name for number in (0, 9, 999_999, 1_000_000)]
    assert names == ["train-0000000", "train-0000009", "train-0999999", "train-1000000"]
    assert parts[1_000_001].name == "test-000000"


def test_there_is_no_part_beyond_the_last():
    parts = Parts({"train": 5, "test": 4}, 3)
    assert [parts[number].name for number in range(4)] == [
        "train-000000", "train-000001", "test-000000", "test-000001",
    ]  # fmt: skip
    for number in (-1, 4):
        with pytest.raises(IndexError, match=f"no part {number} of 4"):
            parts[number]
    empty = Parts({"images": 0}, 3)
    assert (len(empty), empty.rows) == (0, 0)
