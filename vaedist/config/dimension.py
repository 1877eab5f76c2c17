"""One dimension of a sweep's search space: the values or the range of a key."""

import math
from typing import TYPE_CHECKING, Self, TypeAlias

from pydantic import Field, model_validator

from vaedist.config.sections import Section

if TYPE_CHECKING:
    import numpy as np

Value: TypeAlias = bool | int | float | str


class Dimension(Section):
    """Values of a varied key: a list, `grid` or `choice`, or a range with inclusive bounds."""

    grid: list[Value] | None = Field(default=None, description="List of values.")
    choice: list[Value] | None = Field(default=None, description="List of values; the same as grid.")
    uniform: list[float] | None = Field(default=None, description="[lowest, highest] of a uniform distribution.")
    loguniform: list[float] | None = Field(default=None, description="[lowest, highest], uniform in the logarithm.")
    randint: list[int] | None = Field(default=None, description="[lowest, highest] of uniformly distributed integers.")
    step: float | None = Field(default=None, gt=0, description="Quantisation of a range, in steps from the lowest.")

    @model_validator(mode="after")
    def _of_one_kind(self) -> Self:
        kinds = [k for k in ("grid", "choice", "uniform", "loguniform", "randint") if getattr(self, k) is not None]
        if len(kinds) != 1:
            raise ValueError("must have one of grid, choice, uniform, loguniform and randint")
        if self.values is not None:
            if not self.values:
                raise ValueError(f"{kinds[0]} is empty: it needs at least one value")
            if len({(type(v), v) for v in self.values}) < len(self.values):
                raise ValueError(f"{kinds[0]} has a duplicate value")
            if self.step is not None:
                raise ValueError(f"step requires uniform, loguniform or randint, not {kinds[0]}")
            return self
        bounds = getattr(self, kinds[0])
        if len(bounds) != 2 or bounds[0] >= bounds[1]:
            raise ValueError(f"{kinds[0]} = {bounds}: must be [lowest, highest]")
        if self.loguniform is not None and bounds[0] <= 0:
            raise ValueError(f"loguniform = {bounds}: must be greater than 0")
        if self.step is not None:
            if self.step > bounds[1] - bounds[0]:
                raise ValueError(f"step = {self.step}: must be at most the range's {bounds[1] - bounds[0]}")
            if self.randint is not None and self.step != int(self.step):
                raise ValueError(f"step = {self.step}: must be an integer for randint")
        return self

    @property
    def values(self) -> list[Value] | None:
        """List of values; None for a range."""
        return self.grid if self.grid is not None else self.choice

    @property
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest value of a range."""
        low, high = self.uniform or self.loguniform or self.randint  # type: ignore[misc]
        return low, high

    @property
    def extremes(self) -> list[Value]:
        """Values that represent the dimension in validity checks: the bounds of a range, or else all values."""
        return self.values if self.values is not None else list(self.bounds)

    def sample(self, rng: "np.random.Generator") -> Value:
        """Returns a random value."""
        if self.values is not None:
            return self.values[rng.integers(len(self.values))]
        low, high = self.bounds
        if self.randint is not None:
            return self.quantised(int(rng.integers(int(low), int(high), endpoint=True)))
        if self.loguniform is not None:
            return self.quantised(min(max(math.exp(rng.uniform(math.log(low), math.log(high))), low), high))
        return self.quantised(float(rng.uniform(low, high)))

    def quantised(self, value: float) -> Value:
        """Rounds a value of the range to the nearest step."""
        if self.step is not None:
            low, high = self.bounds
            steps = min(round((value - low) / self.step), math.floor((high - low) / self.step * (1 + 1e-12)))
            value = low + steps * self.step
        return round(value) if self.randint is not None else float(value)


def told(value: object) -> str:
    """Returns a short text for a value."""
    return f"{value:.3g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
