"""The response as bytes: head, framing, end (RFC 9112 §6 and §7, RFC 9110 §15)."""

import enum
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from wsgiref.handlers import format_date_time

from ..cache import Cache

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

# A piece of the body above this size, in bytes, is not copied to join it with the head.
_JOIN_LIMIT: Final = 1 << 14


class BodyFraming(enum.Enum):
    """How the recipient knows where a response body ends (RFC 9112 §6.3)."""

    NONE = "no body can follow"
    LENGTH = "Content-Length"
    CHUNKED = "chunked transfer coding"
    CLOSE = "the end of the connection"


# A global name is looked up several times faster than an attribute of the class, and these are used
# many times a request. One that is Final is not looked up at all by compiled modules.
NONE: Final = BodyFraming.NONE
LENGTH: Final = BodyFraming.LENGTH
CHUNKED: Final = BodyFraming.CHUNKED
CLOSE: Final = BodyFraming.CLOSE


def response_framing(
    *, head_request: bool, http_11: bool, status_code: int, length: int | None
) -> BodyFraming:
    """Decide how a response is framed. ``length`` is that of the body in bytes, if it is known."""
    # RFC 9112 §6.3, step 1: these never have a body, whatever their fields say. A 205 must not have
    # one either (RFC 9110 §15.3.6); it is sent with Content-Length: 0.
    if head_request or status_code < 200 or status_code in (204, 205, 304):
        return NONE
    if length is not None:
        return LENGTH
    # RFC 9112 §6.1: no transfer coding for a client that speaks HTTP/1.0.
    return CHUNKED if http_11 else CLOSE


@dataclass(slots=True)
class _Head:
    """A response head, and what follows from it. It is never changed."""

    status_code: int
    framing: BodyFraming
    # How many bytes the body has, if it is framed by LENGTH; else 0.
    length: int
    # Whether another request may follow on the connection.
    keep_alive: bool
    lines: bytes
    # Whether the lines are complete. If not, the Date and the empty line follow.
    complete: bool


class _Date:
    """The end of a head that is made in one second of the epoch. It is never changed."""

    __slots__ = ("lines", "second")

    def __init__(self, second: int) -> None:
        self.second = second
        self.lines = f"Date: {format_date_time(second)}\r\n\r\n".encode()


# Status, fields, and the length of the body if it is known; whether the request is a HEAD, whether
# it is in HTTP/1.1, and whether another request may follow.
_Key = tuple[str, tuple[tuple[str, str], ...], int | None, bool, bool, bool]


def _response_head(
    status: str,
    fields: tuple[tuple[str, str], ...],
    length: int | None,
    head_request: bool,
    http_11: bool,
    keep_alive: bool,
    server: str,
) -> _Head:
    status_code = int(status[:3])
    no_length = status_code < 200 or status_code in (204, 205)
    # A 1xx gets no Date: the final response does.
    complete, named = status_code < 200, False
    declared: int | None = None
    lines = [f"HTTP/1.1 {status}\r\n"]
    for name, value in fields:
        match name.lower():
            case "content-length":
                declared = int(value)
                if no_length:  # RFC 9110 §8.6: must not be sent.
                    continue
            case "connection":  # See below.
                keep_alive = keep_alive and value != "close"
                continue
            case "date":
                complete = True
            case "server":
                named = True
        lines.append(f"{name}: {value}\r\n")
    if status_code == 205:
        # RFC 9110 §15.3.6: the response has no content, and has to say so.
        lines.append("Content-Length: 0\r\n")
    elif declared is None and length is not None and not no_length and status_code != 304:
        # An application that answers HEAD with an empty body does not say how long GET's would be.
        if length or not head_request:
            lines.append(f"Content-Length: {length}\r\n")
        declared = length
    framing = response_framing(
        head_request=head_request, http_11=http_11, status_code=status_code, length=declared
    )
    if framing is CHUNKED:
        lines.append("Transfer-Encoding: chunked\r\n")
    if framing is CLOSE or status_code < 200:
        # After a 1xx the client would go on waiting for a final response, which never comes.
        keep_alive = False
    # RFC 9112 §9.3: persistence is the default in 1.1, and announced in 1.0.
    if not keep_alive:
        lines.append("Connection: close\r\n")
    elif not http_11:
        lines.append("Connection: keep-alive\r\n")
    if not named:
        lines.append(server)
    if complete:
        lines.append("\r\n")
    text = "".join(lines).encode("latin-1")
    body = declared or 0 if framing is LENGTH else 0
    return _Head(status_code, framing, body, keep_alive, text, complete)


# The limits of the cache: how many heads, and how many bytes each. That is 4 MB at most. A field
# takes _FIELD_SIZE bytes of memory besides its characters.
_MAX_HEADS = 512
_MAX_HEAD_SIZE = 4096
_FIELD_SIZE = 160


class ResponseHeads:
    """Makes the response heads of one server, and caches them. Used on any thread.

    Most applications answer with the same few heads again and again. (Without Content-Length there
    is one for each length.) ``server`` is the line that is sent if the application sets no Server
    field; ``clock()`` returns the seconds since the epoch, for Date.
    """

    __slots__ = ("_cache", "_server", "clock", "date", "known")

    def __init__(self, server: str, clock: Callable[[], float] = time.time) -> None:
        self._server = server
        self.clock = clock
        # The last one that was needed. Replaced as a whole, so that a thread sees the lines of the
        # second, and no others.
        self.date = _Date(0)
        self._cache = Cache[_Key, _Head](_MAX_HEADS, _MAX_HEAD_SIZE)
        self.known = self._cache.known

    def make(self, key: _Key) -> _Head:
        """Return the head of a response that is not in ``known``."""
        head = _response_head(*key, self._server)
        self._cache.offer(key, head, len(head.lines) + _FIELD_SIZE * len(key[1]))
        return head


