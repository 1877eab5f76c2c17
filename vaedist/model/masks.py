"""Masks that make a feed-forward network autoregressive (MADE, Germain et al. 2015, section 4).

Every unit has a degree d: it may see the inputs 1, ..., d. Input i (counted from 1) has degree i; the hidden
unit k of K has degree floor(k D / K), from 0 to D - 1, in rising order; output i may see hidden units of
degree i - 1 at most, so it depends on the inputs before i only. A hidden unit of degree 0 sees no input: it
carries the context alone, so that the first latent's proposal and gate depend on the context too. Degrees
rise with the unit's number, which makes the masks block-triangular.
"""

from itertools import pairwise

import numpy as np


def input_degrees(inputs: int) -> np.ndarray:
    """Degrees 1, ..., D of the inputs, [D]."""
    return np.arange(1, inputs + 1)


def hidden_degrees(units: int, inputs: int) -> np.ndarray:
    """Degrees of a hidden layer's units, evenly spread over 0, ..., D - 1 in rising order, [units]."""
    return np.arange(units) * inputs // units


def hidden_mask(degrees_in: np.ndarray, degrees_out: np.ndarray) -> np.ndarray:
    """1 where an input or hidden unit may feed a hidden unit: d_in <= d_out, [in, out]."""
    return (degrees_in[:, None] <= degrees_out[None, :]).astype(np.float32)


def output_mask(degrees_hidden: np.ndarray, inputs: int) -> np.ndarray:
    """1 where a hidden unit may feed an output: d_hidden < i, strictly, [units, D]."""
    return (degrees_hidden[:, None] < input_degrees(inputs)[None, :]).astype(np.float32)


def column_blocks(mask: np.ndarray, blocks: int) -> list[np.ndarray]:
    """Cut a mask into at most `blocks` runs of columns, each without the rows below its last one that is not zero.

    Side by side, padded with zero rows, they are the mask again. A run of columns that sees nothing at all is joined
    with the next one.
    """
    columns = mask.shape[1]
    edges = [0]
    for edge in np.linspace(0, columns, min(blocks, columns) + 1).astype(int)[1:]:
        if mask[:, edges[-1] : edge].any():
            edges.append(int(edge))
    edges = [*edges[: max(1, len(edges) - 1)], columns]  # the last run takes what is left
    runs = [mask[:, a:b] for a, b in pairwise(edges)]
    return [run[: int(np.flatnonzero(run.any(axis=1)).max(initial=0)) + 1] for run in runs]
