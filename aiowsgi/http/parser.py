"""The parser: bytes in, events out.

Strictness, limits and framing are decided by ``lines``, ``target`` and ``framing`` before the
library that reads HTTP sees a byte, because libraries are lenient, each in its own way. It gets the
bytes of one header section, or of one body, and never what follows them.
"""

from ..errors import Refusal
from .lines import ChunkScanner, HeadScanner, ordinary_request
from .reader import ChunkDecoder
from .request import BodyData, EndOfMessage, Event, FieldSection, RequestHead
from .sections import FieldSections
from .target import split_target

_END_OF_MESSAGE = EndOfMessage()
# One empty line before a request is no part of it (RFC 9112 §2.2).
_NOTHING = (b"", b"\r", b"\r\n")


class Parser:
    """Parses the requests of one connection, one after the other.

    Sans-I/O: ``feed`` takes bytes, ``next_event`` gives what they mean. Once ``next_event`` has
    raised a Refusal, nothing behind the offending bytes is ever parsed. The argument is what all
    parsers of the server share.
    """

    __slots__ = (
        "_buffer",
        "_chunks",
        "_decoder",
        "_eof",
        "_in_body",
        "_position",
        "_refusal",
        "_remaining",
        "_scanner",
        "_sections",
    )

    def __init__(self, sections: FieldSections) -> None:
        self._sections = sections
        self._buffer = b""
        self._position = 0
        self._eof = False
        self._refusal: Refusal | None = None
        self._scanner: HeadScanner | None = None
        self._in_body = False
        self._remaining = 0  # Bytes to come of a body with Content-Length.
        self._chunks: ChunkScanner | None = None
        self._decoder: ChunkDecoder | None = None

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
            position = self._position
            if position and (position == len(self._buffer) or event is _END_OF_MESSAGE):
                # What was used is not kept: an idle connection holds nothing.
                self._buffer = self._buffer[position:]
                self._position = 0
            if event is None and self._eof and (self._in_body or self.begun):
                raise Refusal(400, "the client ended the connection in the middle of a request")
        except Refusal as refusal:
            self._refusal = refusal
            self.drop()
            raise
        return event

    def _next_head(self) -> RequestHead | None:
        # What came before is trimmed: a head begins where the buffer does.
        if not self._buffer:
            return None
        if self._scanner is None:
            if (head := self._ordinary_head()) is not None:
                return head
            self._scanner = HeadScanner(self._sections.limits)
        if (found := self._scanner.scan(self._buffer)) is None:
            return None
        self._scanner = None
        start, end = found
        self._position = end
        return self._sound_head(self._buffer[start : end - 4])

    def _ordinary_head(self) -> RequestHead | None:
        """Take a head about which nothing is unusual, in the cheapest way; or nothing."""
        block, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end or len(block) > self._sections.unmeasured:
            return None
        line, _, raw = block.partition(b" HTTP/")
        if (match := ordinary_request(line.decode("latin-1"))) is None:
            return None
        section = self._sections.known.get(raw) or self._sections.read_ordinary(raw)
        if section is None:
            return None
        self._buffer = rest
        self._in_body = True
        if section.chunked or section.content_length:
            self._begin_body(section)
        method, target, path, query = match.groups("")
        return RequestHead(method, target, path, query, section.host, section)

    def _sound_head(self, block: bytes) -> RequestHead:
        """Return the head that a scanner has found nothing wrong with."""
        method_bytes, target_bytes, rest = block.split(b" ", 2)
        method, target = method_bytes.decode("ascii"), target_bytes.decode("ascii")
        path, query, authority = split_target(method, target)
        raw = rest.removeprefix(b"HTTP/")
        section = self._sections.known.get(raw) or self._sections.read(raw)
        self._in_body = True
        self._begin_body(section)
        host = section.host if authority is None else authority
        return RequestHead(method, target, path, query, host, section)

    def _begin_body(self, section: FieldSection) -> None:
        if section.chunked:
            self._chunks = ChunkScanner(self._sections.limits)
            self._decoder = self._sections.reader.chunk_decoder()
        else:
            self._remaining = section.content_length or 0

    def _next_data(self) -> BodyData | None:
        # A body with a length needs no parser: its bytes mean nothing to HTTP.
        data = self._buffer[self._position : self._position + self._remaining]
        if not data:
            return None
        self._position += len(data)
        self._remaining -= len(data)
        return BodyData(data)

    def _next_chunk(self, chunks: ChunkScanner) -> Event | None:
        decoder = self._decoder
        assert decoder is not None  # Made together with the scanner.
        while True:
            end = chunks.scan(self._buffer, self._position)
            if end == self._position:
                return None
            piece = self._buffer[self._position : end]
            self._position = end
            if chunks.plain_line:
                piece = chunks.plain_line + piece.partition(b"\r\n")[2]
            data = decoder.decode(piece)
            if data:
                return BodyData(data)
            if chunks.finished:
                assert decoder.finished  # Two readers of one body agree.
                self._chunks = self._decoder = None
                self._in_body = False
                return _END_OF_MESSAGE
