"""Load shedding: the slowest clients are cut when threads, memory or connections run short.

While nothing is short, no client is cut that keeps to the timeouts.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Collection

from ..bridge.budget import Budget
from ..exchange.interfaces import ConnectionHandle
from ..exchange.resources import Resources
from ..wording import counted

_log = logging.getLogger("aiowsgi.error")

# Clients that keep a thread waiting are cut below this rate, in bytes a second, while requests wait
# for threads. Working networks are faster.
_SLOW_RATE = float(16 << 10)
# By how much that rate rises with each check that finds no client below it: tenfold in some 3
# seconds.
_GROWTH = 1.25
# No client that moves this many bytes a second is cut to make room for a connection.
_QUICK_RATE = float(256 << 10)
# Seconds between two checks of all connections.
_CHECK_INTERVAL = 0.25
# Seconds between two messages that clients were cut.
_REPORT_INTERVAL = 10.0
# A connection is not closed to make room before it has been idle for this many seconds.
_MIN_IDLE_TIME = 1.0
# Idle connections that are closed at a time.
_MAX_CLOSED_AT_ONCE = 16
# Connections are no longer short when no room was asked for in this many seconds.
_SHORTAGE_ENDS = 2.0


class LoadShedding:
    """Frees what slow clients hold. Called on the loop thread; frequent calls cost little.

    Arguments: all connections of the server, and what their streams share.
    """

    def __init__(self, connections: Collection[ConnectionHandle], resources: Resources) -> None:
        self._connections = connections
        self._resources = resources
        self._threads_checked_at = self._memory_checked_at = self._spool_checked_at = (
            self._reported_at
        ) = float("-inf")
        self._slow_thread_rate = _SLOW_RATE
        # What the last check has found that may be closed to make room for connections, the first
        # one first: idle connections, and since when they are idle; and slow clients.
        self._idle: OrderedDict[ConnectionHandle, float] = OrderedDict()
        self._slowest: OrderedDict[ConnectionHandle, None] = OrderedDict()
        self._slow_connection_rate = _SLOW_RATE
        # When that check was; since when connections are short, and when they last were.
        self._connections_checked_at = self._short_since = self._short_at = float("-inf")
        # How many clients were cut since the last message.
        self._unreported_cuts = 0

    def free_threads(self) -> None:
        """Cut clients that keep threads waiting while requests wait for those."""
        pool = self._resources.pool
        is_starved = pool.is_starved
        if not is_starved and self._slow_thread_rate == _SLOW_RATE:
            return  # As nearly always.
        now = self._resources.clock()
        if now - self._threads_checked_at < _CHECK_INTERVAL:
            return
        if not is_starved:
            self._slow_thread_rate = _SLOW_RATE
            return
        self._threads_checked_at = now
        slow = [
            connection
            for rate, connection in self._rates()
            if rate < self._slow_thread_rate and connection.blocks_thread
        ]
        if not slow:
            # The longer requests wait, the faster a client has to be.
            self._slow_thread_rate *= _GROWTH
        slow = slow[: pool.queued]
        for connection in slow:
            connection.shed()
        self._report(len(slow), "threads")

    def free_memory(self) -> bool:
        """Cut the slowest clients if more is buffered than may be. Return whether it still is."""
        budget = self._resources.budget
        if not budget.is_exceeded:
            return False
        if self._resources.clock() - self._memory_checked_at >= _CHECK_INTERVAL:
            self._memory_checked_at = self._resources.clock()
            self._free(budget, 0, lambda holder: holder.holds_memory, "memory")
        return budget.is_exceeded

    def free_spool(self, held: int, size: int) -> bool:
        """Make room for a spool that counts as ``held`` to grow to ``size`` bytes.

        Where there is none, the slowest clients that have a spool are cut. Return whether there is.
        """
        spooler = self._resources.spooler
        assert spooler is not None  # There is a spool.
        if spooler.budget.has_room(held, size):
            return True
        if self._resources.clock() - self._spool_checked_at >= _CHECK_INTERVAL:
            self._spool_checked_at = self._resources.clock()
            wanted = size - held
            self._free(
                spooler.budget, wanted, lambda holder: holder.holds_spool, "space (--body-spool)"
            )
        return spooler.budget.has_room(held, size)

    def _free(
        self, budget: Budget, wanted: int, holds: Callable[[ConnectionHandle], bool], short_of: str
    ) -> None:
        """Cut the slowest clients until so many bytes more may be held."""
        cut = 0
        for _, connection in self._rates():
            # A little more than needed, so that it lasts until the next check.
            if budget.used + wanted <= budget.limit * 0.9:
                break
            if holds(connection):
                connection.shed()
                cut += 1
        self._report(cut, short_of)

    def free_connections(self) -> None:
        """Make room for a connection: close some that have been idle for the longest time, those
        first on which there is no handshake yet. Where there are none, cut the slowest client.
        """
        now = self._resources.clock()
        if now - self._short_at > _SHORTAGE_ENDS:
            self._short_since, self._slow_connection_rate = now, _SLOW_RATE
        self._short_at = now
        if now - self._connections_checked_at >= _CHECK_INTERVAL:
            self._connections_checked_at = now
            self._find_candidates(now)
        if not self._close_idle() and self._slowest:
            connection, _ = self._slowest.popitem(last=False)
            if (rate := connection.rate()) is not None and rate < self._slow_connection_rate:
                connection.shed()
                self._report(1, "connections")

    def _find_candidates(self, now: float) -> None:
        """Check all connections, and remember which may be closed.

        One check serves many clients that want to connect.
        """
        self._slowest.clear()
        idle = [
            (connection, since)
            for connection in self._connections
            if (since := connection.idle_since) is not None and now - since >= _MIN_IDLE_TIME
        ]
        # Who has never completed a handshake goes first: it may be one of many that never will.
        idle.sort(key=lambda item: (item[0].has_arrived, item[1]))
        self._idle = OrderedDict(idle)
        # A connection that has just become idle may be closed a second later.
        if idle or now - self._short_since < _MIN_IDLE_TIME:
            return
        for rate, connection in self._rates():
            if rate < self._slow_connection_rate:
                self._slowest[connection] = None
        if not self._slowest:
            self._slow_connection_rate = min(self._slow_connection_rate * _GROWTH, _QUICK_RATE)

    def _close_idle(self) -> int:
        """Close some of the idle connections that were found; return how many."""
        closed = 0
        while self._idle and closed < _MAX_CLOSED_AT_ONCE:
            connection, since = self._idle.popitem(last=False)
            if connection.idle_since == since:
                connection.close_if_idle()
                closed += 1
        return closed

    def forget(self, connection: ConnectionHandle) -> None:
        """Let go of a connection that is gone."""
        self._idle.pop(connection, None)
        self._slowest.pop(connection, None)

    def _rates(self) -> list[tuple[float, ConnectionHandle]]:
        """Return the clients that are waited for, the slowest first."""
        paces = [
            (rate, connection)
            for connection in self._connections
            if (rate := connection.rate()) is not None
        ]
        paces.sort(key=lambda item: item[0])
        return paces

    def _report(self, number: int, short_of: str) -> None:
        """Say how many clients were cut, now and then."""
        self._unreported_cuts += number
        now = self._resources.clock()
        if self._unreported_cuts and now - self._reported_at >= _REPORT_INTERVAL:
            clients = counted(self._unreported_cuts, "slow client")
            _log.warning("Cut %s: the server is short of %s", clients, short_of)
            self._reported_at = now
            self._unreported_cuts = 0
