"""The TLS of one connection without I/O: bytes of the network in, bytes of the network out."""

import contextlib
import ssl

# What a record holds at most (RFC 8446 §5.1). OpenSSL returns no more than one.
_RECORD_BYTES = 1 << 14
# More than that of ciphertext is a whole record, whatever the cipher (RFC 5246 §6.2.3).
_LONGEST_RECORD = _RECORD_BYTES + 2048 + 5
# Ciphertext that OpenSSL is given at a time. Its buffers grow to what they are given, and never
# shrink.
_FED_BYTES = 1 << 14


class Session:
    """The server's end of a TLS connection, in memory. Used on the loop thread only.

    What is to be sent is in ``take_output`` after each call of another method, also after one that
    has raised an exception: an alert may be there.
    """

    __slots__ = ("_incoming", "_is_over", "_outgoing", "_position", "_waiting", "object")

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.object = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        # Ciphertext that OpenSSL has not been given, from the position on.
        self._waiting: bytes = b""
        self._position = 0
        # Whether the client has sent close_notify, or nothing more is read: what follows is ignored
        # (RFC 8446 §6.1).
        self._is_over = False

    def feed(self, data: bytes) -> None:
        """Take bytes from the network."""
        if self._waiting:
            data = self._waiting[self._position :] + data
        self._waiting = data
        self._position = 0

    @property
    def has_input(self) -> bool:
        """Whether there are bytes from the network that were not looked at."""
        # OpenSSL reads no further than to the end of a record, so that it keeps none itself.
        return not self._is_over and (
            bool(self._waiting) or self._incoming.pending > 0 or self.object.pending() > 0
        )

    @property
    def waiting(self) -> int:
        """How many bytes from the network OpenSSL has not been given."""
        return len(self._waiting) - self._position

    def handshake(self) -> bool:
        """Go on with the handshake. Return whether it is complete. Raises ssl.SSLError."""
        while True:
            try:
                self.object.do_handshake()
            except ssl.SSLWantReadError:
                if not self._feed_some():
                    return False
            else:
                return True

    def read(self) -> bytes | None:
        """Return what the next record holds; None where it has not arrived, or holds nothing.

        Then ``has_input`` says whether it is worth asking again. b"" says that the client has sent
        close_notify. Raises ssl.SSLError.
        """
        if self._incoming.pending < _LONGEST_RECORD:
            self._feed_some()
        # To ask OpenSSL in vain would take longer, and would release the interpreter lock.
        if not self.has_input:
            return None
        try:
            data = self.object.read(_RECORD_BYTES)
        except ssl.SSLWantReadError:
            return None
        except ssl.SSLZeroReturnError:  # The client's end, where this end has sent its own, too.
            data = b""
        if not data:
            self.end_input()
        return data

    def _feed_some(self) -> bool:
        """Give OpenSSL some of what has arrived; return False if there is nothing."""
        if not self._waiting:
            return False
        end = self._position + _FED_BYTES
        self._incoming.write(self._waiting[self._position : end])
        if end >= len(self._waiting):
            self._waiting, self._position = b"", 0
        else:
            self._position = end
        return True

    def end_input(self) -> None:
        """Read nothing any more."""
        self._is_over = True
        self._waiting, self._position = b"", 0

    def encrypt(self, data: memoryview) -> bytes:
        """Return what is to be sent for some bytes. Raises ssl.SSLError."""
        pieces = []
        for start in range(0, len(data), _RECORD_BYTES):
            self.object.write(data[start : start + _RECORD_BYTES])
            pieces.append(self._outgoing.read())
        return b"".join(pieces)

    def close_notify(self) -> None:
        """Say that nothing more will be sent (RFC 8446 §6.1). The client's end stays open."""
        # It would wait for that one.
        with contextlib.suppress(ssl.SSLError):
            self.object.unwrap()

    def take_output(self) -> bytes:
        """Return what is to be sent, and forget it."""
        return self._outgoing.read()
