"""Deadlines that are moved often, of many connections that do not last."""

from collections.abc import Callable
from typing import Final

from ..callbacks import no_callback
from ..exchange.interfaces import Timer, Timers

_NEVER: Final = float("inf")
# A timer is started for this many seconds at most. The deadline of a new connection is far away,
# that of its first request is near, and to start another timer costs more than to let one fire too
# early. So all that are new have one timer together. Not longer than the time between two checks of
# a queued request (see ``states``): those would start another timer.
_FIRST_CHECK: Final = 0.5
# A timer that fires more seconds late than this tells that the process has not run meanwhile: it,
# or its machine, was stopped, or its loop was blocked. What has come in that time is not read yet.
# So the loop has so many seconds more to read it, and no client is blamed.
_LATE: Final = 1.0
_CATCH_UP: Final = 0.1
# Loops round their clocks, which need not be the clock of the server.
_ROUNDED: Final = 0.0005


class FirstChecks:
    """Has one timer of the loop for all deadlines that are new or were away. On the loop thread.

    Most connections that are made for one request end before it fires.
    """

    __slots__ = ("_at", "_deadlines", "_timer", "timers")

    def __init__(self, timers: Timers) -> None:
        self.timers = timers
        self._deadlines: dict[Deadline, None] = {}
        self._timer: Timer | None = None
        # When it fires, of the one that was started last.
        self._at = _NEVER

    def add(self, deadline: "Deadline", now: float) -> float:
        """Have a deadline checked. Return when: ``_FIRST_CHECK`` seconds from now, or before."""
        if self._timer is None:
            self._timer = self.timers.call_later(_FIRST_CHECK, self._check)
            self._at = now + _FIRST_CHECK
        self._deadlines[deadline] = None
        return self._at

    def remove(self, deadline: "Deadline") -> None:
        """Do not have it checked, if it was to be."""
        self._deadlines.pop(deadline, None)
        if self._timer is not None and not self._deadlines:
            self._timer.cancel()
            self._timer = None

    def _check(self) -> None:
        self._timer = None
        at, self._at = self._at, _NEVER
        try:
            for deadline in list(self._deadlines):
                # One that was checked before may have ended the connection of this one.
                if deadline in self._deadlines:
                    deadline.check()
        finally:
            if self._deadlines and self._at == _NEVER:  # One has failed, or was interrupted.
                self._timer = self.timers.call_later(0.0, self._check)
                self._at = at


class Deadline:
    """Calls ``on_reached()`` on the loop thread when the deadline has passed.

    A little later where the process has not run for some time before.

    Moving it costs a comparison: the loop's timer stays where it is, and is started again when it
    fires too early. ``clock`` is the one of the server, so that who moves the deadline need not
    look at a second one.
    """

    __slots__ = ("_clock", "_first_checks", "_on_reached", "_timer", "at", "timer_at")

    def __init__(
        self, first_checks: FirstChecks, clock: Callable[[], float], on_reached: Callable[[], None]
    ) -> None:
        self._first_checks = first_checks
        self._clock = clock
        self._on_reached = on_reached
        # When it is reached, by that clock.
        self.at = _NEVER
        # When it is checked: by a timer of its own, or together with others.
        self.timer_at = _NEVER
        self._timer: Timer | None = None

    def set(self, seconds: float, now: float) -> None:
        """Move the deadline to ``seconds`` from ``now``; infinity takes it away."""
        self.at = at = now + seconds
        if at < self.timer_at:
            self.check_within(seconds, now)

    def check_within(self, seconds: float, now: float) -> None:
        """Have it checked ``seconds`` from ``now``, or before: no timer fires by then."""
        if self.timer_at == _NEVER and seconds >= _FIRST_CHECK:
            self.timer_at = self._first_checks.add(self, now)
            return
        late = self._timer
        self._start_timer(now, seconds)
        if late is None:
            self._first_checks.remove(self)
        else:
            late.cancel()

    def cancel(self) -> None:
        """Take the deadline away for good, and drop the reference to ``on_reached``."""
        self.at = _NEVER
        self._on_reached = no_callback
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        elif self.timer_at != _NEVER:
            self._first_checks.remove(self)
        self.timer_at = _NEVER

    def _start_timer(self, now: float, seconds: float) -> None:
        self._timer = self._first_checks.timers.call_later(seconds, self.check)
        self.timer_at = now + seconds

    def check(self) -> None:
        """See whether it has passed: a timer has fired."""
        # First: it may be interrupted, and is checked once more where it is set anew.
        checked_at, self.timer_at = self.timer_at, _NEVER
        if self._timer is None:
            self._first_checks.remove(self)
        self._timer = None
        if self.at == _NEVER:
            return
        now = self._clock()
        left = self.at - now
        if left > _ROUNDED:
            self._start_timer(now, left)
        elif now - checked_at > _LATE and checked_at <= self.at + _ROUNDED:
            # Only once: this timer is behind the deadline.
            self._start_timer(now, _CATCH_UP)
        else:
            self.at = _NEVER
            self._on_reached()