class ResponseEncoder:
    """Encodes one final response. Used by one thread at a time.

    Call ``start`` once, ``encode`` for each piece of the body but the last, and ``finish`` once.
    Send what they return in that order. The head that ``start`` returns may also be passed to the
    next call as ``head``, which then returns it together with the piece.
    """

    __slots__ = (
        "_chunk_open",
        "_framing",
        "_head_request",
        "_heads",
        "_http_11",
        "_remaining",
        "body_size",
        "excess",
        "is_complete",
        "keep_alive",
        "missing",
        "status_code",
        "wants_more",
    )

    def __init__(self, heads: ResponseHeads, method: str, version: str, keep_alive: bool) -> None:
        self._heads = heads
        self._head_request = method == "HEAD"
        self._http_11 = version == "HTTP/1.1"
        self._framing = NONE
        self._remaining = 0
        self._chunk_open = False
        # Whether another request may follow on the connection.
        self.keep_alive = keep_alive
        # 0 until the head is encoded.
        self.status_code = 0
        # How many bytes of the body were encoded, without their framing.
        self.body_size = 0
        # How many bytes were given beyond the declared Content-Length and dropped, and how many are
        # missing.
        self.excess = 0
        self.missing = 0
        # Whether everything that may follow the head has been encoded.
        self.is_complete = True
        # Whether more of the body would be sent, or would be reported as too long.
        self.wants_more = False

    @property
    def is_self_delimiting(self) -> bool:
        """Whether the client can tell a response that was cut from one that is complete."""
        return self._framing is not CLOSE

    def start(self, status: str, fields: tuple[tuple[str, str], ...], length: int | None) -> bytes:
        """Return the response head.

        Arguments: the status ("200 OK"), fields that were validated already, and the length of the
        whole body in bytes if it is known, for an application that gives no Content-Length.
        """
        heads = self._heads
        key = (status, fields, length, self._head_request, self._http_11, self.keep_alive)
        head = heads.known.get(key) or heads.make(key)
        self.status_code = head.status_code
        self._framing = framing = head.framing
        self._remaining = head.length
        self.keep_alive = head.keep_alive
        self.wants_more = framing is not NONE
        self.is_complete = framing is NONE or (framing is LENGTH and not head.length)
        if head.complete:
            return head.lines
        second = int(heads.clock())
        date = heads.date
        if date.second != second:
            heads.date = date = _Date(second)
        return head.lines + date.lines

    def encode(self, data: bytes, head: bytes = b"") -> list[bytes]:
        """Return the pieces to send for ``head`` and ``data``; none if there is nothing to send.

        Small ones are joined, because that is less work than to send two.
        """
        size = len(data)
        framing = self._framing
        if framing is LENGTH:
            if size > self._remaining:
                # RFC 9112 §6.3: the client would read bytes beyond it as the next response.
                self.excess += size - self._remaining
                self.wants_more = False
                data = data[: self._remaining]
                size = self._remaining
            self._remaining -= size
            self.is_complete = not self._remaining
        elif framing is NONE:
            data = b""
            size = 0
        elif framing is CHUNKED and data:
            # The CRLF that ends a chunk is sent with what follows it.
            head += (b"\r\n%x\r\n" if self._chunk_open else b"%x\r\n") % size
            self._chunk_open = True
        self.body_size += size
        if size > _JOIN_LIMIT:
            return [head, data] if head else [data]
        data = head + data
        return [data] if data else []

    def skip(self, size: int) -> int:
        """Count up to ``size`` bytes of the body that are sent by other means; return how many.

        Only for a response whose length is known, and not after ``encode``.
        """
        if self._framing is not LENGTH:
            return 0
        size = min(size, self._remaining)
        self._remaining -= size
        self.is_complete = not self._remaining
        self.body_size += size
        return size

    def finish(self, data: bytes, head: bytes = b"") -> list[bytes]:
        """Return the pieces to send for ``data``, which is the last of the body, and for its end.

        If the body was shorter than declared, sets ``missing``, and ``keep_alive`` to False.
        """
        size = len(data)
        if self._framing is LENGTH and size == self._remaining and size <= _JOIN_LIMIT:
            # As most responses end. The same as below, with a step less.
            self.body_size += size
            self._remaining = 0
            self.is_complete = True
            data = head + data
            return [data] if data else []
        pieces = self.encode(data, head)
        if self._framing is CHUNKED:
            end = b"\r\n0\r\n\r\n" if self._chunk_open else b"0\r\n\r\n"
            if len(pieces) == 1:
                pieces = [pieces[0] + end]
            else:
                pieces.append(end)
        elif self._remaining:
            self.missing = self._remaining
            self.keep_alive = False
        return pieces


def status_text(code: int) -> str:
    """Return a status as ``start_response`` takes it: "404 Not Found"."""
    return f"{code} {HTTPStatus(code).phrase}"
