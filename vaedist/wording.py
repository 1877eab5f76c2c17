"""Words of messages."""


def counted(number: int, noun: str) -> str:
    """Returns a number with its noun, as in "1 worker", "1,024 workers" and "2 classes"."""
    plural = "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{plural if number != 1 else ''}"
