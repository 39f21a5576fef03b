"""The step of TLS on the way of a connection: the handshake, and what is none."""

import asyncio
import re
import socket
import ssl
from collections.abc import Callable

from ...connection.shared import Shared
from ...connection.states import LINGER_TIMEOUT
from ...errors import Refusal
from ...observe.handshakes import HandshakeFailures
from ..arrival import Arrival
from ..sockets import half_close
from ..transport import SocketWire
from .client_hello import APPLICATION_PROTOCOLS, ClientHello
from .reasons import reason_of
from .session import Session
from .transport import TlsTransport
from .variables import TlsVariables

# The first byte of every handshake (RFC 8446 §5.1, RFC 5246 §6.2.1).
_HANDSHAKE = 0x16
# How a request of HTTP begins, as far as it goes.
_METHOD_SO_FAR = re.compile(rb"[A-Z]{0,20}\Z|[A-Z]{3,20} ")
_METHOD = re.compile(rb"[A-Z]{3,20} ")
_REQUEST_LINE = re.compile(rb"[^\r\n]{0,8190}")
_TEXT = b"This port speaks HTTPS, and the request came as HTTP. Begin the URL with https://\n"
_ANSWER = (
    b"HTTP/1.1 400 Bad Request\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\n"
    b"Content-Length: %d\r\n"
    b"Connection: close\r\n\r\n%b" % (len(_TEXT), _TEXT)
)
_REFUSAL = Refusal(400, "the client speaks plain HTTP, and this listener HTTPS")
_PROXY_HEADER = "it speaks the PROXY protocol before TLS; write ?proxy=on behind the address"
# RFC 7301 §3.2 has a server end the handshake of a client that offers only what the server does not
# speak: else both could take the bytes of one protocol for those of another. The ssl module cannot
# do that, and OpenSSL has sent nothing so far.
_NO_APPLICATION_PROTOCOL = b"\x15\x03\x03\x00\x02\x02\x78"
_SPOKEN = frozenset(name.encode() for name in APPLICATION_PROTOCOLS)
_NOT_SPOKEN = "it offers to speak other things than HTTP/1.1 (ALPN), such as HTTP/2"
_GARBAGE = "what it sends is neither TLS nor HTTP"


