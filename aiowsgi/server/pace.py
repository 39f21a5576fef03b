"""How fast a client moves bytes while it is waited for. Data only."""

# Seconds after which it can be said how fast a client is: some round trips.
FIRST_MOMENTS = 0.5


class Pace:
    """Bytes that a client has sent, or taken, since it is waited for. Times are in seconds."""

    __slots__ = ("_began", "_moved", "_moved_at")

    def __init__(self, now: float) -> None:
        self._began = now
        self._moved = 0
        self._moved_at = now

    def move(self, size: int, now: float) -> None:
        """Take note of ``size`` bytes that have just moved, if any."""
        if size > 0:
            self._moved += size
            self._moved_at = now

    def rate(self, now: float) -> float | None:
        """Return the bytes a second so far; None in the first moments, which say little."""
        elapsed = now - self._began
        return self._moved / elapsed if elapsed >= FIRST_MOMENTS else None

    def patience_left(self, patience: float, now: float) -> float:
        """Return the seconds until the client has moved nothing for ``patience`` seconds."""
        return self._moved_at + patience - now

    def time_left(self, patience: float, rate: int, now: float) -> float:
        """Return the seconds that the client has left: it may be silent for ``patience`` seconds,
        and needs on average ``rate`` bytes a second once that time is over.
        """
        allowed = self._began + patience + self._moved / rate - now
        return min(allowed, self.patience_left(patience, now))
