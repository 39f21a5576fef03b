"""TLS after the handshake: to asyncio a protocol, and to what speaks HTTP a transport."""

import asyncio
import logging
import ssl
from collections import deque
from typing import Any, cast

from ...bridge.budget import Budget
from ..sockets import half_close
from ..transport import SocketWire
from .session import Session

_log = logging.getLogger("aiowsgi.error")

# Bytes that are encrypted at a time, while the kernel takes all of them.
_ENCRYPTED_BYTES = 1 << 16
# Bytes that are handed on at a time, or one record more.
_PORTION_BYTES = 1 << 16
# Records that are read before other connections have their turn. They may hold one byte each.
_READS_PER_PASS = 64
# As so many of these counts what OpenSSL has read without finding data.
_READS_WITHOUT_DATA = 15
# Nothing is read while the kernel has not taken so many bytes. That is more than is encrypted at a
# time: they answer what the client sends, such as updates of its keys.
_MOST_UNSENT = 4 * _ENCRYPTED_BYTES


class TlsTransport(asyncio.Transport, asyncio.Protocol):
    """Encrypts what a wire writes, and decrypts what it reads, over a plain transport.

    Unlike those of the event loops, it keeps nothing while reading is paused but what one read of
    the socket has brought, encrypts nothing before the kernel takes it, and says when it holds
    anything at all (see ``SocketWire``). Everything is called on the loop thread.

    Arguments: the session, whose handshake is complete; the wire; the loop; and what counts the
    bytes that are kept. What is written, the connection counts.
    """

    def __init__(
        self,
        session: Session,
        wire: SocketWire,
        loop: asyncio.AbstractEventLoop,
        budget: Budget,
    ) -> None:
        super().__init__()
        self._budget = budget
        # What it counts of what is not decrypted.
        self._counted = 0
        self._session = session
        # None once the connection is lost: each knows the other.
        self._wire: SocketWire | None = wire
        self._loop = loop
        # What is still to be encrypted, and its size.
        self._pending: deque[memoryview] = deque()
        self._pending_bytes = 0
        # Whether the wire was told that bytes are held.
        self._holds = False
        # Whether nothing more is written; whether the client was told; whether the connection ends
        # once all is sent.
        self._is_write_closed = self._has_notified = self._is_closing = False
        # Whether the wire wants data, and whether the plain transport reads.
        self._wants_data = self._reads = True
        # Whether reading goes on in the next pass of the loop; whether it does once the kernel has
        # taken what is unsent.
        self._is_yielding = self._is_clogged = False
        # Whether the socket has no more; whether the client will send no more; whether the wire was
        # told that.
        self._socket_ended = self._is_at_end = self._has_ended = False

    # Called by asyncio, to which this is the protocol of the plain transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection over, with what has come behind the handshake."""
        self._plain = cast(asyncio.Transport, transport)
        self._plain.set_write_buffer_limits(high=0)
        assert self._wire is not None  # As the connection is not lost.
        self._wire.connection_made(self)
        self._send_output()
        self._read()

    def data_received(self, data: bytes) -> None:
        """Take ciphertext from the client."""
        if self._is_closing or self._is_at_end:
            return
        self._session.feed(data)
        if not self._is_yielding:
            self._read()

    def eof_received(self) -> bool:
        """Take the end of the socket, which need not be that of what the client has said.

        Without close_notify before it, it is as its end without TLS (RFC 9112 §9.8): whatever the
        client has sent says itself where it is complete, so that nothing cut off passes for whole.
        """
        self._socket_ended = self._is_at_end = True
        if not self._is_yielding:
            self._read()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Take the end of the connection, which some loops report twice."""
        self._drop_all()
        if self._wire is not None:
            self._wire.connection_lost(exc)
            self._wire = None

    def pause_writing(self) -> None:
        """Do nothing: it shows in the size of the buffer."""

    def resume_writing(self) -> None:
        """Go on: the kernel has everything."""
        self._encrypt()
        if self._is_clogged:
            self._is_clogged = False
            self._read_soon()

    # Reading.

    def _read(self) -> None:
        """Decrypt what has arrived and hand it on, as far as it is wanted."""
        self._is_yielding = False
        left = _READS_PER_PASS
        while self._wants_data and not self._is_closing and not self._has_ended:
            if self._plain.get_write_buffer_size() > _MOST_UNSENT:
                self._is_clogged = True
                break
            if left <= 0:
                self._read_soon()
                break
            portion, reads, failure = self._read_portion(left)
            left -= reads
            self._send_output()
            if portion and self._wire is not None:
                self._wire.data_received(portion)
            if failure is not None:
                self._fail(failure)
            elif not self._session.has_input:
                # A wire that has paused meanwhile is told of the client's end later.
                if self._is_at_end and self._wants_data and not self._is_closing:
                    self._end()
                break
        self._update_reading()

    def _read_portion(self, most: int) -> tuple[bytes, int, ssl.SSLError | None]:
        """Return what was decrypted; how often that was tried; and what has gone wrong behind it.

        What was decrypted before something went wrong is the client's own.
        """
        pieces: list[bytes] = []
        size = reads = 0
        failure = None
        try:
            while reads < most and size < _PORTION_BYTES and self._session.has_input:
                reads += 1
                data = self._session.read()
                if data:
                    pieces.append(data)
                    size += len(data)
                elif data is None:
                    # Whatever OpenSSL was given, it held no data: many updates of keys, perhaps.
                    reads += _READS_WITHOUT_DATA
                else:
                    self._is_at_end = True
        except ssl.SSLError as error:
            # Its traceback has this frame, which has it: the connection, and all that OpenSSL holds
            # for it, would be left to the garbage collector.
            failure = error.with_traceback(None)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces), reads, failure

    def _read_soon(self) -> None:
        """Go on in the next pass of the loop."""
        if not self._is_yielding:
            self._is_yielding = True
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        try:
            self._read()
        except BaseException:
            # As the loop does where a protocol raises one.
            self.abort()
            raise

    def _end(self) -> None:
        self._has_ended = True
        if self._wire is not None:
            self._wire.eof_received()

    def _update_reading(self) -> None:
        """Have the plain transport read exactly while there is use for what it reads."""
        self._counted = self._budget.update(self._counted, self._session.waiting)
        wanted = self._wants_data and not (
            self._is_yielding or self._is_clogged or self._is_closing
        )
        if wanted is self._reads or self._socket_ended or self._plain.is_closing():
            return
        self._reads = wanted
        if wanted:
            self._plain.resume_reading()
        else:
            self._plain.pause_reading()

    def _fail(self, error: ssl.SSLError) -> None:
        """End a connection on which TLS is broken. The alert that says so is sent."""
        _log.debug("TLS of a connection is broken: %s", error)
        self._drop_all()
        if self._plain.get_write_buffer_size():
            self._plain.abort()  # Else it could wait for the client for ever.
        else:
            self._plain.close()

    # Writing.

    def _encrypt(self) -> None:
        """Encrypt and send what is pending, as far as the kernel takes it."""
        plain = self._plain
        # A transport that has failed in between, because the client is gone, holds nothing either.
        while self._pending and not plain.get_write_buffer_size() and not plain.is_closing():
            piece = self._pending[0]
            if len(piece) > _ENCRYPTED_BYTES:
                self._pending[0] = piece[_ENCRYPTED_BYTES:]
                piece = piece[:_ENCRYPTED_BYTES]
            else:
                self._pending.popleft()
            self._pending_bytes -= len(piece)
            try:
                ciphertext = self._session.encrypt(piece)
            except ssl.SSLError as error:
                self._fail(error)
                return
            plain.write(ciphertext)
        if not self._pending and self._is_write_closed:
            self._finish()
        self._tell()

    def _send_output(self) -> None:
        """Send what TLS itself has to say, unless this side has ended."""
        output = self._session.take_output()
        if output and not self._has_notified and not self._plain.is_closing():
            self._plain.write(output)
            self._tell()

    def _tell(self) -> None:
        """Tell the wire whether anything is held, if that has changed."""
        holds = self.get_write_buffer_size() > 0
        if holds is self._holds or self._wire is None:
            return
        self._holds = holds
        if holds:
            self._wire.pause_writing()
        else:
            self._wire.resume_writing()

    def _finish(self) -> None:
        """End the server's side: everything was sent."""
        plain = self._plain
        if plain.is_closing():
            return
        if not self._has_notified:
            self._has_notified = True
            self._session.close_notify()
            plain.write(self._session.take_output())
            if not self._is_closing:
                # Not all clients look at close_notify.
                half_close(plain)
        if self._is_closing:
            plain.close()

    def _drop_all(self) -> None:
        """Read and write nothing any more."""
        self._is_closing = self._is_write_closed = True
        self._pending.clear()
        self._pending_bytes = 0
        self._session.end_input()
        self._counted = self._budget.update(self._counted, 0)

    # Called by the wire, to which this is a transport.

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return the context and the object of TLS, and what the plain transport knows."""
        if name == "ssl_object":
            return self._session.object
        if name == "sslcontext":
            return self._session.object.context
        return self._plain.get_extra_info(name, default)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send or keep bytes."""
        if not data or self._is_write_closed:
            return
        self._pending.append(memoryview(data))
        self._pending_bytes += len(data)
        self._encrypt()

    def get_write_buffer_size(self) -> int:
        """Return how many bytes are held: not encrypted, or encrypted and not sent."""
        return self._pending_bytes + self._plain.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Do nothing: it always says at once when it holds anything."""

    def can_write_eof(self) -> bool:
        """Return True: TLS has an end of each side, whatever the transport."""
        return True

    def write_eof(self) -> None:
        """End the server's side once all is sent."""
        if not self._is_write_closed:
            self._is_write_closed = True
            self._encrypt()

    def is_closing(self) -> bool:
        """Return whether the end of the connection has begun."""
        return self._is_closing or self._plain.is_closing()

    def is_reading(self) -> bool:
        """Return whether data is handed on."""
        return self._wants_data and not self.is_closing()

    def pause_reading(self) -> None:
        """Hand nothing on, and read nothing."""
        self._wants_data = False
        self._update_reading()

    def resume_reading(self) -> None:
        """Go on reading, with what is left."""
        self._wants_data = True
        if self._session.has_input or (self._is_at_end and not self._has_ended):
            self._read_soon()
        self._update_reading()

    def close(self) -> None:
        """End the connection once all is sent, and say so to the client."""
        if not self._is_closing:
            self._is_closing = self._is_write_closed = True
            self._session.end_input()
            self._update_reading()
            self._encrypt()

    def abort(self) -> None:
        """End the connection now. The client sees that what it has got is not all."""
        self._drop_all()
        self._plain.abort()
