"""Clients in memory: what they send is known from its making, and h11 reads what they receive.

``Peer`` is a wire with the client at its other end. Bytes are on their way until the server polls
for them, as they are in the buffers of a kernel.
"""

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass, field

import h11
from memory import ManualTimers, MemoryTransfer, MemoryWire

from aiowsgi.exchange.interfaces import FileTransfer
from aiowsgi.wsgi.file_wrapper import FilePart

# What a loop reads at a time, and what it copies of a file.
RECEIVE = 50_000
COPIED = 1 << 17

# Heads that are refused, and how. They end where the first line or field is complete that is wrong.
MALFORMED: dict[str, tuple[int, bytes]] = {
    "garbage": (400, b"\x80\x03\x01\x02\x00\x01\r\n\r\n"),
    "bare LF": (400, b"GET /%s HTTP/1.1\nHost: h\r\n\r\n"),
    "no host": (400, b"GET /%s HTTP/1.1\r\n\r\n"),
    "two lengths": (
        400,
        b"POST /%s HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    ),
    "length and coding": (
        400,
        b"POST /%s HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    ),
    "coding": (501, b"POST /%s HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"),
    "version": (505, b"GET /%s HTTP/2.0\r\nHost: h\r\n\r\n"),
    "expectation": (417, b"POST /%s HTTP/1.1\r\nHost: h\r\nExpect: tea\r\n\r\n"),
    "long line": (414, b"GET /%s" + b"x" * 9000 + b" HTTP/1.1\r\nHost: h\r\n\r\n"),
    "long field": (431, b"GET /%s HTTP/1.1\r\nHost: h\r\nX: " + b"x" * 9000 + b"\r\n\r\n"),
    "many fields": (431, b"GET /%s HTTP/1.1\r\nHost: h\r\n" + b"X: y\r\n" * 120 + b"\r\n"),
    "large head": (431, b"GET /%s HTTP/1.1\r\nHost: h\r\n" + (b"X: " + b"y" * 8000 + b"\r\n") * 9),
}


@dataclass(slots=True, kw_only=True)
class Request:
    """A request as the client makes it. ``begin`` and ``end`` are places in what it sends."""

    token: str
    head: bytes
    behind: bytes = b""
    method: str = "GET"
    http_11: bool = True
    keep_alive: bool = True
    # Whether the client asks for a 100 Continue.
    expects: bool = False
    # The body, without its framing; as far as it is sound.
    body: bytes = b""
    # How it is refused, if it cannot be understood; and whether its head can.
    refusal: int | None = None
    sound_head: bool = True
    # Whether the loop answers it, without the application.
    is_check: bool = False
    begin: int = 0

    @property
    def end(self) -> int:
        return self.begin + len(self.head) + len(self.behind)


def plain_request(token: str, method: str, version: str, connection: str) -> Request:
    """Return a request without a body."""
    field = f"Connection: {connection}\r\n" if connection else ""
    http_11 = version == "HTTP/1.1"
    return Request(
        token=token,
        head=f"{method} /{token} {version}\r\nHost: h\r\n{field}\r\n".encode(),
        method=method,
        http_11=http_11,
        keep_alive=connection == "keep-alive" or (http_11 and connection != "close"),
    )


def health_check(token: str, method: str, size: int) -> Request:
    """Return a request for the health check at ``/up``. With a POST comes a body."""
    body = smuggled(token, size) if method == "POST" else b""
    field = f"Content-Length: {size}\r\n" if method == "POST" else ""
    return Request(
        token=token,
        head=f"{method} /up HTTP/1.1\r\nHost: h\r\n{field}\r\n".encode(),
        behind=body,
        body=body,
        method=method,
        is_check=True,
    )


def smuggled(token: str, size: int) -> bytes:
    """Return a body that holds the text of requests."""
    text = ""
    for number in itertools.count():
        if len(text) >= size:
            break
        text += f"POST /in-{token}-{number} HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n"
    return text[:size].encode()


def _head(token: str, framing: str, *, expects: bool) -> bytes:
    expect = "Expect: 100-continue\r\n" if expects else ""
    return f"POST /{token} HTTP/1.1\r\n{expect}{framing}\r\nHost: h\r\n\r\n".encode()


def request_with_length(token: str, size: int, *, expects: bool, limit: int) -> Request:
    """Return a request whose body is not encoded; above ``limit`` it is refused."""
    body = smuggled(token, size)
    return Request(
        token=token,
        head=_head(token, f"Content-Length: {size}", expects=expects),
        behind=body,
        method="POST",
        expects=expects,
        body=body,
        refusal=413 if size > limit else None,
        sound_head=size <= limit,
    )


def request_in_chunks(
    token: str, sizes: list[int], *, expects: bool, limit: int, broken: bool
) -> Request:
    """Return a request whose body is chunked; a ``broken`` one ends with something else."""
    body = smuggled(token, sum(sizes))
    behind = bytearray()
    start = 0
    for size in sizes:
        if start + size > limit:
            body = body[:start]
        behind += b"%x\r\n%b\r\n" % (size, body[start : start + size].ljust(size))
        start += size
    refusal = 413 if start > limit else 400 if broken else None
    behind += b"5;GET /\n" if broken else b"0\r\n\r\n"
    return Request(
        token=token,
        head=_head(token, "Transfer-Encoding: chunked", expects=expects),
        behind=bytes(behind),
        method="POST",
        expects=expects,
        body=body,
        refusal=refusal,
    )


def malformed_request(token: str, kind: str) -> Request:
    """Return something that is refused."""
    status, text = MALFORMED[kind]
    return Request(
        token=token,
        head=text.replace(b"%s", token.encode()),
        refusal=status,
        sound_head=False,
        keep_alive=False,
    )


@dataclass(slots=True)
class Answer:
    """A final response, as far as it has arrived."""

    request: Request
    # How many 100 Continue came before.
    continues: int = 0
    status: int = 0
    fields: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    complete: bool = False

    @property
    def token(self) -> str | None:
        """The request that the application has answered; None where the server did."""
        return self.fields.get("x-token")

    @property
    def closes(self) -> bool:
        """Whether it says that the connection will close."""
        return self.fields.get("connection") == "close"


class Answers:
    """Reads responses, one to each request."""

    def __init__(self) -> None:
        self.all: list[Answer] = []
        self._connection: h11.Connection | None = None
        self._position = 0

    def feed(self, data: bytes, next_request: Callable[[int], tuple[Request, bool]]) -> None:
        """Take bytes. ``next_request`` gets where a response begins, and returns what it is to,
        and whether the server knew so much of it as to know its method.
        """
        while data:  # Each pass takes some.
            if self._connection is None:
                assert not (self.all and self.all[-1].closes), "bytes behind the last response"
                request, known = next_request(self._position)
                self.all.append(Answer(request))
                self._connection = h11.Connection(h11.CLIENT)
                method = request.method if known else "GET"
                fields = [("Host", "h")] + [("Content-Length", "0")] * (method == "POST")
                self._connection.send(h11.Request(method=method, target="/", headers=fields))
                self._connection.send(h11.EndOfMessage())
            self._connection.receive_data(data)
            left = self._read()
            self._position += len(data) - len(left)
            data = left

    def end(self) -> None:
        """Take the regular end of the connection."""
        if self._connection is not None:
            self._connection.receive_data(b"")
            try:
                self._read()
            except h11.RemoteProtocolError:
                self._connection = None  # Cut, and the client knows.

    def _read(self) -> bytes:
        """Read what has arrived; return what is behind the end of the response."""
        assert self._connection is not None
        answer = self.all[-1]
        while True:  # Ends with the bytes.
            match self._connection.next_event():
                case h11.NEED_DATA:
                    return b""
                case h11.InformationalResponse(status_code=status):
                    assert status == 100
                    answer.continues += 1
                case h11.Response() as response:
                    answer.status = response.status_code
                    for name, value in response.headers:
                        assert name.decode() not in answer.fields, "a field came twice"
                        answer.fields[name.decode()] = value.decode()
                case h11.Data(data=data):
                    answer.body += data
                case h11.EndOfMessage():
                    answer.complete = True
                    left: bytes = self._connection.trailing_data[0]
                    self._connection = None
                    return left
                case event:
                    raise AssertionError(f"unexpected: {event}")


class _KernelTransfer(MemoryTransfer):
    """A file that a kernel sends, which knows when the client has gone."""

    def __init__(self, peer: "Peer", part: FilePart, on_end: Callable[[bool], None]) -> None:
        super().__init__(peer, part, on_end)
        self._peer = peer

    def send(self) -> None:
        if self._peer.is_gone and not self.closed:
            self._peer.abort()
        else:
            super().send()


class _CopyingTransfer(MemoryTransfer):
    """A file that goes through the buffer of a wire, piece by piece, as it has to for TLS."""

    def __init__(
        self, peer: "Peer", timers: ManualTimers, part: FilePart, on_end: Callable[[bool], None]
    ) -> None:
        super().__init__(peer, part, on_end)
        self._peer = peer
        self._timers = timers

    def send(self) -> None:
        if self.closed:
            return
        part = self.part
        data = os.pread(part.descriptor, min(part.size, COPIED), part.offset)
        if data:
            self._peer.write([data])
            if self.closed:
                return  # Memory is short.
        part.offset += len(data)
        part.size -= len(data)
        if not data or not part.size:
            self.end(complete=bool(data))
        elif not self._peer.buffered:
            self._timers.call_soon(self.send)


class Peer(MemoryWire):
    """A wire with its client. ``tls``: nothing is sent past it, and it cannot be half-closed."""

    def __init__(self, timers: ManualTimers, *, tls: bool) -> None:
        super().__init__(timers)
        self._timers = timers
        self.tls = tls
        self.is_plain = self.can_half_close = not tls
        self.made_at = timers.now
        self.requests: list[Request] = []
        self.answers = Answers()
        # What the client has made and not sent, what is on its way, and how much has arrived.
        self.unwritten = bytearray()
        self.inbox = bytearray()
        self.delivered = 0
        # Whether the client has ended its side, whether the server knows, and whether the client
        # takes nothing any more, which the kernel answers with a reset; and whether it has.
        self.ended = False
        self._end_told = False
        self.deaf = False
        self.is_gone = False
        # Where in the stream of responses something was written: what had arrived by then.
        self._written: dict[int, int] = {}
        self._read = 0
        self._end_read = False

    @property
    def in_flight(self) -> bool:
        """Whether anything is on its way."""
        return bool(self.unwritten or self.inbox or self.pending)

    # The client.

    def add(self, request: Request) -> None:
        """Make a request, to be sent."""
        last = self.requests[-1].end if self.requests else 0
        request.begin = last
        self.requests.append(request)
        self.unwritten += request.head + request.behind

    def say(self, size: int) -> None:
        """Send some of what was made."""
        self.inbox += self.unwritten[:size]
        del self.unwritten[:size]

    def read(self) -> None:
        """Read what has arrived from the server."""
        if self.deaf:
            return
        self.answers.feed(bytes(self.sent[self._read :]), self._request_at)
        self._read = len(self.sent)
        if not self._end_read and (self.lost or (self.half_closed and not self.pending)):
            self._end_read = True
            # A kernel that closes a socket with unread bytes sends a reset too.
            if not (self.lost and (self.is_gone or self.was_reset or self.inbox)):
                self.answers.end()

    def _request_at(self, position: int) -> tuple[Request, bool]:
        """Return the request to which a response at this place is, and whether its head is known"""
        arrived = self._written[position]
        number = len(self.answers.all)
        assert number < len(self.requests), "a response to nothing"
        request = self.requests[number]
        assert arrived > request.begin, "a response before its request"
        return request, arrived >= request.begin + len(request.head)

    # The kernel and the loop.

    def poll(self) -> bool:
        """Tell the server what has happened. Return whether anything has."""
        if self.lost:
            return False
        reads = self.reading and not self.is_closing and not self._end_told
        sends = bool(self.pending or (self.file is not None and not self.file.closed))
        if self.is_gone:
            if reads or self.pending:
                self.fail()
            elif sends:
                self.send()
            return reads or sends
        if sends and self.capacity != 0:
            self.send()
        elif self.inbox and reads:
            data = bytes(self.inbox[:RECEIVE])
            del self.inbox[:RECEIVE]
            self.delivered += len(data)
            self.owner.receive(data)
        elif self.ended and reads:
            self._end_told = True
            self.owner.receive_end()
        else:
            return False
        return True

    # The wire.

    def write(self, pieces: list[bytes]) -> None:
        self._note_write()
        if self.is_gone and not self.is_closing:
            self.fail()
        else:
            super().write(pieces)

    def send(self) -> None:
        if self.deaf and self.pending and self.capacity != 0:
            # The kernel takes it; what comes back is a reset.
            self.capacity = None
            self.is_gone = True
        super().send()

    def send_now(self, pieces: list[bytes]) -> int:
        assert not self.half_closed, "written behind the end"
        assert not self.pending, "bytes overtake what is buffered"
        if self.is_gone or self.is_closing or self.capacity == 0:
            return 0
        return super().send_now(pieces)

    def send_file(self, part: FilePart, on_end: Callable[[bool], None]) -> FileTransfer:
        if self.tls:
            return _CopyingTransfer(self, self._timers, part, on_end)
        self.file = _KernelTransfer(self, part, on_end)
        return self.file

    def take_now(self, data: bytes) -> None:
        self._note_write()
        super().take_now(data)
        self.is_gone = self.is_gone or self.deaf

    def _note_write(self) -> None:
        self._written.setdefault(len(self.sent) + len(self.pending), self.delivered)
