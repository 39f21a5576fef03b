"""A deadline that is moved often."""

from collections.abc import Callable
from typing import Final

from ..callbacks import no_callback
from ..exchange.interfaces import Timer, Timers

_NEVER: Final = float("inf")
# A timer is started for this many seconds at most. The deadline of a new connection is far away,
# that of its first request is near, and to start another timer costs more than to let one fire too
# early. Not longer than the time between two checks of a queued request (see ``states``): those
# would start another timer.
_FIRST_CHECK: Final = 0.5
# A timer that fires more seconds late than this tells that the process has not run meanwhile: it,
# or its machine, was stopped, or its loop was blocked. What has come in that time is not read yet.
# So the loop has so many seconds more to read it, and no client is blamed.
_LATE: Final = 1.0
_CATCH_UP: Final = 0.1
# Loops round their clocks, which need not be the clock of the server.
_ROUNDED: Final = 0.0005


class Deadline:
    """Calls ``on_reached()`` on the loop thread when the deadline has passed.

    A little later where the process has not run for some time before.

    Moving it costs a comparison: the loop's timer stays where it is, and is started again when it
    fires too early. ``clock`` is the one of the server, so that who moves the deadline need not
    look at a second one.
    """

    __slots__ = ("_at", "_clock", "_on_reached", "_timer", "_timer_at", "_timers")

    def __init__(
        self, timers: Timers, clock: Callable[[], float], on_reached: Callable[[], None]
    ) -> None:
        self._timers = timers
        self._clock = clock
        self._on_reached = on_reached
        self._at = _NEVER
        self._timer: Timer | None = None
        self._timer_at = _NEVER

    def set(self, seconds: float | None, now: float) -> None:
        """Move the deadline to ``seconds`` from ``now``; None takes it away."""
        if seconds is None:
            self._at = _NEVER
            return
        self._at = at = now + seconds
        if self._timer is None:
            self._start_timer(now, min(seconds, _FIRST_CHECK))
        elif self._timer_at > at:
            late = self._timer
            self._start_timer(now, seconds)
            late.cancel()

    def cancel(self) -> None:
        """Take the deadline away for good, and drop the reference to ``on_reached``."""
        self._at = _NEVER
        self._on_reached = no_callback
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start_timer(self, now: float, seconds: float) -> None:
        self._timer = self._timers.call_later(seconds, self._check)
        self._timer_at = now + seconds

    def _check(self) -> None:
        self._timer = None
        if self._at == _NEVER:
            return
        now = self._clock()
        left = self._at - now
        if left > _ROUNDED:
            self._start_timer(now, left)
        elif now - self._timer_at > _LATE and self._timer_at <= self._at + _ROUNDED:
            # Only once: this timer is behind the deadline.
            self._start_timer(now, _CATCH_UP)
        else:
            self._at = _NEVER
            self._on_reached()
