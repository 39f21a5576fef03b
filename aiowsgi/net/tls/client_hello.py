"""What a client says first in TLS (ClientHello): which server it wants. Without I/O.

It is read before OpenSSL gets it, so that a connection begins with the context of that server.
``ssl.SSLContext.sni_callback`` could change the context later. But with one, Python writes a
traceback to standard error whenever a client asks for a name that is not ASCII.

Nothing is refused here. What is wrong gets to OpenSSL, which says so.
"""

_HANDSHAKE, _CLIENT_HELLO, _SERVER_NAME, _HOST_NAME = 0x16, 1, 0, 0
_LONGEST_RECORD = 1 << 14
# Those of clients with keys against quantum computers take 2 KiB, and tickets of sessions in which
# they had a certificate some more.
_LONGEST_HELLO = 1 << 15
# With all the records that it may come in.
_MOST_BYTES = 1 << 16


class ClientHello:
    """The bytes of a client until its first message is complete, or is none."""

    __slots__ = ("_message", "_position", "received", "server_name")

    def __init__(self) -> None:
        self.received = bytearray()
        """all bytes so far"""
        self.server_name: str | None = None
        """the host name that the client asks for, if it does: ASCII, but not always a name"""
        # Where the next record begins, and what those before have of the message.
        self._position = 0
        self._message = bytearray()

    def feed(self, data: bytes) -> bool:
        """Take bytes. Return whether nothing more needs to come: then ``server_name`` is known."""
        self.received += data
        while len(self.received) >= self._position + 5:
            # Type, version (always 3 and something), length (RFC 8446 §5.1).
            kind, major, _, *length = self.received[self._position : self._position + 5]
            size = int.from_bytes(length, "big")
            if kind != _HANDSHAKE or major != 3 or not 0 < size <= _LONGEST_RECORD:
                return True
            begin = self._position + 5
            if len(self.received) < begin + size:
                break
            self._position = begin + size
            self._message += self.received[begin : self._position]
            if self._is_message_over():
                return True
        return len(self.received) > _MOST_BYTES

    def take(self) -> bytes:
        """Return all bytes, for OpenSSL, and forget them."""
        data = bytes(self.received)
        self.received.clear()
        self._message.clear()
        return data

    def _is_message_over(self) -> bool:
        """Return whether the message is complete, or is another one. RFC 8446 §4."""
        size = int.from_bytes(self._message[1:4], "big")
        if self._message[0] != _CLIENT_HELLO or size > _LONGEST_HELLO:
            return True
        if len(self._message) < 4 + size:
            return False
        self.server_name = _server_name(bytes(self._message[4 : 4 + size]))
        return True


def _server_name(hello: bytes) -> str | None:
    """Return the host name in a ClientHello (RFC 8446 §4.1.2, RFC 6066 §3)."""
    try:
        # Behind version and random number: session, cipher suites, compression methods.
        rest = hello[34:]
        for width in (1, 2, 1):
            rest = _vector(rest, width)[1]
        extensions = _vector(rest, 2)[0]
        while extensions:
            kind = int.from_bytes(extensions[:2], "big")
            content, extensions = _vector(extensions[2:], 2)
            if kind == _SERVER_NAME:
                names = _vector(content, 2)[0]
                name = _vector(names[1:], 2)[0]
                return name.decode("ascii") if names[0] == _HOST_NAME and name else None
    except (IndexError, UnicodeDecodeError):
        pass
    return None


def _vector(data: bytes, width: int) -> tuple[bytes, bytes]:
    """Return what a length of so many bytes announces, and what is behind it. Or IndexError."""
    end = width + int.from_bytes(data[:width], "big")
    if len(data) < end:
        raise IndexError
    return data[width:end], data[end:]
