"""Reading with httptools (llhttp), the faster library. Only this module imports it."""

import httptools

from ...errors import Refusal
from ..request import Field
from .reader import Reader, with_neutral_names


class _Section:
    """What httptools finds in a header section."""

    __slots__ = ("complete", "fields")

    def __init__(self) -> None:
        self.complete = False
        self.fields: list[Field] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name[1:].lower(), value.rstrip(b" \t")))

    def on_message_complete(self) -> None:
        self.complete = True


def _fields(section: bytes) -> list[Field]:
    """See ``Reader``."""
    found = _Section()
    _feed(httptools.HttpRequestParser(found), with_neutral_names(section))
    assert found.complete  # One complete head was given.
    return found.fields


class _Body:
    """What httptools finds in a piece of a body."""

    # It has no reference to the parser, which refers to it: only the garbage collector could free
    # the two.
    __slots__ = ("complete", "data")

    def __init__(self) -> None:
        self.complete = False
        self.data = b""

    def on_body(self, data: bytes) -> None:
        self.data += data

    def on_message_complete(self) -> None:
        self.complete = True


class _ChunkDecoder:
    """See ``reader.ChunkDecoder``."""

    __slots__ = ("_body", "_parser")

    def __init__(self) -> None:
        self._body = _Body()
        self._parser = httptools.HttpRequestParser(self._body)
        _feed(self._parser, b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")

    @property
    def finished(self) -> bool:
        return self._body.complete

    def decode(self, piece: bytes) -> bytes:
        body = self._body
        body.data = b""
        _feed(self._parser, piece)
        return body.data


def _feed(parser: httptools.HttpRequestParser, data: bytes) -> None:
    try:
        parser.feed_data(data)
    except httptools.HttpParserError as error:
        raise Refusal(400, str(error)) from error


HTTPTOOLS = Reader("httptools", _fields, _ChunkDecoder)
