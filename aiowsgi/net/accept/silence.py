"""Connections that were accepted just now, and on which nothing has come so far.

Their requests are about to come. Processes that share a socket have to count them, or one of them
would accept too much before it knows.
"""

import asyncio
from collections.abc import Callable
from typing import cast

# A request follows its connection within this time, in nanoseconds. Browsers open some connections
# in advance, on which nothing comes for longer.
MOMENT = 20_000_000


class Silence:
    """Counts the silent connections that were accepted within a moment. On the loop thread.

    ``on_change()`` is called when there are more or fewer.
    """

    def __init__(self, on_change: Callable[[], None]) -> None:
        # The oldest first, and when each was accepted.
        self._connections: dict[object, int] = {}
        self._on_change = on_change

    @property
    def count(self) -> int:
        """How many there are, a moment before the last of them was accepted or later."""
        return len(self._connections)

    def watch(self, protocol: asyncio.Protocol, now: int) -> asyncio.Protocol:
        """Count a connection, accepted at ``now``, in nanoseconds.

        Return what has to take the place of its protocol, until something comes.
        """
        connections = self._connections
        while connections and now - next(iter(connections.values())) > MOMENT:
            del connections[next(iter(connections))]
        stand_in = _StandIn(protocol, self._end)
        connections[stand_in] = now
        self._on_change()
        return stand_in

    def _end(self, stand_in: object) -> None:
        if self._connections.pop(stand_in, None) is not None:
            self._on_change()


class _StandIn(asyncio.Protocol):
    """Stands before the protocol of a connection. ``on_end(self)`` is called at its end."""

    def __init__(self, protocol: asyncio.Protocol, on_end: Callable[[object], None]) -> None:
        self._protocol = protocol
        self._on_end = on_end

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._protocol.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self._transport.set_protocol(self._protocol)
        # In this order the request is in the queue before it is no more counted as one to come.
        try:
            self._protocol.data_received(data)
        finally:
            self._on_end(self)

    def eof_received(self) -> bool | None:
        return self._protocol.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        try:
            self._protocol.connection_lost(exc)
        finally:
            self._on_end(self)

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()
