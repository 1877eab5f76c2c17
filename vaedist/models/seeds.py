"""Seeds of the parts of a model, derived from the seed of the whole."""

import numpy as np


def derived_seeds(seed: int, count: int) -> list[int]:
    """Returns `count` independent seeds, which depend only on `seed`; a larger count appends seeds."""
    return [int(each) for each in np.random.SeedSequence(seed).generate_state(count)]
