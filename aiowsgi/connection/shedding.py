"""Who has to go when threads, memory or connections run short: the slowest clients.

A server that is not short of anything bears with every client that keeps to the timeouts.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Collection

from ..bridge.budget import Budget
from ..exchange.interfaces import Client
from ..exchange.resources import Resources
from ..wording import counted

_log = logging.getLogger("aiowsgi.error")

# Clients that keep a thread waiting are cut below this pace, in bytes a second, while requests wait
# for threads. Anything that deserves to be called a network is faster.
_SLOW = 16 << 10
# By how much that pace rises with each look that finds nobody below it: tenfold in some 3 seconds.
_GROWTH = 1.25
# Nobody who moves so many bytes a second is cut to make room for a connection.
_QUICK = 256 << 10
# Seconds between two looks at all connections.
_INTERVAL = 0.25
# Seconds between two messages that clients were cut.
_SAID_EVERY = 10.0
# An idle connection is younger than this, in seconds, is not closed to make room.
_YOUNG = 1.0
# Idle connections that are closed at a time.
_IDLE_AT_A_TIME = 16
# Room that nobody has asked for in so many seconds is no longer short.
_OVER = 2.0


class LoadShedding:
    """Frees what slow clients hold. Called on the loop thread, as often as one likes.

    Arguments: all clients of the server, and what their streams share.
    """

    def __init__(self, clients: Collection[Client], resources: Resources) -> None:
        self._clients = clients
        self._resources = resources
        self._threads_at = self._memory_at = self._spool_at = self._said_at = float("-inf")
        self._slow = float(_SLOW)
        # Who may go to make room for connections, the first one first, as far as the last look has
        # found them: those that are idle, and since when; and those that are slow.
        self._idle: OrderedDict[Client, float] = OrderedDict()
        self._slowest: OrderedDict[Client, None] = OrderedDict()
        self._slow_connection = float(_SLOW)
        # When that look was; since when connections are short, and when they last were.
        self._room_at = self._full_since = self._full_at = float("-inf")
        # Since it was last said.
        self._cut = 0

    def free_threads(self) -> None:
        """Cut clients that keep threads waiting while requests wait for those."""
        pool, now = self._resources.pool, self._resources.clock()
        if now - self._threads_at < _INTERVAL:
            return
        if not pool.is_starved:
            self._slow = _SLOW
            return
        self._threads_at = now
        slow = [
            client for rate, client in self._paces() if rate < self._slow and client.blocks_thread
        ]
        if not slow:
            # The longer requests wait, the faster a client has to be.
            self._slow *= _GROWTH
        slow = slow[: pool.queued]
        for client in slow:
            client.shed()
        self._report(len(slow), "threads")

    def free_memory(self) -> bool:
        """Cut the slowest clients if more is buffered than may be. Return whether it still is."""
        budget = self._resources.budget
        if not budget.is_exceeded:
            return False
        if self._resources.clock() - self._memory_at >= _INTERVAL:
            self._memory_at = self._resources.clock()
            self._free(budget, 0, lambda client: client.holds_memory, "memory")
        return budget.is_exceeded

    def free_spool(self, held: int, size: int) -> bool:
        """Make room for a spool that counts as ``held`` to grow to ``size`` bytes.

        Where there is none, the slowest clients that have a spool are cut. Return whether there is.
        """
        spooler = self._resources.spooler
        assert spooler is not None  # There is a spool.
        if spooler.budget.has_room(held, size):
            return True
        if self._resources.clock() - self._spool_at >= _INTERVAL:
            self._spool_at = self._resources.clock()
            wanted = size - held
            self._free(spooler.budget, wanted, lambda p: p.holds_spool, "space (--body-spool)")
        return spooler.budget.has_room(held, size)

    def _free(
        self, budget: Budget, wanted: int, holds: Callable[[Client], bool], short_of: str
    ) -> None:
        """Cut the slowest clients until so many bytes more may be held."""
        cut = 0
        for _, client in self._paces():
            # A little more than needed, so that it lasts until the next look.
            if budget.used + wanted <= budget.limit * 0.9:
                break
            if holds(client):
                client.shed()
                cut += 1
        self._report(cut, short_of)

    def free_connections(self) -> None:
        """Make room for a connection: close some that have been idle for the longest time. Where
        there are none, cut the slowest client.
        """
        now = self._resources.clock()
        if now - self._full_at > _OVER:
            self._full_since, self._slow_connection = now, float(_SLOW)
        self._full_at = now
        if now - self._room_at >= _INTERVAL:
            self._room_at = now
            self._look_for_room(now)
        if not self._close_idle() and self._slowest:
            client, _ = self._slowest.popitem(last=False)
            if (rate := client.rate()) is not None and rate < self._slow_connection:
                client.shed()
                self._report(1, "connections")

    def _look_for_room(self, now: float) -> None:
        """Look at all connections, and remember who may go.

        Clients that connect again and again have one look for them all, not one for each attempt.
        """
        self._slowest.clear()
        idle = [
            (client, since)
            for client in self._clients
            if (since := client.idle_since) is not None and now - since >= _YOUNG
        ]
        idle.sort(key=lambda item: item[1])
        self._idle = OrderedDict(idle)
        # Who has become idle just now may go a second later.
        if idle or now - self._full_since < _YOUNG:
            return
        for rate, client in self._paces():
            if rate < self._slow_connection:
                self._slowest[client] = None
        if not self._slowest:
            self._slow_connection = min(self._slow_connection * _GROWTH, _QUICK)

    def _close_idle(self) -> int:
        """Close some of the idle connections that were found; return how many."""
        closed = 0
        while self._idle and closed < _IDLE_AT_A_TIME:
            client, since = self._idle.popitem(last=False)
            if client.idle_since == since:
                client.shut_down()
                closed += 1
        return closed

    def forget(self, client: Client) -> None:
        """Let go of a connection that is gone."""
        self._idle.pop(client, None)
        self._slowest.pop(client, None)

    def _paces(self) -> list[tuple[float, Client]]:
        """Return the clients that are waited for, the slowest first."""
        paces = [(rate, client) for client in self._clients if (rate := client.rate()) is not None]
        paces.sort(key=lambda item: item[0])
        return paces

    def _report(self, number: int, short_of: str) -> None:
        """Say how many clients were cut, now and then."""
        self._cut += number
        now = self._resources.clock()
        if self._cut and now - self._said_at >= _SAID_EVERY:
            clients = counted(self._cut, "slow client")
            _log.warning("Cut %s: the server is short of %s", clients, short_of)
            self._said_at = now
            self._cut = 0
