"""Strict lines: which bytes may stand in a request head, a chunk line and a trailer.

These rules are applied to the bytes before a library parses them, so that all libraries accept and
refuse the same requests. The first violation in the order of the bytes decides. So it makes no
difference how the bytes were split on their way.
"""

import re

from ..errors import ForeignProtocol, Refusal
from ..wording import counted
from .grammar import QUOTED_STRING, TOKEN
from .request import Limits

# Bytes that arrive a few at a time are collected in a bytearray.
Buffer = bytes | bytearray

_TOKEN = TOKEN.encode()
_VALUE = rb"[\t\x20-\x7e\x80-\xff]*+"

# Patterns for the fields of an ordinary head. They only save time: a line that they match would
# pass a ``HeadScanner`` as well, unless it is too long. Any other head is scanned, and that finds
# out what is wrong.
#
# Any field line; and a simple one, which is printable ASCII. The groups are the name, and the value
# with the spaces behind it. A test finds out that no library reads a simple line in another way.
match_field_line = re.compile(rb"%b:%b" % (_TOKEN, _VALUE)).fullmatch
match_simple_line = re.compile(rb"(%b): *+([\x20-\x7e]*+)" % _TOKEN).fullmatch
_REQUEST_LINE = re.compile(rb"%b [\x21-\x7e]+ HTTP/([0-9])\.([0-9])" % _TOKEN)
_SPACE_BEFORE_COLON = re.compile(rb"%b[ \t]+:" % _TOKEN)
# RFC 9112 §7.1.1, and the white space that recipients must accept.
_CHUNK_LINE = re.compile(
    rb"([0-9A-Fa-f]++)((?:[ \t]*+;[ \t]*+%b(?:[ \t]*+=[ \t]*+(?:%b|%b))?)*)"
    % (_TOKEN, _TOKEN, QUOTED_STRING.encode("latin-1"))
)
_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]+")
# A size that is larger than any limit, whatever follows it.
_HUGE_CHUNK_SIZE = re.compile(rb"0*+[1-9A-Fa-f][0-9A-Fa-f]{16}")
# Every library can read a size of so many digits.
_PLAIN_SIZE_DIGITS = 16
# What most clients send, there as a whole. It is sound without a further look.
_PLAIN_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,%d})\r\n" % _PLAIN_SIZE_DIGITS)

_NOT_IN_REQUEST_LINE = re.compile(rb"[^\x20-\x7e]")
_NOT_IN_FIELD_LINE = re.compile(rb"[^\t\x20-\x7e\x80-\xff]")

# In bytes. RFC 9112 §7.1.1 asks for a limit on chunk extensions. Ordinary clients send none.
_CHUNK_LINE_LIMIT = 256
_CHUNK_EXTENSIONS_LIMIT = 1 << 14

# RFC 9110 §6.5.1: fields for framing, routing or authentication are not allowed in a trailer. They
# would deceive a recipient that merges trailers with header fields. So they are refused. All other
# trailer fields are dropped.
_NOT_IN_TRAILERS = frozenset(
    # Framing, and the connection.
    b"connection content-length keep-alive te trailer transfer-encoding upgrade "
    # Routing.
    b"forwarded host max-forwards "
    # Authentication.
    b"authorization cookie".split()
)
_NOT_IN_TRAILERS_PREFIXES = (b"proxy-", b"x-forwarded-")


# The first byte of a TLS handshake (RFC 8446 §5.1).
_TLS_HANDSHAKE = 0x16
# The alert handshake_failure, which every client understands (RFC 8446 §6.2): there is nothing that
# both ends could agree on.
_TLS_ALERT = b"\x15\x03\x01\x00\x02\x02\x28"

# The PROXY protocol where it is not expected: a line in its first version, and no more than empty
# lines can be told from others in its second one.
_PROXY_LINE = (
    "the client speaks the PROXY protocol, and this listener does not; write ?proxy=on behind its "
    "address in --bind, or have the proxy send no header (send-proxy)"
)
_MAYBE_PROXY_HEADER = (
    "so begins the PROXY protocol: if a proxy speaks that, write ?proxy=on behind the address in "
    "--bind"
)


def _check_bytes(
    buffer: Buffer, start: int, stop: int, forbidden: re.Pattern[bytes], where: str
) -> None:
    """Raise a Refusal for the first forbidden byte in a part of the buffer, if there is one."""
    if (match := forbidden.search(buffer, start, stop)) is None:
        return
    if buffer[0] == _TLS_HANDSHAKE and where == "request line":
        # A person has typed https:// for http://, or a proxy is configured that way.
        raise ForeignProtocol(
            400,
            "the client speaks TLS (https), and this listener HTTP without; give --certfile, or "
            "have it ask for http://",
            answer=_TLS_ALERT,
        )
    if buffer[0] == 0 and where == "request line":
        # So begins a packet of the uwsgi protocol.
        raise Refusal(
            400,
            "the client speaks uwsgi, it seems, and this listener HTTP; use proxy_pass, or "
            "--bind uwsgi:...",
        )
    byte = match[0][0]
    if byte == 0x0A:
        raise Refusal(400, f"the {where} holds an LF that does not follow a CR")
    if byte == 0x0D:
        raise Refusal(400, f"the {where} holds a CR that is not followed by LF")
    raise Refusal(400, f"the {where} holds the byte 0x{byte:02x}, which is not allowed there")


