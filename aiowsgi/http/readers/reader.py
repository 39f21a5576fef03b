"""What the parser needs of a library that reads HTTP.

A reader only gets bytes that have passed the strict checks of ``lines``, so that all readers accept
and refuse the same. Each reader is in a module of its own. Only that module imports its library,
and it translates the library's errors.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ..request import Field


class ChunkDecoder(Protocol):
    """Decodes one chunked body (RFC 9112 §7.1)."""

    @property
    def finished(self) -> bool:
        """Whether the end of the body was decoded."""

    def decode(self, piece: bytes) -> bytes:
        """Return the data in a piece of the body, as ``ChunkScanner`` cuts it; it may be empty.

        The piece holds no chunk extensions: libraries disagree about them, and we ignore them.
        """


@dataclass(frozen=True, slots=True)
class Reader:
    """A library that reads HTTP. It raises a Refusal for what it does not understand."""

    name: str
    # Returns the fields of a section. The argument are the bytes from the version number to the end
    # of the last line.
    fields: Callable[[bytes], list[Field]]
    # Returns a decoder for a new body.
    chunk_decoder: Callable[[], ChunkDecoder]


def with_neutral_names(section: bytes) -> bytes:
    """Return a request head with the fields of ``section``, whose names mean nothing to a library.

    Libraries act on some names: they frame the body by Content-Length and Transfer-Encoding, refuse
    a request without Host, and stop at Upgrade. All that is decided by our own, stricter rules. So
    each name gets one more letter in front, which the reader removes. The request line is always
    the same, because ours has been parsed already.
    """
    return b"GET / HTTP/1.0" + section[3:].replace(b"\r\n", b"\r\nX") + b"\r\n\r\n"
