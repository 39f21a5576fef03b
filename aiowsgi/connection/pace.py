"""How fast a client moves bytes while it is waited for. Data only."""

# Seconds after which it can be said how fast a client is: some round trips.
FIRST_MOMENTS = 0.5


class Pace:
    """Bytes that a client has sent, or taken, while it was waited for. Times are in seconds.

    It may be waited for again and again. The minimum that is asked of it counts all of that: a
    client that takes a little of each piece of a stream is no faster for the pauses between them.
    Its rate is that of late: nobody lives on what was quick before.
    """

    __slots__ = ("_began", "_lately", "_lately_since", "_moved", "_moved_at", "_rested_at")

    def __init__(self, now: float) -> None:
        self._began = now
        self._moved = 0
        self._moved_at = now
        self._lately = 0
        self._lately_since = now
        self._rested_at = now

    def move(self, size: int, now: float) -> None:
        """Take note of ``size`` bytes that have just moved, if any."""
        if size > 0:
            self._moved += size
            self._lately += size
            self._moved_at = now

    def rest(self, now: float) -> None:
        """Wait for somebody else from now on, until ``resume``."""
        self._rested_at = now

    def resume(self, now: float) -> None:
        """Wait for the client again."""
        pause = now - self._rested_at
        self._began += pause
        self._moved_at = now
        if self.rate(self._rested_at) is None:
            self._lately_since += pause
        else:
            self._lately, self._lately_since = 0, now

    def rate(self, now: float) -> float | None:
        """Return the bytes a second of late; None in the first moments, which say little."""
        elapsed = now - self._lately_since
        return self._lately / elapsed if elapsed >= FIRST_MOMENTS else None

    def time_left(self, patience: float, rate: int, now: float) -> float:
        """Return the seconds that the client has left: it may be silent for ``patience`` seconds,
        and needs on average ``rate`` bytes a second once that time is over. A rate of 0 asks for
        nothing.
        """
        left = self._moved_at + patience - now
        return min(left, self._began + patience + self._moved / rate - now) if rate else left