def _check_request_line(line: bytes) -> None:
    if not line:
        # RFC 9112 §2.2: one empty line before a request is ignored. That one was skipped already.
        raise Refusal(
            400, f"more than one empty line before the request line; {_MAYBE_PROXY_HEADER}"
        )
    if (match := _REQUEST_LINE.fullmatch(line)) is None:
        if line.startswith(b"PROXY "):
            raise Refusal(400, _PROXY_LINE)
        raise Refusal(400, "the request line is not 'METHOD TARGET HTTP/1.1'")
    # RFC 9110 §2.5: a higher minor version is served as the highest that is known.
    if match[1] != b"1":
        raise Refusal(505, "this server speaks HTTP/1.1 and HTTP/1.0")


def _check_field_line(line: bytes) -> None:
    if match_field_line(line):
        return
    if line[:1] in (b" ", b"\t"):
        # RFC 9112 §5.2: obs-fold is refused, because parsers disagree about its meaning.
        raise Refusal(400, "a header field is folded over two lines, which is obsolete")
    if _SPACE_BEFORE_COLON.match(line):
        raise Refusal(400, "white space between a header field's name and its colon")
    raise Refusal(400, "a header line is not 'name: value'")


class HeadScanner:
    """Finds the end of a request head, and refuses a head that is not strictly well formed.

    It works incrementally: it looks at each byte once, however slowly the rest arrives.
    """

    __slots__ = ("_base", "_limits", "_lines", "_seen", "_start")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._base = 0  # Where the head begins: behind an empty line, if there is one.
        self._start = -1  # Where the current line begins; -1 before the first call.
        self._seen = 0  # Up to here the current line is checked, and does not end.
        self._lines = 0  # How many lines are complete.

    def scan(self, buffer: Buffer) -> tuple[int, int] | None:
        """Return where in ``buffer`` the head begins and ends; None if it is not complete.

        In that case, call it again with the same bytes and more. Raises Refusal with 400, 414, 431
        or 505.
        """
        if self._start < 0:
            if buffer == b"\r":
                return None
            self._start = self._base = self._seen = 2 if buffer[:2] == b"\r\n" else 0
        while (line := self._next_line(buffer)) is not None:
            if self._lines == 1:
                _check_request_line(line)
            elif line:
                if self._lines - 1 > self._limits.fields:
                    raise Refusal(431, f"more than {counted(self._limits.fields, 'header field')}")
                _check_field_line(line)
            else:
                return self._base, self._start
        return None

    def _next_line(self, buffer: Buffer) -> bytes | None:
        end = buffer.find(b"\r\n", self._seen)
        if end < 0:
            end = len(buffer)
            # A CR at the very end may be the first half of a CRLF.
            if buffer.endswith(b"\r"):
                end -= 1
            self._check_so_far(buffer, end)
            self._seen = end
            return None
        self._check_so_far(buffer, end)
        line = bytes(buffer[self._start : end])
        self._lines += 1
        self._start = self._seen = end + 2
        return line

    def _check_so_far(self, buffer: Buffer, end: int) -> None:
        """Check the bytes and the length of a line, which may not be complete yet."""
        limits, size = self._limits, end - self._start
        room = limits.head - (self._start - self._base)
        if self._lines == 0:
            ceiling, forbidden, where = limits.request_line, _NOT_IN_REQUEST_LINE, "request line"
        else:
            ceiling, forbidden, where = limits.field_size, _NOT_IN_FIELD_LINE, "request head"
        allowed = max(0, min(ceiling, room))
        _check_bytes(buffer, self._seen, min(end, self._start + allowed), forbidden, where)
        if size <= allowed and room >= 0:
            return
        if room < ceiling:
            raise Refusal(431, f"the request head is longer than {counted(limits.head, 'byte')}")
        if self._lines == 0:
            raise Refusal(414, f"the request line is longer than {counted(ceiling, 'byte')}")
        raise Refusal(431, f"a header field is longer than {counted(ceiling, 'byte')}")


