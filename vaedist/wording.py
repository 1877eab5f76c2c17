"""Words of messages."""


def counted(number: int, noun: str) -> str:
    """Returns a number with its noun, as in "1 worker" and "1,024 workers"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
