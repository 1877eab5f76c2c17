"""Division of rows into parts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """A range of rows of a group, such as a split; it becomes one file of the output.

    Attributes:
        name: name of the part, which sorts in the order of the rows.
        group: name of the group.
        start, stop: half-open range of rows.
    """

    name: str
    group: str
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.stop - self.start


@dataclass(frozen=True)
class Parts(Sequence[Part]):
    """All parts of some groups of rows; a part is computed when it is accessed.

    Args:
        groups: number of rows of each group, by name.
        size: rows of a part; the last part of a group may have fewer.
    """

    groups: Mapping[str, int]
    size: int

    def __len__(self) -> int:
        """Returns the number of parts."""
        return sum(map(self._count, self.groups.values()))

    def __getitem__(self, number: int) -> Part:  # type: ignore[override]
        """Returns a part by its number, which must not be negative.

        Raises:
            IndexError: there is no part with that number.
        """
        left = number
        for group, rows in self.groups.items():
            count = self._count(rows)
            if 0 <= left < count:
                start, width = left * self.size, max(6, len(str(count - 1)))
                return Part(f"{group}-{left:0{width}d}", group, start, min(start + self.size, rows))
            left -= count
        raise IndexError(f"no part {number} of {len(self)}")

    def __iter__(self) -> Iterator[Part]:
        """Yields the parts in order."""
        return (self[number] for number in range(len(self)))

    @property
    def rows(self) -> int:
        """Number of rows of all parts."""
        return sum(self.groups.values())

    def _count(self, rows: int) -> int:
        return -(-rows // self.size)