class ChunkScanner:
    """Checks a chunked body (RFC 9112 §7.1) before a library decodes it.

    ``scan`` says how many bytes of the buffer are checked, and may be decoded: at most one chunk
    line and the data behind it, so that one call is a bounded amount of work. If it needs more
    bytes, it is called again with the same bytes and more. It looks at each byte once.
    """

    __slots__ = (
        "_body",
        "_data",
        "_extensions",
        "_limits",
        "_seen",
        "_trailers",
        "finished",
        "plain_line",
    )

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._body = 0  # Bytes that all chunk lines so far have announced.
        self._data = 0  # Bytes of this chunk that have yet to arrive, with its CRLF.
        self._extensions = 0  # Bytes of chunk extensions in all.
        self._seen = 0  # Bytes of the current line that are checked and do not end it.
        self._trailers: int | None = None  # Trailer fields so far; None before the last chunk.
        # What a library gets in place of the chunk line that was scanned last. Empty if it gets the
        # line as it was sent.
        self.plain_line = b""
        # Whether the end of the body was found.
        self.finished = False

    def scan(self, buffer: Buffer, start: int) -> int:
        """Return the offset up to which ``buffer`` is checked; ``start`` if more is needed.

        Raises Refusal with 400, 413 or 431.
        """
        self.plain_line = b""
        if self._data:
            return self._scan_data(buffer, start)
        if self._trailers is not None:
            return self._scan_trailer(buffer, start)
        return self._scan_chunk_line(buffer, start)

    def _line_end(self, buffer: Buffer, start: int, limit: int, where: str, status: int) -> int:
        """Return the offset of the CRLF that ends the line at ``start``, or -1."""
        seen = start + self._seen
        end = stop = buffer.find(b"\r\n", seen, start + limit + 2)
        if end < 0:
            stop = min(len(buffer), start + limit + 2)
            # A CR at the end may be the first half of a CRLF.
            if buffer.endswith(b"\r", seen, stop):
                stop -= 1
        _check_bytes(buffer, seen, min(stop, start + limit), _NOT_IN_FIELD_LINE, where)
        if stop - start > limit:
            if self._trailers is None and _HUGE_CHUNK_SIZE.match(buffer, start, start + limit):
                raise self._too_large()
            raise Refusal(status, f"a line of the {where} is longer than {counted(limit, 'byte')}")
        self._seen = stop - start if end < 0 else 0
        return end

    def _too_large(self) -> Refusal:
        return Refusal(413, f"the request body is longer than {counted(self._limits.body, 'byte')}")

    def _scan_chunk_line(self, buffer: Buffer, start: int) -> int:
        if (plain := _PLAIN_CHUNK_LINE.match(buffer, start)) is not None:
            self._seen = 0
            return self._begin_chunk(buffer, plain.end(), int(plain[1], 16))
        end = self._line_end(buffer, start, _CHUNK_LINE_LIMIT, "chunked body", 400)
        if end < 0:
            return start
        if (match := _CHUNK_LINE.fullmatch(buffer, start, end)) is None:
            if _CHUNK_SIZE.match(buffer, start, end) is None:
                raise Refusal(400, "a chunk size is not a hexadecimal number")
            raise Refusal(400, "a chunk extension is not ';name' or ';name=value'")
        digits, extensions = match.groups()
        self._extensions += len(extensions)
        if self._extensions > _CHUNK_EXTENSIONS_LIMIT:
            raise Refusal(400, f"more than {_CHUNK_EXTENSIONS_LIMIT} bytes of chunk extensions")
        size = int(digits, 16)
        if extensions or len(digits) > _PLAIN_SIZE_DIGITS:
            self.plain_line = b"%x\r\n" % size
        return self._begin_chunk(buffer, end + 2, size)

    def _begin_chunk(self, buffer: Buffer, start: int, size: int) -> int:
        """Go on behind the line of a chunk of so many bytes."""
        self._body += size
        if self._body > self._limits.body:
            raise self._too_large()
        if size == 0:
            self._trailers = 0
            return start
        self._data = size + 2
        return self._scan_data(buffer, start)

    def _scan_data(self, buffer: Buffer, start: int) -> int:
        end = min(len(buffer), start + self._data)
        left = self._data - (end - start)
        if left < 2:
            # The CRLF behind the data, or the first half of it (CVE-2025-43859).
            tail = buffer[max(start, end - 2 + left) : end]
            expected = b"\r\n"[2 - left - len(tail) : 2 - left]
            if tail != expected:
                sound = end - len(tail)
                if sound == start:
                    raise Refusal(400, "a chunk is not followed by CRLF")
                # The data before the violation is decoded first, as it would be if it had arrived
                # alone.
                end, left = sound, self._data - (sound - start)
        self._data = left
        return end

    def _scan_trailer(self, buffer: Buffer, start: int) -> int:
        end = self._line_end(buffer, start, self._limits.field_size, "trailer section", 431)
        if end < 0:
            return start
        if end == start:
            self.finished = True
            return end + 2
        assert self._trailers is not None  # ``scan`` calls this in that state only.
        self._trailers += 1
        # The bytes are bounded as well: by the number of fields times the size of each.
        if self._trailers > self._limits.fields:
            raise Refusal(431, f"more than {counted(self._limits.fields, 'trailer field')}")
        line = bytes(buffer[start:end])
        _check_field_line(line)
        name = line.partition(b":")[0].lower()
        if name in _NOT_IN_TRAILERS or name.startswith(_NOT_IN_TRAILERS_PREFIXES):
            raise Refusal(400, f"{name.decode()!r} is not allowed in a trailer section")
        return end + 2
