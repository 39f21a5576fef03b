"""How fast a client moves bytes while it is waited for.

It counts only, and knows no clock: each call says what time it is.
"""

# A rate is known after this many seconds of waiting: some round trips.
FIRST_MOMENTS = 0.5


class Pace:
    """Bytes that a client has sent, or taken, while it was waited for. Times are in seconds.

    It may be waited for again and again. The minimum that is asked of it counts all of that: a
    client that takes a little of each piece of a stream is no faster for the pauses between them.
    Its rate counts only what has moved lately: having been quick before does not excuse it.
    """

    __slots__ = ("_began", "_moved", "_moved_at", "_paused_at", "_recent", "_recent_since")

    def __init__(self, now: float) -> None:
        self._began = now
        self._moved = 0
        self._moved_at = now
        self._recent = 0
        self._recent_since = now
        self._paused_at = now

    def add(self, size: int, now: float) -> None:
        """Take note of ``size`` bytes that have just moved, if any."""
        if size > 0:
            self._moved += size
            self._recent += size
            self._moved_at = now

    def pause(self, now: float) -> None:
        """Stop counting time: until ``resume``, the client is not waited for."""
        self._paused_at = now

    def resume(self, now: float) -> None:
        """Count time again: the client is waited for."""
        pause = now - self._paused_at
        self._began += pause
        self._moved_at = now
        if self.rate(self._paused_at) is None:
            self._recent_since += pause
        else:
            self._recent, self._recent_since = 0, now

    def rate(self, now: float) -> float | None:
        """Return the recent bytes a second; None in the first moments, which say little."""
        elapsed = now - self._recent_since
        return self._recent / elapsed if elapsed >= FIRST_MOMENTS else None

    def time_left(self, patience: float, rate: int, now: float) -> float:
        """Return the seconds that the client has left: it may be silent for ``patience`` seconds,
        and needs on average ``rate`` bytes a second once that time is over. A rate of 0 asks for
        nothing.
        """
        left = self._moved_at + patience - now
        return min(left, self._began + patience + self._moved / rate - now) if rate else left
