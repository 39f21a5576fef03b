"""A deadline that is moved often."""

from collections.abc import Callable

from ..callbacks import no_callback
from ..exchange.interfaces import Timer, Timers

_NEVER = float("inf")
# Where no timer runs, one is started for so many seconds at most: the deadline of a new connection
# is far, that of its first request is not, and a timer costs more than a look. Not longer than a
# queued request is left alone (see ``states``), or that would start another timer.
_FIRST_LOOK = 0.5


class Deadline:
    """Calls ``on_reached()`` on the loop thread when the deadline has passed.

    Moving it costs a comparison: the loop's timer stays where it is, and looks again when it fires.
    """

    __slots__ = ("_at", "_on_reached", "_timer", "_timer_at", "_timers")

    def __init__(self, timers: Timers, on_reached: Callable[[], None]) -> None:
        self._timers = timers
        self._on_reached = on_reached
        self._at = _NEVER
        self._timer: Timer | None = None
        self._timer_at = _NEVER

    def set(self, seconds: float | None) -> None:
        """Move the deadline to ``seconds`` from now; None takes it away."""
        if seconds is None:
            self._at = _NEVER
            return
        now = self._timers.time()
        self._at = at = now + seconds
        if self._timer is None:
            self._start_timer(now, min(seconds, _FIRST_LOOK))
        elif self._timer_at > at:
            late = self._timer
            self._start_timer(now, seconds)
            late.cancel()

    def cancel(self) -> None:
        """Take the deadline away for good, and forget who is called."""
        self._at = _NEVER
        self._on_reached = no_callback
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start_timer(self, now: float, seconds: float) -> None:
        self._timer = self._timers.call_later(seconds, self._look)
        self._timer_at = now + seconds

    def _look(self) -> None:
        self._timer = None
        if self._at == _NEVER:
            return
        now = self._timers.time()
        left = self._at - now
        if left > 0.0005:  # Loops round their clocks.
            self._start_timer(now, left)
        else:
            self._at = _NEVER
            self._on_reached()
