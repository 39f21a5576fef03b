"""The way of an accepted socket: from the listener to the front, one step after the other."""

import asyncio
import socket
from collections.abc import Callable

from ..connection.shared import Shared
from ..exchange.interfaces import Codec
from .transport import SocketWire


class Entrance:
    """Makes what is connected to the sockets that one listener has accepted.

    Arguments: what connections share, the codec of the protocol that is spoken there, and the loop;
    what makes the step of TLS of a socket and its wire, where that is spoken; and what makes the
    step of the PROXY protocol, also of what follows it.
    """

    def __init__(
        self,
        shared: Shared,
        codec: Codec,
        loop: asyncio.AbstractEventLoop,
        tls: Callable[[socket.socket, SocketWire], asyncio.Protocol] | None = None,
        proxy: (
            Callable[[socket.socket, SocketWire, asyncio.Protocol], asyncio.Protocol] | None
        ) = None,
    ) -> None:
        self._shared = shared
        self._codec = codec
        self._loop = loop
        self._tls = tls
        self._proxy = proxy

    def protocol(self, sock: socket.socket, peer: object) -> asyncio.Protocol:
        """Return the protocol of the first step; ``peer`` is the name of the socket's peer."""
        wire = SocketWire(self._shared, self._codec, sock, peer, self._loop)
        first = wire if self._tls is None else self._tls(sock, wire)
        return first if self._proxy is None else self._proxy(sock, wire, first)
