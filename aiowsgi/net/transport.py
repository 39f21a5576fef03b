"""Where asyncio ends: to it this is a protocol, and to a connection a wire."""

import asyncio
import socket
from collections.abc import Callable
from functools import partial

from ..bridge.pieces import unsent
from ..connection.connection import Connection
from ..connection.shared import Shared
from ..exchange.info import Address, ConnectionInfo, Ends, TlsInfo
from ..exchange.interfaces import Codec, FileTransfer
from ..wsgi.file_wrapper import FilePart
from .sendfile import FileSender
from .sockets import (
    half_close,
    host_and_port,
    in_flight,
    reset,
    send_last,
    send_now,
    server_address,
    shut_down,
)
from .transports.polled_transport import PolledTransport


class SocketWire(asyncio.Protocol):
    """Makes a connection of an accepted socket, and is its wire. See ``Wire``.

    From its beginning it counts as a connection. Where none is made of it after all, its end is
    reported here.

    Arguments: what connections share, the codec of the protocol that is spoken, the socket, the
    name of its peer, and its loop.
    """

    __slots__ = (
        "_accepted_at",
        "_codec",
        "_connection",
        "_is_made",
        "_is_shut_down",
        "_loop",
        "_shared",
        "_socket",
        "_takes_pieces",
        "_transport",
        "client",
        "is_plain",
        "peer",
        "send_now",
        "server",
        "tls",
    )

    def __init__(
        self,
        shared: Shared,
        codec: Codec,
        sock: socket.socket,
        peer: object,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        shared.accepted += 1
        self._shared = shared
        self._codec = codec
        self._socket = sock
        # What is known of the connection before it is made. A step before may know better.
        self.client = host_and_port(peer)
        self.server: Address | None = None
        # Who has connected, where a proxy has said for whom; else None.
        self.peer: Address | None = None
        self.tls: TlsInfo | None = None
        self._loop = loop
        # Whether bytes go out as they are, and several pieces need not be joined. See ``_look_at``.
        self.is_plain = self._takes_pieces = True
        self._accepted_at = shared.resources.clock()
        # None before it is made, and once it is lost.
        self._connection: Connection | None = None
        # Whether it was made, and reports its end itself; or never will be, and that is reported.
        self._is_made = False
        # Whether its end was told to the kernel.
        self._is_shut_down = False
        # Not a method of its own: pool threads call it once or more for each response.
        self.send_now = partial(send_now, sock)

    # Called by asyncio.

    # No others can read and write.
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection over."""
        self._transport = transport
        if self._is_made:  # Its end was reported before.
            self._transport.abort()
            return
        try:
            self._make_connection(transport)
        except BaseException:
            # A defect, or no memory. The transport reports its end.
            self._transport.abort()
            raise

    def _make_connection(self, transport: object) -> None:
        if not isinstance(transport, PolledTransport):
            self._look_at(self._transport)
        self._connection = Connection(
            self._shared,
            self,
            self._codec,
            # By position: it is made for each connection, and keywords cost twice as much.
            ConnectionInfo(
                self.server or server_address(self._socket, tls=self.tls is not None),
                self.client,
                "http" if self.tls is None else "https",
                self.tls,
                self._accepted_at,
                None if self.peer is None else self._own_ends(self.peer),
            ),
        )
        self._is_made = True

    def _look_at(self, transport: asyncio.Transport) -> None:
        """Find out what a transport can do that is not a ``PolledTransport``, and prepare it."""
        self.is_plain = transport.get_extra_info("sslcontext") is None
        # Those of uvloop give them to the kernel as they are. Those of asyncio, and our own for
        # TLS, join them, or do worse: in some releases of Python 3.12 and 3.13 they know neither
        # that the connection is lost (gh-136234) nor when to pause (CVE-2024-12254).
        self._takes_pieces = not isinstance(transport, asyncio.Transport)
        # It says when it holds anything at all, and when that is gone: only then is a response
        # known to be out, and what is held for slow clients can be counted.
        transport.set_write_buffer_limits(high=0)

    def _own_ends(self, peer: Address) -> Ends:
        """Return the ends of the connection itself, whatever a proxy has told."""
        server = server_address(self._socket, tls=not self.is_plain)
        return Ends(server, peer, "http" if self.is_plain else "https")

    # A transport that is aborted at once may still have these called.

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client."""
        if self._connection is not None:
            self._connection.receive(data)

    def eof_received(self) -> bool:
        """Take the client's end, and leave the server's side open."""
        if self._connection is not None:
            self._connection.receive_end()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Take the end of the connection, which some loops report twice.

        Or that it could not be set up.
        """
        if self._connection is not None:
            self._connection.on_lost()
            # Each knows the other, and would be left to the garbage collector. Not before: whoever
            # is interrupted reports again.
            self._connection = None
        elif not self._is_made:
            self._is_made = True
            self._shared.on_disconnect()

    def pause_writing(self) -> None:
        """Take note that the transport holds bytes."""
        if self._connection is not None:
            self._connection.pause_writing()

    def resume_writing(self) -> None:
        """Take note that it holds nothing any more."""
        if self._connection is not None:
            self._connection.resume_writing()

    # Called by the connection.

    @property
    def buffered(self) -> int:
        """See ``Wire``."""
        return self._transport.get_write_buffer_size()

    @property
    def unsent(self) -> int:
        """See ``Wire``."""
        return self._transport.get_write_buffer_size() + in_flight(self._transport)

    @property
    def can_half_close(self) -> bool:
        """See ``Wire``."""
        return self._transport.can_write_eof()

    @property
    def is_closing(self) -> bool:
        """See ``Wire``."""
        return self._transport.is_closing()

    def write(self, pieces: list[bytes]) -> None:
        """See ``Wire``."""
        if len(pieces) == 1:
            self._transport.write(pieces[0])
        elif self._takes_pieces:
            self._transport.writelines(pieces)
        else:
            self._transport.write(b"".join(pieces))

    def write_last(self, pieces: list[bytes]) -> None:
        """See ``Wire``."""
        if self.is_plain and not self._transport.get_write_buffer_size():
            pieces = unsent(pieces, send_last(self._socket, pieces))
        if pieces:
            self.write(pieces)

    def send_file(self, part: FilePart, on_end: Callable[[bool], None]) -> FileTransfer:
        """See ``Wire``."""
        return FileSender(self._transport, self._loop, part, on_end)

    def pause_reading(self) -> None:
        """See ``Wire``."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """See ``Wire``."""
        self._transport.resume_reading()

    def half_close(self) -> None:
        """See ``Wire``."""
        half_close(self._transport)

    def close(self) -> None:
        """See ``Wire``."""
        if self.is_plain and not self._transport.get_write_buffer_size():
            # Now, and not when the transport comes to it: what was written last waits for that.
            self.shut_down()
        self._transport.close()

    def abort(self) -> None:
        """See ``Wire``."""
        self._transport.abort()

    def reset(self) -> None:
        """See ``Wire``."""
        reset(self._transport)

    def shut_down(self) -> None:
        """See ``Wire``."""
        if not self._is_shut_down:
            self._is_shut_down = True
            shut_down(self._socket)

    def descriptors(self) -> list[int]:
        """See ``Wire``."""
        return [self._socket.fileno()]
