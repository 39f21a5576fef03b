"""What the parser needs of a library that reads HTTP.

A reader is handed nothing that has not passed the strict checks of ``lines`` and ``framing``, so
that all readers accept and refuse the same. Each stands in a module of its own, which alone imports
its library and translates its errors.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from .request import Field


class ChunkDecoder(Protocol):
    """Decodes one chunked body (RFC 9112 §7.1)."""

    # Whether the end of the body has come.
    finished: bool

    def decode(self, piece: bytes) -> bytes:
        """Return the data in a piece of the body, as ``ChunkScanner`` cuts it; may be empty."""


@dataclass(frozen=True, slots=True)
class Reader:
    """A library at work. What it does not understand raises a Refusal."""

    name: str
    # Returns the fields of a section: the bytes from the version number on, as ``FieldSections``
    # cuts them.
    fields: Callable[[bytes], list[Field]]
    # Returns a decoder for a body that begins.
    chunk_decoder: Callable[[], ChunkDecoder]
