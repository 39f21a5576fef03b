"""When the threads of the pool are woken for requests, and the loop thread is not."""

import contextlib
import logging
from collections.abc import Callable
from typing import Final

from ..bridge.pool.jobs import JobQueue, Scheduling
from ..exchange.interfaces import Timer, Timers

_log = logging.getLogger("aiowsgi.error")

# A request for which none came before in this time, in seconds, is probably alone.
_ALONE: Final = 0.001
# Seconds between two checks whether jobs still compete for the interpreter.
_CONTENTION_LOOK = 0.1


class PoolWaker:
    """Wakes a pool once for all requests that were queued in one pass of the loop.

    Arguments: the pool; timers; ``on_woken()``, called after that; and what is done
    when threads compete for the interpreter, in a process that only serves (see
    ``process.scheduling``). Everything happens on the loop thread.
    """

    def __init__(
        self,
        pool: JobQueue,
        timers: Timers,
        *,
        on_woken: Callable[[], None],
        scheduling: Scheduling | None = None,
    ) -> None:
        self._pool = pool
        self._timers = timers
        self._on_woken = on_woken
        self._scheduling = scheduling
        # Whether the pool will be woken in this pass of the loop, and when it was last asked for.
        self._waking = False
        self._asked_at = 0.0
        # Runs while jobs compete for the interpreter.
        self._timer: Timer | None = None
        # Whether the kernel must wake the loop thread in time even then.
        self._is_punctual = False

    def wake_soon(self, now: float) -> None:
        """Have the pool woken for a request that was queued. ``now`` is by the server's clock.

        A thread that is woken earlier takes the interpreter from the loop between two reads. But
        where nothing is read after a request, waiting for the next pass would mean to ask for the
        interpreter once more.
        """
        if self._waking:
            return
        before, self._asked_at = self._asked_at, now
        if now - before > _ALONE and not self._pool.is_starved:
            self._wake()
        else:
            self._timers.call_soon(self._wake)
            self._waking = True

    def _wake(self) -> None:
        self._waking = False
        try:
            self._pool.wake()
        except RuntimeError as error:
            # Requests stay in the queue; the next one tries again, and the clock runs for each.
            _log.error("Cannot run the application: %s", error)
        scheduling = self._scheduling
        if scheduling is not None and scheduling.contended and self._timer is None:
            if not self._is_punctual:
                scheduling.lengthen_slack()
            self._timer = self._timers.call_later(_CONTENTION_LOOK, self._look_at_contention)
        self._on_woken()

    def _look_at_contention(self) -> None:
        """Look whether jobs still compute, though no request may come: what they cause must end."""
        with contextlib.suppress(RuntimeError):
            self._pool.wake()
        scheduling = self._scheduling
        if scheduling is not None and scheduling.contended:
            self._timer = self._timers.call_later(_CONTENTION_LOOK, self._look_at_contention)
        else:
            self._restore_slack()
            self._timer = None

    def _restore_slack(self) -> None:
        """Have the kernel wake the loop thread in time again, if it may be late."""
        if self._scheduling is not None and self._timer is not None and not self._is_punctual:
            self._scheduling.restore_slack()

    def stay_punctual(self) -> None:
        """Have it woken in time from here on: the loop thread will run code of the application."""
        self._restore_slack()
        self._is_punctual = True
