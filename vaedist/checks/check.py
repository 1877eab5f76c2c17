"""Result of a check."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Check:
    """Result of a check.

    Attributes:
        name: the checked quantity.
        against: the reference that it was compared with.
        error: the largest error found.
        allowed: the largest error that passes.
    """

    name: str
    against: str
    error: float
    allowed: float

    @property
    def passed(self) -> bool:
        """True if the error is at most the allowed one; False if it is NaN."""
        return self.error <= self.allowed


def largest(x: Any) -> float:
    """Returns the largest absolute value; NaN if any value is NaN."""
    return float(np.max(np.abs(np.asarray(x))))
