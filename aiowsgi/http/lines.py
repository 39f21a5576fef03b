"""Strict lines: what may stand in a request head, a chunk line and a trailer, byte by byte.

These are rules over plain bytes, applied before any parser sees them, so that every parser behind
them accepts and refuses the same. The first violation in byte order decides: the verdict does not
depend on how the bytes were split on their way.
"""

import re

from ..errors import Refusal
from ..wording import counted
from .grammar import QUOTED_STRING, TOKEN
from .request import Limits

# What arrives a little at a time is collected in the latter.
Buffer = bytes | bytearray

_TOKEN = TOKEN.encode()
_VALUE = rb"[\t\x20-\x7e\x80-\xff]*+"

# An ordinary head in two matches. They decide nothing alone: what they do not match is read again
# line by line, to find out what is wrong; what they match is accepted there too, if no line is too
# long.
# Before " HTTP/", in latin-1: method, target, and the target's path and query as ``split_target``
# finds them.
ordinary_request = re.compile(
    rf"(?!CONNECT )({TOKEN}) ((/[!\"$->@-~]*+)(?:\?([!\"$-~]*+))?+)"
).fullmatch
# Between "HTTP/" and the empty line.
ordinary_section = re.compile(rb"1\.[01](?:\r\n%b:%b)*+" % (_TOKEN, _VALUE)).fullmatch
_REQUEST_LINE = re.compile(rb"%b [\x21-\x7e]+ HTTP/([0-9])\.([0-9])" % _TOKEN)
_FIELD_LINE = re.compile(rb"%b:%b" % (_TOKEN, _VALUE))
_SPACE_BEFORE_COLON = re.compile(rb"%b[ \t]+:" % _TOKEN)
# RFC 9112 §7.1.1, with the white space that recipients must parse.
_CHUNK_LINE = re.compile(
    rb"([0-9A-Fa-f]++)((?:[ \t]*+;[ \t]*+%b(?:[ \t]*+=[ \t]*+(?:%b|%b))?+)*+)"
    % (_TOKEN, _TOKEN, QUOTED_STRING.encode("latin-1"))
)
_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]+")
# Larger than any limit, however the line goes on.
_HUGE_CHUNK_SIZE = re.compile(rb"0*+[1-9A-Fa-f][0-9A-Fa-f]{16}")
# Every library reads a size of so many digits.
_PLAIN_SIZE_DIGITS = 16

_NOT_IN_REQUEST_LINE = re.compile(rb"[^\x20-\x7e]")
_NOT_IN_FIELD_LINE = re.compile(rb"[^\t\x20-\x7e\x80-\xff]")

# RFC 9112 §7.1.1 asks for a limit on chunk extensions. Nobody sends any.
_CHUNK_LINE_LIMIT = 256
_CHUNK_EXTENSIONS_LIMIT = 1 << 14

# RFC 9110 §6.5.1: what concerns framing, routing or authentication has no place in a trailer, and
# is how somebody would deceive a recipient that merges trailers with header fields. Other fields
# are dropped, as all trailers are.
_NOT_IN_TRAILERS = frozenset(
    # Framing, and the connection.
    b"connection content-length keep-alive te trailer transfer-encoding upgrade "
    # Routing.
    b"forwarded host max-forwards "
    # Authentication.
    b"authorization cookie".split()
)
_NOT_IN_TRAILERS_PREFIXES = (b"proxy-", b"x-forwarded-")


# How a record of a handshake begins (RFC 8446 §5.1).
_TLS_HANDSHAKE = b"\x16\x03"


def _check_bytes(
    buffer: Buffer, start: int, stop: int, forbidden: re.Pattern[bytes], where: str
) -> None:
    """Refuse the first byte in a part of the buffer that no such line may hold."""
    if (match := forbidden.search(buffer, start, stop)) is None:
        return
    if buffer[:2] == _TLS_HANDSHAKE:
        # Somebody wrote https:// for http://, or a proxy is set up to.
        raise Refusal(400, "the client speaks TLS (https), and this server plain HTTP")
    byte = match[0][0]
    if byte == 0x0A:
        raise Refusal(400, f"the {where} holds an LF that does not follow a CR")
    if byte == 0x0D:
        raise Refusal(400, f"the {where} holds a CR that is not followed by LF")
    raise Refusal(400, f"the {where} holds the byte 0x{byte:02x}, which is not allowed there")


