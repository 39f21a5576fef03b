"""Which of many messages are logged, where clients cause them: each now and then, a few in all."""

from collections.abc import Callable, Hashable

# Within so many seconds, no message is repeated, and there are no more than _MAX_MESSAGES.
_INTERVAL = 60.0
_MAX_MESSAGES = 30


class Repeats:
    """Counts the messages of one kind. The argument is ``clock()`` in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        # When each was logged, the oldest first. Older than a minute are removed.
        self._logged: dict[Hashable, float] = {}
        # How many were not logged since the last one that was.
        self._not_shown = 0

    def note(self, key: Hashable) -> str | None:
        """Take note of a message. Return what stands behind it; None if it is not to be logged."""
        now = self._clock()
        logged = self._logged
        while logged and now - logged[oldest := next(iter(logged))] >= _INTERVAL:
            del logged[oldest]
        if key in logged or len(logged) >= _MAX_MESSAGES:
            self._not_shown += 1
            return None
        logged[key] = now
        not_shown, self._not_shown = self._not_shown, 0
        return f" (not shown since the last one: {not_shown})" if not_shown else ""
