"""Masks that make a feed-forward network autoregressive (MADE, Germain et al. 2015, section 4).

Each unit has a degree. A hidden unit of degree d depends on inputs of degrees 1, ..., d only. The output for an input
depends on hidden units of lower degrees than that of the input, hence on inputs of lower degrees only.

Input i = 1, ..., D has degree i, or D + 1 - i in reverse order. Hidden unit k = 0, ..., K - 1 has degree
floor(k D / K). A hidden unit of degree 0 depends on the context alone, so that the parameters of the first latent
depend on the context, too. Degrees are monotonic in the index of a unit, which makes the masks block-triangular.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np


class ColumnBlock(NamedTuple):
    """Adjacent columns of a mask, without most of their unused first and last rows.

    Attributes:
        first_row: index of the block's first row in the whole mask.
        mask: the block, [rows, columns].
    """

    first_row: int
    mask: np.ndarray


def input_degrees(inputs: int, *, reverse: bool = False) -> np.ndarray:
    """Returns the degrees of the inputs, 1, ..., D, or D, ..., 1 in reverse, [D]."""
    degrees = np.arange(1, inputs + 1)
    return degrees[::-1] if reverse else degrees


def hidden_degrees(units: int, inputs: int) -> np.ndarray:
    """Returns the degrees of hidden units, evenly spread over 0, ..., D - 1 in ascending order, [units]."""
    return np.arange(units) * inputs // units


def hidden_mask(degrees_in: np.ndarray, degrees_out: np.ndarray) -> np.ndarray:
    """Returns the mask from inputs or hidden units to hidden units, True where d_in <= d_out, [in, out]."""
    return degrees_in[:, None] <= degrees_out[None, :]


def output_mask(degrees_hidden: np.ndarray, degrees_in: np.ndarray) -> np.ndarray:
    """Returns the mask from hidden units to the outputs for inputs, True where d_hidden < d_in, [units, D]."""
    return degrees_hidden[:, None] < degrees_in[None, :]


def column_blocks(mask: np.ndarray, blocks: int) -> list[ColumnBlock]:
    """Divides a mask into at most `blocks` blocks of adjacent columns, of about equal width.

    Padded with unused rows and concatenated, the blocks are the mask. Columns without any used row are merged into a
    neighbouring block. The number of omitted rows is a multiple of 1/16 of all rows: a product over 500 inputs is
    faster than one over 499, which would have to be copied first.
    """
    columns = mask.shape[1]
    edges = [0]
    for edge in np.linspace(0, columns, min(blocks, columns) + 1).astype(int)[1:]:
        if mask[:, edges[-1] : edge].any():
            edges.append(int(edge))
    edges = [*edges[: max(1, len(edges) - 1)], columns]  # the last block extends to the last column
    found = []
    for a, b in pairwise(edges):
        seen = np.flatnonzero(mask[:, a:b].any(axis=1))
        grain = max(1, len(mask) // 16)
        first, last = (int(seen[0]) // grain * grain, -(-int(seen[-1] + 1) // grain) * grain) if len(seen) else (0, 1)
        found.append(ColumnBlock(first, mask[first:last, a:b]))
    return found
