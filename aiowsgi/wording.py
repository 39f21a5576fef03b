"""How messages put numbers into words. Data only."""


def counted(number: int, noun: str) -> str:
    """Return "1 thread", "2 threads"; ``noun`` is the singular of one that takes an "s"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
