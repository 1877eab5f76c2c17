"""Style of a sweep's plots: sizes, colour-blind-safe colours, scales, ticks and legends."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps, patheffects
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from vaedist.config import Dimension, Value, told
from vaedist.sweeps.analysis import Outcome, numeric

SIZE = (10.0, 6.0)  # inches
TEXT, TITLE, SMALL = 13, 15, 11  # points: legible at 1000 pixels across
BLUE, RED, GREY = "#0072B2", "#D55E00", "#666666"
CATEGORIES = (BLUE, RED, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito (2008)
SCALE = "viridis"
MOST_TICKS = 20
HALO = [patheffects.withStroke(linewidth=4, foreground="white")]


class Mark(NamedTuple):
    """Marker of a trial's point, by its state."""

    shape: str
    filled: bool
    label: str


MARKS: Mapping[str, Mark] = {
    "finished": Mark("o", True, "finished"),
    "stopped": Mark("o", False, "stopped early"),
    "failed": Mark("X", True, "failed"),
    "open": Mark("D", False, "still open"),
}


def mark_of(one: Outcome) -> Mark:
    """Returns the marker of a trial."""
    return MARKS.get(one.trial.state, MARKS["open"])


def canvas(title: str, x: str, y: str) -> tuple[Figure, Any]:
    """Returns a figure and its axes, with labels and a faint grid."""
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=TITLE, loc="left")
    axes.set_xlabel(x, fontsize=TEXT)
    axes.set_ylabel(y, fontsize=TEXT)
    axes.tick_params(labelsize=SMALL)
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.grid(color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def lay_out(axes: Any, dimension: Dimension) -> Callable[[Any], float]:
    """Sets scale and ticks of the x axis for a parameter; returns the function from a value to its coordinate.

    Each value gets a tick. The axis is linear, or logarithmic if labels would overlap on a linear one, or else the
    ticks are evenly spaced.
    """
    if dimension.values is None:
        if dimension.loguniform is not None:
            logarithmic(axes, *dimension.bounds, lambda value, _: told(float(value)))
        elif dimension.randint is not None:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        return float
    values: list[Any] = list(dimension.values)
    if numeric(dimension):
        values.sort()
        if len(values) > MOST_TICKS:
            return float
        for scale, along in (("linear", float), ("log", math.log)):
            if (scale == "linear" or values[0] > 0) and _apart([along(value) for value in values]):
                axes.set_xscale(scale)
                axes.set_xticks(values, [told(value) for value in values])
                axes.xaxis.set_minor_locator(NullLocator())
                return float
    axes.set_xlim(-0.5, len(values) - 0.5)
    name_ticks(axes, values)
    return lambda value: float(values.index(value))


def _apart(coordinates: Sequence[float]) -> bool:
    """Returns True if labels at these coordinates do not overlap."""
    gaps = np.diff(coordinates)
    return len(coordinates) == 1 or gaps.min() >= 0.05 * gaps.sum()


def name_ticks(axes: Any, values: Sequence[Value]) -> None:
    """Labels ticks along x at 0, 1, ...; long labels are slanted."""
    labels = [told(value) for value in values]
    axes.set_xticks(range(len(labels)), labels)
    if sum(map(len, labels)) > 70:
        axes.set_xticks(range(len(labels)), labels, rotation=20, ha="right", rotation_mode="anchor")


def logarithmic(axes: Any, low: float, high: float, label: Callable[[float, int], str]) -> None:
    """Makes the x axis logarithmic, with enough ticks for its range; adds this to its label."""
    axes.set_xscale("log")
    axes.set_xlabel(f"{axes.get_xlabel()} (logarithmic)", fontsize=TEXT)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high <= 100 * low else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(label))
    axes.xaxis.set_minor_formatter(NullFormatter())


def colours(dimension: Dimension, count: int) -> list[Any]:
    """Returns a colour for each group of a parameter: dark to light for numbers, else distinct ones."""
    if not numeric(dimension):
        return [CATEGORIES[i % len(CATEGORIES)] for i in range(count)]
    return list(colormaps[SCALE](np.linspace(0, 0.88, count)))  # its yellow end is too pale for a line


def points(
    axes: Any, coordinates: Sequence[tuple[float, float]], mark: Mark, colour: Any, *, size: int = 60, zorder: int = 3
) -> None:
    """Draws points, filled or hollow."""
    if coordinates:
        x, y = zip(*coordinates, strict=True)
        face = colour if mark.filled else "white"
        axes.scatter(x, y, s=size, marker=mark.shape, linewidths=1.6, facecolors=[face], edgecolors=[colour],
                     zorder=zorder)  # fmt: skip


def legend(axes: Any, handles: Sequence[Line2D], title: str | None = None) -> None:
    """Adds a legend to the right of the axes, where it hides nothing."""
    axes.legend(handles=handles, title=title, loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0,
                fontsize=SMALL, title_fontsize=SMALL, frameon=False, alignment="left")  # fmt: skip


def line_sign(label: str, colour: Any, width: float = 3) -> Line2D:
    """Returns a line for a legend."""
    return Line2D([], [], color=colour, linewidth=width, label=label)


def mark_signs(order: Sequence[Outcome]) -> list[Line2D]:
    """Returns the markers that occur among trials, for a legend."""
    shown = {mark_of(one) for one in order}
    return [
        Line2D([], [], linestyle="", marker=mark.shape, markersize=8, markeredgewidth=1.6, color=GREY,
               markerfacecolor=GREY if mark.filled else "white", label=mark.label)
        for mark in MARKS.values() if mark in shown
    ]  # fmt: skip


def note(axes: Any, text: str, *, low: bool) -> None:
    """Adds a note on what the plot leaves out, at its lower or upper edge."""
    axes.text(0.01, 0.03 if low else 0.97, text, transform=axes.transAxes, fontsize=SMALL, color=RED,
              va="bottom" if low else "top", path_effects=HALO, zorder=9)  # fmt: skip
