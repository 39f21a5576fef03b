"""The way of an accepted socket: from the listener to the front, one step after the other."""

import asyncio
import socket
from collections.abc import Callable

from ..connection.shared import Shared
from ..exchange.interfaces import Codec
from .transport import SocketWire

# What makes the first step of a socket and its wire, which leads to that wire.
TlsStep = Callable[[socket.socket, SocketWire], asyncio.Protocol]
# The same, of any protocol that is to follow.
ProxyStep = Callable[[socket.socket, SocketWire, asyncio.Protocol], asyncio.Protocol]


class Entrance:
    """Makes what is connected to the sockets that one listener has accepted.

    Arguments: what connections share, the codec of the protocol that is spoken there, and the loop;
    what makes the step of TLS, where that is spoken, and that of the PROXY protocol, which comes
    before it.
    """

    def __init__(
        self,
        shared: Shared,
        codec: Codec,
        loop: asyncio.AbstractEventLoop,
        tls: TlsStep | None = None,
        proxy: ProxyStep | None = None,
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
