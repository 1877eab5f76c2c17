"""Plots of curves in plain ASCII text, for terminals and logs."""

from collections.abc import Sequence

WIDTH, HEIGHT = 60, 8  # characters
MARK = "*"


def text_plot(title: str, xs: Sequence[int], ys: Sequence[float], *, unit: str) -> list[str]:
    """Returns the lines of a plot of a curve.

    If there are more points than columns, each column shows the last of its points.

    Args:
        title: name of the curve.
        xs: positions, in ascending order.
        ys: finite values, as many as positions, at least one.
        unit: name of the positions, such as "epoch".
    """
    low, high = min(ys), max(ys)
    first, last = xs[0], xs[-1]
    columns = {_cell(x, first, last, WIDTH): y for x, y in zip(xs, ys, strict=True)}
    rows = {column: _cell(y, low, high, HEIGHT) for column, y in columns.items()}
    labels = {HEIGHT - 1: f"{high:.6g}", 0: f"{low:.6g}"} if low < high else {0: f"{low:.6g}"}
    margin = max(map(len, labels.values()))
    lines = [title]
    for row in range(HEIGHT - 1 if low < high else 0, -1, -1):
        marks = "".join(MARK if rows.get(column) == row else " " for column in range(WIDTH))
        lines.append(f"{labels.get(row, ''):>{margin}} |{marks}".rstrip())
    begin, end = f"{unit} {first}", str(last)
    axis = begin if first == last else f"{begin}{end:>{WIDTH - len(begin)}}"
    return [*lines, f"{'':>{margin}} +{'-' * WIDTH}", f"{'':>{margin}}  {axis}"]


def _cell(value: float, low: float, high: float, cells: int) -> int:
    """Returns the number of the cell, of those that divide a range, that is nearest to a value."""
    return round((value - low) / (high - low) * (cells - 1)) if low < high else 0
