"""Plots of a sweep, as matplotlib figures; nothing is shown, and pyplot is not used."""

import io
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from vaedist.config import Sweep
from vaedist.sweeps.analysis import (
    TOLD,
    Group,
    Outcome,
    by_quantile,
    by_value,
    groups_of,
    numeric,
    ranked,
    split_of,
    title_of,
    worst_of_most,
)
from vaedist.sweeps.axes import (
    BLUE,
    MARKS,
    RED,
    SCALE,
    SMALL,
    TEXT,
    TITLE,
    canvas,
    colours,
    lay_out,
    legend,
    line_sign,
    logarithmic,
    mark_of,
    mark_signs,
    name_ticks,
    note,
    points,
)
from vaedist.wording import counted

DPI = 150
MOST_COLOURS, MOST_CELLS = 7, 12


def figures(sweep: Sweep, found: Sequence[Outcome], keys: Sequence[str]) -> Iterator[tuple[str, Figure]]:
    """Yields the name and figure of every plot of a sweep; nothing if no trial has been scored.

    Args:
        sweep: the sweep.
        found: outcomes of its trials.
        keys: the parameters, the most important first.
    """
    order = ranked(sweep, found)
    if not order:
        return
    first, *others = keys
    yield first, by_parameter(sweep, order, first)
    if pair := _pair(sweep, keys):
        yield "heat-map", heat_map(sweep, order, *pair)
    yield "curves", curves(sweep, order, first)
    for key in others:
        yield key, by_parameter(sweep, order, key)


