"""Words of messages."""

from collections.abc import Mapping


def counted(number: int, noun: str) -> str:
    """Returns a number with its noun, as in "1 worker", "1,024 workers" and "2 classes"."""
    plural = "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{plural if number != 1 else ''}"


def aligned(title: str, rows: Mapping[str, str]) -> str:
    """Returns a title, and below it names and values in two columns."""
    width = max(map(len, rows), default=0)
    return "\n".join([title, *(f"{name:<{width}}  {value}" for name, value in rows.items())])
