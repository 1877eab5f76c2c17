"""Masks that make a feed-forward network autoregressive (MADE, Germain et al. 2015, section 4).

Every unit has a degree d: it may see inputs of the degrees 1, ..., d. Input i (counted from 1) has degree i, or
D + 1 - i where the order is reversed; the hidden unit k of K has degree floor(k D / K), from 0 to D - 1, in rising
order; an output may see hidden units of lower degrees than its own input's, so it depends on the inputs before that
one, in the order of degrees, only. A hidden unit of degree 0 sees no input: it carries the context alone, so that the
first latent's proposal and gate depend on the context too. Degrees rise or fall with the unit's number, which makes
the masks block-triangular.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np


class ColumnBlock(NamedTuple):
    """A run of a mask's columns, without most of the rows before the first and after the last that are used.

    first_row: the number of its first row in the whole mask.
    mask: [rows, columns].
    """

    first_row: int
    mask: np.ndarray


def input_degrees(inputs: int, *, reverse: bool = False) -> np.ndarray:
    """Degrees 1, ..., D of the inputs, or D, ..., 1, [D]."""
    degrees = np.arange(1, inputs + 1)
    return degrees[::-1] if reverse else degrees


def hidden_degrees(units: int, inputs: int) -> np.ndarray:
    """Degrees of a hidden layer's units, evenly spread over 0, ..., D - 1 in rising order, [units]."""
    return np.arange(units) * inputs // units


def hidden_mask(degrees_in: np.ndarray, degrees_out: np.ndarray) -> np.ndarray:
    """Whether an input or hidden unit may feed a hidden unit: d_in <= d_out, [in, out]."""
    return degrees_in[:, None] <= degrees_out[None, :]


def output_mask(degrees_hidden: np.ndarray, degrees_in: np.ndarray) -> np.ndarray:
    """Whether a hidden unit may feed the output of an input: d_hidden < d_in, strictly, [units, D]."""
    return degrees_hidden[:, None] < degrees_in[None, :]


def column_blocks(mask: np.ndarray, blocks: int) -> list[ColumnBlock]:
    """Cut a mask into at most `blocks` runs of columns, of about as many columns.

    Side by side, padded with unused rows, they are the mask again. A run of columns that sees nothing at all is joined
    with a neighbour. Rows are left out by whole multiples of 1/16 of them: a product over 500 inputs is faster than one
    over 499, which have to be copied out first.
    """
    columns = mask.shape[1]
    edges = [0]
    for edge in np.linspace(0, columns, min(blocks, columns) + 1).astype(int)[1:]:
        if mask[:, edges[-1] : edge].any():
            edges.append(int(edge))
    edges = [*edges[: max(1, len(edges) - 1)], columns]  # the last run takes what is left
    found = []
    for a, b in pairwise(edges):
        seen = np.flatnonzero(mask[:, a:b].any(axis=1))
        grain = max(1, len(mask) // 16)
        first, last = (int(seen[0]) // grain * grain, -(-int(seen[-1] + 1) // grain) * grain) if len(seen) else (0, 1)
        found.append(ColumnBlock(first, mask[first:last, a:b]))
    return found
