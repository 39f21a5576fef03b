"""A connection before its first request: what has to come first is being waited for."""

import asyncio
import socket
from typing import cast

from ..connection.shared import Shared
from ..errors import ClientDisconnected
from ..exchange.interfaces import ConnectionHandle, Timer
from ..observe.inspection import RequestInfo
from .transport import SocketWire


class Arrival(asyncio.Protocol, ConnectionHandle):
    """A step on the way of an accepted socket to its front. To load shedding it is idle.

    It ends with ``_arrive``, or with the connection. A subclass says what is read meanwhile.

    Arguments: what connections share; the socket; the wire to which the connection belongs, which
    reports its end, whatever happens; and for how many seconds it may take.
    """

    def __init__(
        self, shared: Shared, sock: socket.socket, wire: SocketWire, timeout: float
    ) -> None:
        self._shared = shared
        self._socket = sock
        self._wire = wire
        self._timeout = timeout
        self._began_at = shared.resources.clock()
        # None before it is connected, which may fail.
        self._timer: Timer | None = None

    # Called by asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)
        self._shared.connections[self] = None
        self._arm(self._timeout)
        if self._shared.is_closing:
            self._transport.abort()

    def eof_received(self) -> bool | None:
        """Take the client's end: nothing more will come."""
        self._transport.abort()
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        """Take the end of the connection."""
        self._leave()
        self._wire.shut_down()
        self._wire.connection_lost(exc)

    def _arm(self, seconds: float) -> None:
        """Have ``_time_out`` called after so many seconds, and not when it was to be."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._shared.timers.call_later(seconds, self._time_out)

    def _time_out(self) -> None:
        """Give the client up, which has taken too long."""
        self._transport.abort()

    def _leave(self) -> None:
        """Be no step any more. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
        self._shared.connections.pop(self, None)
        self._shared.shedding.forget(self)

    def _arrive(self, following: asyncio.Protocol, rest: bytes) -> None:
        """Hand the transport on to what follows, and the bytes that are its own."""
        self._leave()
        self._transport.set_protocol(following)
        following.connection_made(self._transport)
        if rest and not self._transport.is_closing():
            following.data_received(rest)

    # Called by load shedding and the server.

    @property
    def has_arrived(self) -> bool:
        """See ``ConnectionHandle``."""
        return False

    @property
    def idle_since(self) -> float | None:
        """See ``ConnectionHandle``."""
        return self._began_at

    @property
    def blocks_thread(self) -> bool:
        """See ``ConnectionHandle``."""
        return False

    @property
    def holds_memory(self) -> bool:
        """See ``ConnectionHandle``."""
        return False

    @property
    def holds_spool(self) -> bool:
        """See ``ConnectionHandle``."""
        return False

    def rate(self) -> float | None:
        """See ``ConnectionHandle``."""
        return None

    def shed(self) -> None:
        """See ``ConnectionHandle``."""
        self._transport.abort()

    def announce_close(self) -> None:
        """See ``ConnectionHandle``."""

    def close_if_idle(self) -> None:
        """See ``ConnectionHandle``."""
        self._transport.abort()

    def abort(self, error: ClientDisconnected) -> None:
        """See ``ConnectionHandle``."""
        self._transport.abort()

    def release(self, error: ClientDisconnected) -> None:
        """See ``ConnectionHandle``."""
        self.connection_lost(None)

    def abandon(self, error: ClientDisconnected) -> list[int]:
        """See ``ConnectionHandle``."""
        return [self._socket.fileno()]

    def inspect(self, stacks: dict[int, str]) -> RequestInfo | None:
        """See ``ConnectionHandle``."""
        return None
