"""What a client says first in TLS (ClientHello): which server it wants, and to speak what.

Without I/O.

It is read before OpenSSL gets it, so that a connection begins with the context of that server.
``ssl.SSLContext.sni_callback`` could change the context later. But with one, Python writes a
traceback to standard error whenever a client asks for a name that is not ASCII.

Nothing is refused here. What is wrong gets to OpenSSL, which says so.
"""

import contextlib
from collections.abc import Iterator
from itertools import islice

_HANDSHAKE, _CLIENT_HELLO, _HOST_NAME = 0x16, 1, 0
# What is spoken inside of TLS, the best first (RFC 7301 §6).
APPLICATION_PROTOCOLS = ("http/1.1", "http/1.0")
# Extensions.
_SERVER_NAME, _APPLICATION_PROTOCOLS = 0, 16
_LONGEST_RECORD = 1 << 14
# Those of clients with keys against quantum computers take 2 KiB, and tickets of sessions in which
# they had a certificate some more.
_LONGEST_HELLO = 1 << 15
# That it may come in. They may hold a byte each.
_MOST_RECORDS = 64
# Clients have some twenty extensions, and offer two or three protocols. Each that is looked at
# takes the time of the loop, and a message has room for thousands.
_MOST_EXTENSIONS = 128
_MOST_PROTOCOLS = 64


class ClientHello:
    """The bytes of a client until its first message is complete, or is none."""

    __slots__ = (
        "_message",
        "_position",
        "_records",
        "application_protocols",
        "received",
        "server_name",
    )

    def __init__(self) -> None:
        self.received = bytearray()
        """all bytes so far"""
        self.server_name: str | None = None
        """the host name that the client asks for, if it does: ASCII, but not always a name"""
        self.application_protocols: tuple[bytes, ...] = ()
        """what it offers to speak inside of TLS (ALPN), at most 64; nothing where that is open"""
        # Where the next record begins, how many are before it, and what those have of the message.
        self._position = self._records = 0
        self._message = bytearray()

    def feed(self, data: bytes) -> bool:
        """Take bytes. Return whether nothing more needs to come: then all is known."""
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
            self._records += 1
            if self._is_message_over() or self._records == _MOST_RECORDS:
                return True
        return False

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
        # What cannot be read is not known.
        with contextlib.suppress(IndexError):
            seen = set()
            extensions = _extensions(bytes(self._message[4 : 4 + size]))
            for kind, content in islice(extensions, _MOST_EXTENSIONS):
                if kind in seen:  # OpenSSL refuses what has one twice (RFC 8446 §4.2).
                    break
                seen.add(kind)
                if kind == _SERVER_NAME:
                    self.server_name = _server_name(content)
                elif kind == _APPLICATION_PROTOCOLS:
                    offered = islice(_application_protocols(content), _MOST_PROTOCOLS)
                    self.application_protocols = tuple(offered)
        return True


def _extensions(hello: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield kinds and contents of the extensions of a ClientHello (RFC 8446 §4.1.2)."""
    # Behind version and random number: session, cipher suites, compression methods.
    rest = hello[34:]
    for width in (1, 2, 1):
        rest = _vector(rest, width)[1]
    rest = _vector(rest, 2)[0]
    while rest:
        kind = int.from_bytes(rest[:2], "big")
        content, rest = _vector(rest[2:], 2)
        yield kind, content


def _server_name(content: bytes) -> str | None:
    """Return the host name (RFC 6066 §3)."""
    names = _vector(content, 2)[0]
    name = _vector(names[1:], 2)[0]
    return name.decode() if names[0] == _HOST_NAME and name and name.isascii() else None


def _application_protocols(content: bytes) -> Iterator[bytes]:
    """Yield the protocols that are offered (RFC 7301 §3.1)."""
    rest = _vector(content, 2)[0]
    while rest:
        name, rest = _vector(rest, 1)
        yield name


def _vector(data: bytes, width: int) -> tuple[bytes, bytes]:
    """Return what a length of so many bytes announces, and what is behind it. Or IndexError."""
    end = width + int.from_bytes(data[:width], "big")
    if len(data) < end:
        raise IndexError
    return data[width:end], data[end:]