def _check_request_line(line: bytes) -> None:
    if not line:
        # RFC 9112 §2.2: one empty line before a request is ignored; it is gone already.
        raise Refusal(400, "more than one empty line before the request line")
    if (match := _REQUEST_LINE.fullmatch(line)) is None:
        raise Refusal(400, "the request line is not 'METHOD TARGET HTTP/1.1'")
    # RFC 9110 §2.5: a higher minor version is served as the highest that is known.
    if match[1] != b"1":
        raise Refusal(505, "this server speaks HTTP/1.1 and HTTP/1.0")


def _check_field_line(line: bytes) -> None:
    if _FIELD_LINE.fullmatch(line):
        return
    if line[:1] in (b" ", b"\t"):
        # RFC 9112 §5.2: obs-fold is refused, for parsers disagree about what it joins.
        raise Refusal(400, "a header field is folded over two lines, which is obsolete")
    if _SPACE_BEFORE_COLON.match(line):
        raise Refusal(400, "white space between a header field's name and its colon")
    raise Refusal(400, "a header line is not 'name: value'")


class HeadScanner:
    """Finds the end of a request head, and refuses a head that is not strictly well formed.

    Incremental: no byte is looked at again, however slowly the rest arrives.
    """

    __slots__ = ("_base", "_limits", "_lines", "_seen", "_start")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._base = 0  # Where the head begins: behind an empty line, if there is one.
        self._start = -1  # Where the first unread line begins; -1 before the first look.
        self._seen = 0  # Before this, that line is sound and does not end.
        self._lines = 0  # Lines read.

    def scan(self, buffer: Buffer) -> tuple[int, int] | None:
        """Return where the head begins and where it ends in ``buffer``; None if it is not whole.

        Called again with the same bytes and more. Raises Refusal with 400, 414, 431 or 505.
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
        """Refuse on bytes and length: what can be known before the line is whole."""
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
    """Checks a chunked body (RFC 9112 §7.1) as it passes, without decoding it.

    ``scan`` says how many bytes of the buffer are checked and may go to the parser: at most one
    chunk line with the data behind it, so that one call is a bounded amount of work. Where it needs
    more, it is called again with the same bytes and more, and looks at no byte again.
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
        self._body = 0  # Bytes announced by all chunk lines.
        self._data = 0  # Bytes to come of this chunk, with its CRLF.
        self._extensions = 0
        self._seen = 0  # Bytes of a line that are sound and do not end it.
        self._trailers: int | None = None  # Fields so far, once the last chunk has come.
        # What a library gets in place of the chunk line that was scanned last; empty where it gets
        # that line itself.
        self.plain_line = b""
        self.finished = False

    def scan(self, buffer: Buffer, start: int) -> int:
        """Return the offset up to which ``buffer`` is sound; ``start`` where more is needed.

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
            # It may be the first half of a CRLF.
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
        self._body += size
        if self._body > self._limits.body:
            raise self._too_large()
        if size == 0:
            self._trailers = 0
            return end + 2
        self._data = size + 2
        return self._scan_data(buffer, end + 2)

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
                # The data before it is handed out first, as it is where it arrives alone.
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
        assert self._trailers is not None  # This is the state in which it counts.
        self._trailers += 1
        # Not counted in bytes: fields times their size is the bound.
        if self._trailers > self._limits.fields:
            raise Refusal(431, f"more than {counted(self._limits.fields, 'trailer field')}")
        line = bytes(buffer[start:end])
        _check_field_line(line)
        name = line.partition(b":")[0].lower()
        if name in _NOT_IN_TRAILERS or name.startswith(_NOT_IN_TRAILERS_PREFIXES):
            raise Refusal(400, f"{name.decode()!r} is not allowed in a trailer section")
        return end + 2
