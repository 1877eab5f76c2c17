"""What a check gives back."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Check:
    """What came of a comparison.

    Attributes:
        name: what was checked.
        against: what with.
        error: the largest that was found.
        allowed: the largest that passes.
    """

    name: str
    against: str
    error: float
    allowed: float

    @property
    def passed(self) -> bool:
        """Whether the error is allowed; one that is not a number is not."""
        return self.error <= self.allowed


def largest(x: Any) -> float:
    """The largest absolute value; NaN where one is."""
    return float(np.max(np.abs(np.asarray(x))))
