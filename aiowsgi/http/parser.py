"""The parser: bytes in, events out. The only module that imports h11.

Strictness, limits and framing are decided by ``lines``, ``target`` and ``framing`` before h11 sees
a byte, because h11 alone is lenient. Each request gets an h11 connection of its own, fed with
exactly the bytes of that request: what follows can never be taken for a part of it.
"""

import re

import h11

from ..errors import Refusal
from .framing import request_framing
from .lines import ChunkScanner, HeadScanner, ordinary_head
from .request import BodyData, EndOfMessage, Event, Limits, RequestHead
from .target import split_target

# The fields that decide about the message, found in a head whose lines are known to be sound.
_DECIDING_FIELD = re.compile(
    rb"\r\n(host|content-length|transfer-encoding|connection|expect):[ \t]*([^\r]*)", re.IGNORECASE
)
_END_OF_MESSAGE = EndOfMessage()
# One empty line before a request is no part of it (RFC 9112 §2.2).
_NOTHING = (b"", b"\r", b"\r\n")


class Parser:
    """Parses the requests of one connection, one after the other.

    Sans-I/O: ``feed`` takes bytes, ``next_event`` gives what they mean. Once ``next_event`` has
    raised a Refusal, nothing behind the offending bytes is ever parsed.
    """

    __slots__ = (
        "_buffer",
        "_chunks",
        "_eof",
        "_h11",
        "_in_body",
        "_limits",
        "_position",
        "_refusal",
        "_remaining",
        "_scanner",
    )

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._buffer = b""
        self._position = 0
        self._eof = False
        self._refusal: Refusal | None = None
        self._scanner: HeadScanner | None = None
        self._in_body = False
        self._remaining = 0  # Bytes to come of a body with Content-Length.
        self._chunks: ChunkScanner | None = None
        self._h11: h11.Connection | None = None

    @property
    def buffered(self) -> int:
        """Bytes that were fed and not parsed."""
        return len(self._buffer) - self._position

    @property
    def begun(self) -> bool:
        """Whether bytes of another request have arrived, more than the empty line before it."""
        return self.buffered > 2 or self._buffer[self._position :] not in _NOTHING

    def feed(self, data: bytes) -> None:
        """Take bytes from the client."""
        if self._refusal is not None:
            return
        if self._position < len(self._buffer):
            self._buffer = self._buffer[self._position :] + data
        else:
            self._buffer = data
        self._position = 0

    def drop(self) -> None:
        """Forget the bytes that were not used: nobody asks for another event."""
        self._buffer = b""
        self._position = 0

    def feed_eof(self) -> None:
        """Take the end of the client's bytes: the connection is half-closed."""
        self._eof = True

    def next_event(self) -> Event | None:
        """Return the next event, or None if it needs more bytes.

        Raises Refusal where the client broke HTTP or a limit. Between two messages the end of the
        stream is nothing special; inside a message it is a Refusal with 400.
        """
        if self._refusal is not None:
            raise self._refusal
        try:
            if not self._in_body:
                event: Event | None = self._next_head()
            elif self._chunks is not None:
                event = self._next_chunk(self._chunks)
            elif self._remaining:
                event = self._next_data()
            else:
                self._in_body = False
                event = _END_OF_MESSAGE
            if self._position == len(self._buffer) or event is _END_OF_MESSAGE:
                # What was used is not kept: an idle connection holds nothing.
                self._buffer = self._buffer[self._position :]
                self._position = 0
            if event is None and self._eof and (self._in_body or self.begun):
                raise Refusal(400, "the client ended the connection in the middle of a request")
        except Refusal as refusal:
            self._refusal = refusal
            self.drop()
            raise
        return event

    def _next_head(self) -> RequestHead | None:
        if self._position:
            self._buffer = self._buffer[self._position :]
            self._position = 0
        if not self._buffer:
            return None
        start = 0
        if self._scanner is not None or not (end := ordinary_head(self._buffer, self._limits)):
            if self._scanner is None:
                self._scanner = HeadScanner(self._limits)
            if (found := self._scanner.scan(self._buffer)) is None:
                return None
            start, end = found
            self._scanner = None
        self._position = end
        self._in_body = True
        return self._parse_head(self._buffer[start:end])

    def _parse_head(self, block: bytes) -> RequestHead:
        method_bytes, target_bytes, version_bytes = block[: block.index(b"\r\n")].split(b" ")
        method = method_bytes.decode("ascii")
        target = target_bytes.decode("ascii")
        version = version_bytes.decode("ascii")
        path, query, authority = split_target(method, target)
        framing = request_framing(version, _DECIDING_FIELD.findall(block), self._limits)

        # h11 holds an incomplete head against this size; the heads that it gets are complete, but
        # trailers are not, and their limits are ours.
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 24)
        connection.receive_data(block)
        request = _translated(connection)
        assert isinstance(request, h11.Request)  # The block is one whole head.

        self._remaining = framing.content_length or 0
        if framing.chunked:
            self._chunks = ChunkScanner(self._limits)
            self._h11 = connection
        return RequestHead(
            method,
            target,
            version,
            [(name.lower(), value) for name, value in request.headers.raw_items()],
            path,
            query,
            framing.host if authority is None else authority,
            framing.content_length,
            framing.chunked,
            framing.keep_alive,
            framing.expect_continue,
        )

    def _next_data(self) -> BodyData | None:
        # A body with a length needs no parser: its bytes mean nothing to HTTP.
        data = self._buffer[self._position : self._position + self._remaining]
        if not data:
            return None
        self._position += len(data)
        self._remaining -= len(data)
        return BodyData(data)

    def _next_chunk(self, chunks: ChunkScanner) -> Event | None:
        connection = self._h11
        assert connection is not None  # Made together with the scanner.
        while True:
            end = chunks.scan(self._buffer, self._position)
            if end == self._position:
                return None
            connection.receive_data(self._buffer[self._position : end])
            self._position = end
            event = _translated(connection)
            if isinstance(event, h11.Data):
                return BodyData(bytes(event.data))
            if chunks.finished:
                assert isinstance(event, h11.EndOfMessage)  # Two readers of one body agree.
                self._chunks = self._h11 = None
                self._in_body = False
                return _END_OF_MESSAGE


def _translated(connection: h11.Connection) -> object:
    """Return h11's next event; a protocol error of h11's becomes ours."""
    try:
        return connection.next_event()
    except h11.RemoteProtocolError as error:
        raise Refusal(error.error_status_hint, str(error)) from error
