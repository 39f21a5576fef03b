"""Numbers with their nouns, for messages."""


def counted(number: int, noun: str) -> str:
    """Return "1 thread" or "2 threads". ``noun`` is a singular whose plural ends in "s"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