class TlsTerms:
    """What the connections of one server are told of TLS.

    Arguments: what connections share; ``context(server_name)``, asked for each connection, so that
    it may change, with the name that the client wants (SNI), if it sends one; and the loop.
    """

    def __init__(
        self,
        shared: Shared,
        context: Callable[[str | None], ssl.SSLContext],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.shared = shared
        self.context = context
        self.loop = loop
        self.failures = HandshakeFailures(shared.resources.clock)

    def step(self, sock: socket.socket, wire: SocketWire) -> asyncio.Protocol:
        """Return the step of TLS for an accepted socket."""
        return Handshake(self, sock, wire)


class Handshake(Arrival):
    """A handshake that has ``timeout_handshake`` seconds. What is none is refused.

    Arguments: what the connections of a server have in common; the socket; and its wire.
    """

    def __init__(self, terms: TlsTerms, sock: socket.socket, wire: SocketWire) -> None:
        config = terms.shared.resources.config
        super().__init__(terms.shared, sock, wire, config.timeout_handshake)
        self._terms = terms
        # What the client has sent of its first message, and the session behind that.
        self._hello: ClientHello | None = None
        self._session: Session | None = None
        # The beginning of what is no handshake, until it is known what it is.
        self._cleartext = b""
        # Whether the client was refused, and its end is waited for.
        self._is_over = False
        # How many bytes have come, which OpenSSL may keep, and how many of them the budget counts:
        # those of ordinary clients are too few.
        self._received = self._held = 0

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client."""
        if self._is_over or not self._has_room_for(len(data)):
            return
        if self._hello is None:
            if self._cleartext or data[0] != _HANDSHAKE:
                self._take_cleartext(self._cleartext + data)
                return
            self._hello = ClientHello()
        if self._session is None:
            if not self._hello.feed(data):
                return
            offered = self._hello.application_protocols
            if offered and _SPOKEN.isdisjoint(offered):
                self._fail(_NOT_SPOKEN, _NO_APPLICATION_PROTOCOL)
                return
            self._session = Session(self._terms.context(self._hello.server_name))
            data = self._hello.take()
        self._session.feed(data)
        try:
            complete = self._session.handshake()
        except ssl.SSLError as error:
            self._fail(reason_of(error), self._session.take_output())
            return
        if complete and not self._speaks_http(self._session):
            return
        if output := self._session.take_output():
            self._transport.write(output)
        if complete:
            self._wire.tls = TlsVariables(self._session.object, self._hello.server_name)
            budget = self._shared.resources.budget
            self._arrive(TlsTransport(self._session, self._wire, self._terms.loop, budget), b"")

    def _has_room_for(self, size: int) -> bool:
        """Count bytes that have come. Return False where memory is short, and this client is cut.

        Messages of a handshake may be very long.
        """
        self._received += size
        budget = self._shared.resources.budget
        self._held = budget.update(self._held, self._received)
        if self._held and self._shared.shedding.free_memory():
            self._transport.abort()
        return not self._transport.is_closing()

    def _leave(self) -> None:
        super()._leave()
        self._held = self._shared.resources.budget.update(self._held, 0)

    @property
    def holds_memory(self) -> bool:
        """See ``ConnectionHandle``."""
        return self._held > 0

    def rate(self) -> float | None:
        """See ``ConnectionHandle``."""
        age = self._shared.resources.clock() - self._began_at
        return self._received / age if self._held and age > 0 else None

    def _speaks_http(self, session: Session) -> bool:
        """Return whether HTTP/1.1 is spoken, as far as that was agreed; else end the connection."""
        chosen = session.object.selected_alpn_protocol()
        if chosen is None or chosen in APPLICATION_PROTOCOLS:
            return True
        # The context of the host offers it.
        session.close_notify()
        self._fail(
            f"the context of the server has chosen {chosen}, which the server does not speak; see "
            "set_alpn_protocols()",
            session.take_output(),
        )
        return False

    def eof_received(self) -> bool | None:
        """Take the client's end: there is nothing to say to it."""
        if not self._is_over:
            self._terms.failures.note_silence(self._wire.client[0])
        return super().eof_received()

    def _time_out(self) -> None:
        if not self._is_over:
            self._terms.failures.note_silence(self._wire.client[0])
        super()._time_out()

    def _take_cleartext(self, data: bytes) -> None:
        """Take what is no TLS. Who speaks HTTP is told what to speak."""
        self._cleartext = data
        if data.startswith(b"PROXY "):
            self._terms.failures.note(self._wire.client[0], _PROXY_HEADER)
            self._transport.abort()
        elif _METHOD.match(data) is not None:
            line = _REQUEST_LINE.match(data)
            assert line is not None  # It may be empty.
            self._shared.observers.note_refusal(
                self._wire.client[0], line[0].decode("latin-1"), _REFUSAL
            )
            self._refuse(_ANSWER)
        elif _METHOD_SO_FAR.match(data) is None:
            # What begins with an empty line is a PROXY header of version 2.
            reason = _PROXY_HEADER if data[:1] == b"\r" else _GARBAGE
            self._terms.failures.note(self._wire.client[0], reason)
            self._transport.abort()

    def _fail(self, reason: str, answer: bytes) -> None:
        """End the handshake; the answer is an alert."""
        self._terms.failures.note(self._wire.client[0], reason)
        self._refuse(answer)

    def _refuse(self, answer: bytes) -> None:
        """Send an answer, and close once the client has.

        A socket that is closed while bytes of the client are unread makes the kernel send a reset,
        which can destroy the answer on its way. With TLS 1.3, a client may have sent its request
        before it knows that its certificate is refused.
        """
        self._is_over = True
        self._hello = self._session = None
        self._held = self._shared.resources.budget.update(self._held, 0)
        self._cleartext = b""
        if answer:
            self._transport.write(answer)
        half_close(self._transport)
        self._arm(LINGER_TIMEOUT)