def png(figure: Figure) -> bytes:
    """Returns a figure as a PNG file."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DPI)
    return stream.getvalue()


def by_parameter(sweep: Sweep, order: Sequence[Outcome], key: str) -> Figure:
    """Plots the metric against a parameter: a point for each trial, and a line through the best of each value.

    For a range, the line goes through the best of each fifth of the trials. Values without an order are not connected.

    Args:
        sweep: the sweep.
        order: trials that have a score, the best first.
        key: the parameter.
    """
    title = title_of(sweep.tune.metric, split_of(order))
    figure, axes = canvas(f"{title[0].upper()}{title[1:]} by {key}", key, _metric_label(sweep, order))
    dimension, high_is_good = sweep.tune.space[key], sweep.tune.mode == "max"
    x_of = lay_out(axes, dimension)
    worst = worst_of_most([one.score for one in order], sweep.tune.mode)
    shown = [one for one in order if not _worse(sweep, one.score, worst)]
    edge = _edge(order[0].score, worst, sweep.tune.mode)
    for mark in MARKS.values():
        points(axes, [(x_of(one.params[key]), one.score) for one in shown if mark_of(one) is mark], mark, BLUE)
    if cut := [x_of(one.params[key]) for one in order if one not in shown]:
        axes.set_ylim(**{"bottom" if high_is_good else "top": edge})
        axes.scatter(cut, [edge] * len(cut), marker="v" if high_is_good else "^", s=110, color=RED, clip_on=False)
        note(axes, f"{counted(len(cut), 'trial')} {_beyond(sweep, worst)}, shown at the edge", low=high_is_good)
    joined = [ranked(sweep, group.members)[0] for group in groups_of(key, dimension, shown)]
    x, y = [x_of(one.params[key]) for one in joined], [one.score for one in joined]
    if numeric(dimension):
        axes.plot(x, y, color=RED, linewidth=2, zorder=2)
    else:
        axes.scatter(x, y, marker="_", s=1500, color=RED, linewidths=2.5, zorder=2)
    axes.scatter(x_of(order[0].params[key]), order[0].score, s=230, facecolors="none", edgecolors="black", zorder=5)
    each = "value" if dimension.values is not None else "fifth" if len(joined) > 4 else "part"
    ring = mark_signs(order[:1])[0]
    ring.set(marker="o", markersize=13, markeredgecolor="black", markerfacecolor="none", markeredgewidth=1,
             label=f"best: trial {order[0].trial.number}")  # fmt: skip
    legend(axes, [line_sign(f"best of each {each}", RED), ring, *mark_signs(shown)])
    return figure


def heat_map(sweep: Sweep, order: Sequence[Outcome], across: str, up: str) -> Figure:
    """Plots the best metric for each pair of values of two parameters; pairs without a trial are blank.

    Args:
        sweep: the sweep.
        order: trials that have a score, the best first.
        across: parameter along x, in groups if it has many values.
        up: parameter along y.
    """
    figure, axes = canvas(f"Best {title_of(sweep.tune.metric, split_of(order))} by {across} and {up}", across, up)
    columns, rows = (_few(sweep, key, order, MOST_CELLS) for key in (across, up))
    cells = np.full((len(rows), len(columns)), np.nan)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            cells[i, j] = next((one.score for one in order if one in row.members and one in column.members), np.nan)
    scores = cells[np.isfinite(cells)]
    worst = worst_of_most(scores, sweep.tune.mode)
    low, high = sorted((worst, order[0].score))
    image = axes.imshow(cells, origin="lower", aspect="auto", vmin=low, vmax=high,
                        cmap=SCALE if sweep.tune.mode == "max" else f"{SCALE}_r")  # fmt: skip
    _write_cells(axes, image, cells, _decimals(high - low))
    name_ticks(axes, [group.label for group in columns])
    axes.set_yticks(range(len(rows)), [group.label for group in rows])
    axes.set_xticks(np.arange(len(columns) - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(len(rows) - 1) + 0.5, minor=True)
    axes.grid(visible=False)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="both", length=0)
    bar = figure.colorbar(image, ax=axes, pad=0.02)
    bar.set_label(_metric_label(sweep, order), fontsize=TEXT)
    bar.ax.tick_params(labelsize=SMALL)
    bar.ax.ticklabel_format(useOffset=False)
    if cut := sum(_worse(sweep, score, worst) for score in scores):
        axes.set_title(f"{axes.get_title(loc='left')}\n", fontsize=TITLE, loc="left")
        axes.text(0, 1.01, f"{counted(cut, 'cell')} {_beyond(sweep, worst)}, with the colour of that", color=RED,
                  fontsize=SMALL, transform=axes.transAxes)  # fmt: skip
    return figure


def _write_cells(axes: Any, image: Any, cells: np.ndarray, decimals: int) -> None:
    """Writes the number of each cell, in black or white, whichever contrasts more with its colour."""
    size = max(6, min(TEXT, 110 // cells.shape[1], 160 // cells.shape[0]))
    for (i, j), score in np.ndenumerate(cells):
        if np.isfinite(score):
            luminance = np.dot((0.3, 0.59, 0.11), image.cmap(image.norm(score))[:3])
            text = f"{score:.{decimals}f}" if abs(score) < 1e5 else f"{score:.2g}"
            axes.text(j, i, text, ha="center", va="center", fontsize=size, color="w" if luminance < 0.5 else "k")


def curves(sweep: Sweep, order: Sequence[Outcome], key: str) -> Figure:
    """Plots the ELBO of each trial against the number of images seen; the curve of the best trial is thick.

    Args:
        sweep: the sweep.
        order: trials that have a score, the best first.
        key: parameter that determines the colour, in groups if it has many values.
    """
    split = split_of(order)
    title = f"{split.capitalize()} ELBO of the trials during training"
    figure, axes = canvas(title, "training images seen", _label("elbo", split, "more"))
    groups = _few(sweep, key, order, MOST_COLOURS)
    palette = colours(sweep.tune.space[key], len(groups))
    for group, colour in zip(groups, palette, strict=True):
        for one in group.members:
            _curve(axes, one, colour, best=one is order[0])
    ends = [_images(one)[k] for one in order for k in (0, -1)]
    formatter = EngFormatter(sep=" ")
    if max(ends) >= 8 * min(ends):
        logarithmic(axes, min(ends), max(ends), formatter)
    else:
        axes.xaxis.set_major_formatter(formatter)
    scores = [epoch.elbo for one in order for epoch in one.trial.epochs]
    worst = worst_of_most(scores, "max")
    if cut := sum(any(epoch.elbo < worst for epoch in one.trial.epochs) for one in order):
        edge = _edge(max(scores), worst, "max")
        axes.set_ylim(edge, max(scores) + 0.3 * (worst - edge))
        note(axes, f"{counted(cut, 'trial')} partly below {_number('elbo', worst)}, not shown there", low=True)
    signs = [line_sign(group.label, colour) for group, colour in zip(groups, palette, strict=True)]
    signs += [line_sign("", "none"), line_sign(f"best: trial {order[0].trial.number}", "black", 6)]
    legend(axes, [*signs, *mark_signs(order)], title=key)
    return figure


def _curve(axes: Any, one: Outcome, colour: Any, *, best: bool) -> None:
    x, y = _images(one), [epoch.elbo for epoch in one.trial.epochs]
    if best:
        axes.plot(x, y, color="black", linewidth=6.5, zorder=5, solid_capstyle="round")
    axes.plot(x, y, color=colour, linewidth=3.5 if best else 1.5, alpha=1 if best else 0.8, zorder=6 if best else 3)
    points(axes, [(x[-1], y[-1])], mark_of(one), colour, size=60 if best else 35, zorder=7 if best else 4)


def _images(one: Outcome) -> list[float]:
    """Returns the number of images seen by the end of each epoch."""
    return [one.images * epoch.step / one.steps for epoch in one.trial.epochs]


def _pair(sweep: Sweep, keys: Sequence[str]) -> tuple[str, str] | None:
    """Returns the parameters of the heat map: the two most important numeric ones, in the order of the space."""
    pair = [key for key in keys if numeric(sweep.tune.space[key])][:2]
    pair.sort(key=list(sweep.tune.space).index)
    return (pair[0], pair[1]) if len(pair) == 2 else None


def _few(sweep: Sweep, key: str, order: Sequence[Outcome], most: int) -> list[Group]:
    """Returns a group for each value, or quantile groups if there are more values than `most`."""
    dimension = sweep.tune.space[key]
    values = by_value(key, dimension, order)
    return values if len(values) <= most or not numeric(dimension) else by_quantile(key, dimension, order)


def _worse(sweep: Sweep, score: float, worst: float) -> bool:
    return score < worst if sweep.tune.mode == "max" else score > worst


def _edge(best: float, worst: float, mode: str) -> float:
    """Returns the limit of an axis that leaves out scores worse than `worst`, with room for a note."""
    room = 0.13 * (abs(best - worst) or 0.01 * abs(best) or 1.0)
    return worst - room if mode == "max" else worst + room


def _beyond(sweep: Sweep, worst: float) -> str:
    return f"{'below' if sweep.tune.mode == 'max' else 'above'} {_number(sweep.tune.metric, worst)}"


def _number(metric: str, value: float) -> str:
    return f"{value:,.{TOLD[metric].decimals}f}"


def _decimals(spread: float) -> int:
    """Returns the number of decimals that shows the spread of the numbers with three digits."""
    return min(max(2 - math.floor(math.log10(spread)), 0), 4) if spread else 2


def _metric_label(sweep: Sweep, order: Sequence[Outcome]) -> str:
    return _label(sweep.tune.metric, split_of(order), "more" if sweep.tune.mode == "max" else "less")


def _label(metric: str, split: str, better: str) -> str:
    return f"{title_of(metric, split)} ({TOLD[metric].unit}, {better} is better)"
