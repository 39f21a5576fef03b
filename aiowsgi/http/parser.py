"""The parser: bytes in, events out.

``lines`` and ``target`` check everything before a library that reads HTTP sees a byte, because
libraries are lenient, each in its own way. The library gets some lines of one header section, or
the bytes of one body, and never what follows. Its result is compared with our own reading, and
``framing`` uses nothing else.
"""

import re

from ..errors import IncompleteRequest, Refusal
from .grammar import TOKEN
from .lines import Buffer, ChunkScanner, HeadScanner
from .readers.reader import ChunkDecoder
from .request import (
    END_OF_MESSAGE,
    MAX_SHOWN_LINE,
    BodyData,
    Event,
    FieldSection,
    RequestHead,
    RequestParser,
)
from .sections import FieldSections
from .target import split_target

# What may stand between two requests: one empty line is ignored (RFC 9112 §2.2).
_EMPTY_LINE_AT_MOST = (b"", b"\r", b"\r\n")
# A method, or the beginning of one. The longest that are registered have 17 characters (RFC 9110
# §16.1.1), and those of programs are hardly longer.
_METHOD_SO_FAR = re.compile(rb"(?=[^ ]{1,32}(?: |\Z))%b(?: |\Z)" % TOKEN.encode())
# The data of up to so many chunks is one event. Chunks of one byte are the most work that a client
# can cause with few bytes, and must not hold up the loop (CVE-2025-69229).
_CHUNKS_PER_EVENT = 64


