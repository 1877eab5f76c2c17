"""Plots in plain text."""

from hypothesis import given
from hypothesis import strategies as st

from vaedist.monitor.text_plot import HEIGHT, WIDTH, text_plot


def test_a_curve_rises_from_the_lower_left_to_the_upper_right():
    title, *rows, line, axis = text_plot("test ELBO", [1, 2, 3], [-2000.0, -1900.0, -1800.0], unit="epoch")
    assert (title, len(rows)) == ("test ELBO", HEIGHT)
    marks = {row.index("*"): number for number, row in enumerate(rows) if "*" in row}
    start = rows[0].index("|") + 1
    assert {column - start: HEIGHT - 1 - row for column, row in marks.items()} == {0: 0, 30: 4, WIDTH - 1: HEIGHT - 1}
    assert rows[0].split("|")[0].strip() == "-1800"
    assert rows[-1].split("|")[0].strip() == "-2000"
    assert line.strip() == "+" + "-" * WIDTH
    assert axis.split() == ["epoch", "1", "3"]


def test_a_column_shows_the_last_of_its_points():
    _, *rows, _, _ = text_plot("", list(range(1, 1001)), [0.0] * 999 + [1.0], unit="epoch")
    assert rows[0].endswith("*")
    assert not rows[-1].endswith("*" * WIDTH)
    assert sum(row.count("*") for row in rows) == WIDTH


@given(st.lists(st.floats(-1e30, 1e30), min_size=1, max_size=200))
def test_any_curve_is_plain_text_of_the_same_width(values):
    lines = text_plot("x", list(range(1, len(values) + 1)), values, unit="epoch")
    assert all(line.isascii() and line.isprintable() for line in lines)
    assert len(lines) <= HEIGHT + 3
    assert any("*" in line for line in lines)
