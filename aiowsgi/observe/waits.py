"""The warning that requests have to wait for a thread."""

import logging
from collections.abc import Callable

from ..wording import counted

_log = logging.getLogger("aiowsgi.error")

# Seconds between two warnings, at least.
_INTERVAL = 60.0
_ADVICE = (
    "Each stream (server-sent events, long polling) holds a thread for as long as it lasts. Raise "
    "--threads if the application streams or waits for other services; find out what it is busy "
    "with by kill -URG, or server.inspect()"
)


class Waits:
    """Collects how long requests waited for a thread, and warns once in a while.

    Arguments: the number of threads; ``clock()`` in seconds. Called on the loop thread.
    """

    def __init__(self, threads: int, clock: Callable[[], float]) -> None:
        self._threads = threads
        self._clock = clock
        self._waited = 0
        self._refused = 0
        self._longest = 0.0
        self._said_at = float("-inf")

    def note(self, wait: float, *, refused: bool = False) -> None:
        """Take note of a request that waited ``wait`` seconds for a thread, or was refused."""
        self._waited += not refused
        self._refused += refused
        self._warn(wait)

    def note_waiting(self, wait: float) -> None:
        """Take note of a request that has waited ``wait`` seconds so far, and is still waiting."""
        self._warn(wait, and_more=", and more are waiting")

    def _warn(self, wait: float, and_more: str = "") -> None:
        now = self._clock()
        self._longest = max(self._longest, wait)
        if now - self._said_at < _INTERVAL:
            return
        threads = counted(self._threads, "thread")
        if not self._longest and self._refused:
            _log.warning(
                "The queue for %s was full (--queue-size), and %s got a 503 at once. %s",
                threads,
                counted(self._refused, "request"),
                _ADVICE,
            )
        else:
            _log.warning(
                "Requests waited up to %.1f s for one of %s: %d ran late, %d got a 503%s. %s",
                self._longest,
                threads,
                self._waited,
                self._refused,
                and_more,
                _ADVICE,
            )
        self._said_at = now
        self._waited = self._refused = 0
        self._longest = 0.0