class Parser(RequestParser):
    """Parses HTTP/1.1 and HTTP/1.0.

    Arguments: what all parsers of the server share, and whether the connection is that of TLS.
    """

    __slots__ = (
        "_buffer",
        "_chunks",
        "_decoder",
        "_eof",
        "_in_body",
        "_is_secured",
        "_last_size",
        "_line",
        "_position",
        "_refusal",
        "_remaining",
        "_scanner",
        "_sections",
    )

    def __init__(self, sections: FieldSections, is_secured: bool = False) -> None:
        self._sections = sections
        self._is_secured = is_secured
        self._buffer: Buffer = b""
        self._position = 0
        self._eof = False
        self._refusal: Refusal | None = None
        self._scanner: HeadScanner | None = None
        self._line = ""  # The request line, if ``drop`` has dropped its bytes.
        self._in_body = False
        # The size of the last head that may be a known one. Only of those that arrived alone, have
        # no body, and whose section is known. Before the first one, that of another connection:
        # many clients make one for each request.
        self._last_size = sections.last_size
        self._remaining = 0  # Bytes of a body with Content-Length that have yet to be parsed.
        self._chunks: ChunkScanner | None = None
        self._decoder: ChunkDecoder | None = None

    @property
    def buffered(self) -> int:
        """See ``RequestParser``."""
        return len(self._buffer) - self._position

    @property
    def has_begun(self) -> bool:
        """Whether more has arrived than the empty line before a request. See ``RequestParser``."""
        return self.buffered > 2 or self._buffer[self._position :] not in _EMPTY_LINE_AT_MOST

    @property
    def request_line(self) -> str:
        """See ``RequestParser``."""
        if self._line or self._in_body:
            return self._line
        begin = bytes(self._buffer[: MAX_SHOWN_LINE + 2]).removeprefix(b"\r\n")
        line = begin.replace(b"\r", b"\n").partition(b"\n")[0]
        # Whatever does not begin with a method may be anything: a packet of the uwsgi protocol, in
        # which passwords and cookies come before the first line break, or the rest of a body.
        return line.decode("latin-1") if _METHOD_SO_FAR.match(line) else ""

    @property
    def told_client(self) -> str:
        """See ``RequestParser``."""
        return "" if self._refusal is None else self._refusal.told_client

    def feed(self, data: bytes) -> None:
        """See ``RequestParser``."""
        if self._refusal is not None:
            return
        buffer = self._buffer
        if self._position == len(buffer):
            self._buffer = data
        else:
            # The buffer grows in place. To copy it for each byte that a slow client sends would
            # take far too long.
            if not isinstance(buffer, bytearray):
                self._buffer = buffer = bytearray(buffer)
            del buffer[: self._position]
            buffer.extend(data)
        self._position = 0

    def drop(self) -> None:
        """See ``RequestParser``."""
        if self._buffer:
            self._line = self.request_line
        self._buffer = b""
        self._position = 0

    def feed_eof(self) -> None:
        """See ``RequestParser``."""
        self._eof = True

    def next_event(self) -> Event | None:
        """See ``RequestParser``."""
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
                event = END_OF_MESSAGE
            position = self._position
            if position and (position == len(self._buffer) or not self._in_body):
                # Bytes that were parsed are not kept, so that an idle connection holds none.
                self._buffer = self._buffer[position:]
                self._position = 0
            if event is None and self._eof and (self._in_body or self.has_begun):
                raise IncompleteRequest(
                    400, "the client ended the connection in the middle of a request"
                )
        except Refusal as refusal:
            self._refusal = refusal
            self.drop()
            raise
        return event

    def _next_head(self) -> RequestHead | None:
        # ``next_event`` has removed what was parsed. So the head begins where the buffer begins.
        buffer = self._buffer
        if not buffer:
            return None
        if self._scanner is None:
            if isinstance(buffer, bytearray):
                self._buffer = buffer = bytes(buffer)
            # Who repeats a request sends as many bytes again. It takes long to look for others, for
            # nothing.
            if len(buffer) == self._last_size:
                known = self._sections.known_heads.get(buffer)
                if known is not None:
                    self._buffer = b""
                    return known
            if (head := self._ordinary_head(buffer)) is not None:
                return head
            self._scanner = HeadScanner(self._sections.limits)
        if (found := self._scanner.scan(self._buffer)) is None:
            return None
        self._scanner = None
        start, end = found
        self._position = end
        return self._checked_head(bytes(self._buffer[start : end - 4]))

    def _ordinary_head(self, buffer: bytes) -> RequestHead | None:
        """Return the head the fast way; None if it is incomplete or has to be checked in full."""
        block, end, rest = buffer.partition(b"\r\n\r\n")
        if not end or len(block) > self._sections.max_unmeasured:
            return None
        line, _, raw = block.partition(b" HTTP/")
        start = line.decode("latin-1")
        method, _, target = start.partition(" ")
        # A part of what ``lines`` and ``split_target`` accept: methods of letters, and paths. These
        # questions are answered sooner than a pattern is matched.
        if not (
            start.isascii()
            and start.isprintable()
            and method.isalpha()
            and method != "CONNECT"
            and target.startswith("/")
            and " " not in target
            and "#" not in target
        ):
            return None
        known = self._sections.known.get(raw)
        section = known or self._sections.read_ordinary(raw)
        if section is None:
            return None
        self._buffer = rest
        path, _, query = target.partition("?")
        head = RequestHead(method, target, path, query, section.host, section, section.variables)
        if section.chunked or section.content_length:
            self._begin_body(section)
        elif known is not None and not rest:
            size = len(buffer)
            if size == self._last_size:
                self._sections.offer_head(buffer, head)
            self._last_size = self._sections.last_size = size
        return head

    def _checked_head(self, block: bytes) -> RequestHead:
        """Return the head whose bytes a scanner has checked."""
        method_bytes, target_bytes, rest = block.split(b" ", 2)
        method, target = method_bytes.decode("ascii"), target_bytes.decode("ascii")
        path, query, authority = split_target(method, target, is_secured=self._is_secured)
        raw = rest.removeprefix(b"HTTP/")
        section = self._sections.known.get(raw) or self._sections.read(raw)
        assert section is not None  # All its lines were checked.
        self._begin_body(section)
        host, variables = section.host, section.variables
        if authority is not None:
            host = authority
            if variables is not None:
                variables = self._sections.variables_for(section, authority)
        return RequestHead(method, target, path, query, host, section, variables)

    def _begin_body(self, section: FieldSection) -> None:
        if section.chunked:
            self._chunks = ChunkScanner(self._sections.limits)
            self._decoder = self._sections.reader.chunk_decoder()
            self._in_body = True
        elif section.content_length:
            self._remaining = section.content_length
            self._in_body = True

    def _next_data(self) -> BodyData | None:
        # A body with Content-Length need not be parsed.
        data = self._buffer
        if self._position or len(data) > self._remaining or not isinstance(data, bytes):
            data = bytes(data[self._position : self._position + self._remaining])
        if not data:
            return None
        self._position += len(data)
        self._remaining -= len(data)
        return BodyData(data)

    def _next_chunk(self, chunks: ChunkScanner) -> Event | None:
        """Return the data of the next chunks as one event, the end of the body, or None."""
        found: list[bytes] = []
        try:
            while len(found) < _CHUNKS_PER_EVENT and not chunks.finished:
                start = self._position
                end = chunks.scan(self._buffer, start)
                if end == start:
                    break
                self._position = end
                if data := self._decode(bytes(self._buffer[start:end]), chunks.plain_line):
                    found.append(data)
        except Refusal as refusal:
            if not found:
                raise
            # The data before the violation is returned first, as it would be if it had arrived
            # alone.
            self._refusal = refusal
            self.drop()
        if chunks.finished:
            # The next event, at the latest, is the end of the message.
            self._chunks = self._decoder = None
        if found:
            return BodyData(b"".join(found), len(found) == _CHUNKS_PER_EVENT)
        if not chunks.finished:
            return None
        self._in_body = False
        return END_OF_MESSAGE

    def _decode(self, piece: bytes, plain_line: bytes) -> bytes:
        """Return the data in a piece of a chunked body that a scanner has checked."""
        decoder, chunks = self._decoder, self._chunks
        assert decoder is not None  # Both are made by ``_begin_body``.
        assert chunks is not None
        if plain_line:
            piece = plain_line + piece.partition(b"\r\n")[2]
        data = decoder.decode(piece)
        assert decoder.finished is chunks.finished  # The library agrees with us.
        return data
