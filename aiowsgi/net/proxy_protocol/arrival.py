"""The step at which a connection waits for its PROXY header. On the loop thread."""

import asyncio
import logging
import socket
from collections.abc import Callable

from ...connection.shared import Shared
from ...observe.repeats import Repeats
from ..arrival import Arrival
from ..transport import SocketWire
from .header import Header, parse
from .malformed import Malformed

_log = logging.getLogger("aiowsgi.error")


class ProxyProtocol:
    """What the connections of one listener share on which the PROXY protocol is spoken.

    Arguments: what connections share; and ``is_trusted(host)``, which says who may send a header.
    The host of a Unix socket is empty.
    """

    def __init__(self, shared: Shared, is_trusted: Callable[[str], bool]) -> None:
        self.is_trusted = is_trusted
        self._shared = shared
        self._repeats = Repeats(shared.resources.clock)

    def step(
        self, sock: socket.socket, wire: SocketWire, follows: asyncio.Protocol
    ) -> asyncio.Protocol:
        """Return the step that waits for the header of a connection; ``follows`` is the next."""
        return _ProxyArrival(self._shared, sock, wire, follows, self)

    def note_failure(self, peer: str, reason: str) -> None:
        """Warn of a connection that is closed without an answer, not too often."""
        if (rest := self._repeats.note((peer, reason))) is not None:
            _log.warning(
                "Closed a connection from %s without an answer: %s%s",
                peer or "a Unix socket",
                reason,
                rest,
            )


class _ProxyArrival(Arrival):
    """Reads the header that comes first, and hands the connection on as that of another client.

    What is no header is closed without an answer: it is not known what would be understood.
    """

    def __init__(
        self,
        shared: Shared,
        sock: socket.socket,
        wire: SocketWire,
        follows: asyncio.Protocol,
        protocol: ProxyProtocol,
    ) -> None:
        super().__init__(shared, sock, wire, shared.resources.config.timeout_proxy)
        self._follows = follows
        self._protocol = protocol
        self._buffer: bytes | bytearray = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, unless nothing that this peer could say would be believed."""
        super().connection_made(transport)
        if not self._protocol.is_trusted(self._wire.client[0]):
            self._refuse(
                "it may not speak the PROXY protocol here; if it is your proxy, name it in trust= "
                "behind the address"
            )

    def data_received(self, data: bytes) -> None:
        """Take bytes, and go on once the header is complete."""
        if self._transport.is_closing():
            return  # Some loops deliver what has come before.
        if self._buffer:
            # It grows in place. What it holds is read, or refused, once it is as long as a header.
            if not isinstance(self._buffer, bytearray):
                self._buffer = bytearray(self._buffer)
            self._buffer += data
        else:
            self._buffer = data
        try:
            header = parse(self._buffer)
        except Malformed as error:
            self._refuse(str(error))
            return
        if header is not None:
            self._apply(header)
            self._arrive(self._follows, bytes(self._buffer[header.size :]))

    def eof_received(self) -> bool | None:
        """Take the client's end."""
        self._give_up("it ended the connection")
        return None

    def _time_out(self) -> None:
        self._give_up(f"it took longer than {self._timeout:g} s")

    def _give_up(self, reason: str) -> None:
        if self._buffer:
            self._refuse(f"{reason} within the PROXY header")
            return
        # Health checks connect and say nothing, and browsers connect before they need it.
        _log.debug("Closed a connection before its PROXY header: %s", reason)
        self._transport.abort()

    def _refuse(self, reason: str) -> None:
        self._protocol.note_failure(self._wire.client[0], reason)
        self._transport.abort()

    def _apply(self, header: Header) -> None:
        """Have the connection be what the header says, as far as it says anything."""
        wire = self._wire
        if not header.is_local:
            # Also where it does not say for whom: the proxy has passed on what others send.
            wire.peer = wire.client
        if header.source is not None:
            wire.client = header.source
        wire.server = header.destination
        wire.tls = header.tls
