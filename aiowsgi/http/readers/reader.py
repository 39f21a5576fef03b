"""What the parser needs of a library that reads HTTP.

A reader is handed nothing that has not passed the strict checks of ``lines``, so that all readers
accept and refuse the same. Each stands in a module of its own, which alone imports
its library and translates its errors.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ..request import Field


class ChunkDecoder(Protocol):
    """Decodes one chunked body (RFC 9112 §7.1)."""

    @property
    def finished(self) -> bool:
        """Whether the end of the body has come."""

    def decode(self, piece: bytes) -> bytes:
        """Return the data in a piece of the body, as ``ChunkScanner`` cuts it; it may be empty.

        Chunk extensions are cut out: libraries disagree about them, and they mean nothing to us.
        """


@dataclass(frozen=True, slots=True)
class Reader:
    """A library at work. What it does not understand raises a Refusal."""

    name: str
    # Returns the fields of a section: the bytes from the version number on, as ``FieldSections``
    # cuts them.
    fields: Callable[[bytes], list[Field]]
    # Returns a decoder for a body that begins.
    chunk_decoder: Callable[[], ChunkDecoder]


def sealed(section: bytes) -> bytes:
    """Return a request head with the fields of ``section``, in which a library sees fields only.

    Libraries do things of their own with some: they frame by Content-Length and Transfer-Encoding,
    which are framed by stricter rules, miss a Host, stop at an Upgrade. So there is a letter in
    front of each name. The request line is read already too: this one stands for all.
    """
    return b"GET / HTTP/1.0" + section[3:].replace(b"\r\n", b"\r\nX") + b"\r\n\r\n"
