"""The kinds of traffic: what clients do, and what they must be answered.

Each kind is a coroutine that makes one visit. It raises `Wrong` or `Incomplete`, or lets an
`OSError` through, where the server did what it must not.
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from benchmarks.soak import app
from benchmarks.soak.connection import Answer, Connection, Incomplete, Wrong

_SMALL_BUFFER = 16 * 1024
# Around the sizes from which the server buffers, streams, or blocks a thread.
_UPLOAD_SIZES = (0, 1, 1000, 65_536, 300_000, (1 << 20) - 1, (1 << 20) + 1, 3_000_000)
_DOWNLOAD_SIZES = (0, 1, 5000, 65_536, 700_000, (1 << 20) + 1, app.MAX_SIZE)


@dataclass(frozen=True, slots=True)
class Visitor:
    """What one visit has at hand."""

    connect: Callable[..., AbstractAsyncContextManager[Connection]]
    """Opens a connection to the server; takes the keyword arguments of `Connection.open`."""
    random: random.Random
    may_be_killed: bool = False
    """Whether the server may be killed meanwhile."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of traffic."""

    name: str
    clients: int
    """How many clients do it at the same time, each one visit after the other."""
    visit: Callable[[Visitor], Awaitable[None]]


def _request(
    target: str, *fields: str, method: str = "GET", body: bytes = b"", version: str = "1.1"
) -> bytes:
    """Return the bytes of a request; `fields` are whole lines."""
    lines = [f"{method} {target} HTTP/{version}", "Host: soak", *fields, "", ""]
    return "\r\n".join(lines).encode("ascii") + body


def _upload(body: bytes, *fields: str, target: str = "/digest") -> bytes:
    return _request(target, f"Content-Length: {len(body)}", *fields, method="POST", body=body)


def _expect(answer: Answer, body: bytes, status: int = 200) -> None:
    if answer.status != status:
        raise Wrong(f"status {answer.status} instead of {status}")
    if answer.body != body:
        raise Wrong(f"{len(answer.body)} bytes of body, not the {len(body)} that were expected")


async def _expect_eof(connection: Connection) -> None:
    if extra := await connection.read_until_eof():
        raise Wrong(f"{len(extra)} bytes behind the last answer")


async def _hello(visitor: Visitor) -> None:
    """Requests on one connection, each behind the answer to the last."""
    async with visitor.connect() as connection:
        for _ in range(25):
            _expect(await connection.request(_request("/hello")), app.HELLO)


async def _hello_once(visitor: Visitor) -> None:
    """A connection for a single request."""
    async with visitor.connect() as connection:
        _expect(await connection.request(_request("/hello", "Connection: close")), app.HELLO)
        await _expect_eof(connection)


async def _pipelined(visitor: Visitor) -> None:
    """Many requests at once, answered in their order."""
    bodies = [app.pattern(visitor.random.choice((0, 1, 100, 20_000))) for _ in range(12)]
    requests = [_request(f"/big?size={len(body)}") for body in bodies]
    requests.append(_upload(b"the last one", "Connection: close"))
    async with visitor.connect() as connection:
        await connection.send(b"".join(requests))
        for body in bodies:
            _expect(await connection.receive(), body)
        _expect(await connection.receive(), app.digest(b"the last one"))
        await _expect_eof(connection)


async def _stream(visitor: Visitor) -> None:
    """Responses whose length nobody declared, now and then for a client of HTTP/1.0."""
    async with visitor.connect() as connection:
        for _ in range(3):
            size, piece = visitor.random.choice(
                ((0, 1), (300, 1), (100_000, 1000), (700_000, 65_536), (app.MAX_SIZE, 100_000))
            )
            # Nothing tells the end of such a response from that of a server that was killed.
            old = visitor.random.random() < 0.2 and not visitor.may_be_killed
            target = f"/stream?size={size}&piece={piece}"
            request = _request(target, version="1.0" if old else "1.1")
            _expect(await connection.request(request), app.pattern(size))
            if old:
                break


async def _download(visitor: Visitor) -> None:
    """Files."""
    async with visitor.connect() as connection:
        for _ in range(3):
            size = visitor.random.choice(_DOWNLOAD_SIZES)
            start = app.MAX_SIZE - size
            answer = await connection.request(_request(f"/file?start={start}"))
            _expect(answer, app.pattern(app.MAX_SIZE)[start:])


async def _send_upload(visitor: Visitor) -> None:
    """Uploads with a declared length; some are answered without being read."""
    body = app.pattern(visitor.random.choice(_UPLOAD_SIZES))
    async with visitor.connect() as connection:
        _expect(await connection.request(_upload(body)), app.digest(body))
        ignored = app.pattern(visitor.random.choice((1000, 30_000)))
        answer = await connection.request(_upload(ignored, target="/ignore"))
        _expect(answer, app.IGNORED)
        if answer.fields.get("connection") != "close":
            _expect(await connection.request(_upload(body)), app.digest(body))


async def _send_chunked(visitor: Visitor) -> None:
    """Uploads in chunks."""
    body = app.pattern(visitor.random.choice(_UPLOAD_SIZES))
    async with visitor.connect() as connection:
        await connection.send(_request("/digest", "Transfer-Encoding: chunked", method="POST"))
        start = 0
        while start < len(body):
            chunk = body[start : start + visitor.random.choice((500, 8000, 200_000))]
            start += len(chunk)
            await connection.send(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        _expect(await connection.request(b"0\r\n\r\n"), app.digest(body))


async def _send_expected(visitor: Visitor) -> None:
    """Uploads that wait to be asked for, and may not be wanted."""
    body = app.pattern(visitor.random.choice(_UPLOAD_SIZES[1:]))
    head = _upload(body, "Expect: 100-continue")[: -len(body)]
    async with visitor.connect() as connection:
        await connection.send(head)
        status, _ = await connection.receive_head()
        if status != 100:
            raise Wrong(f"status {status} instead of 100")
        _expect(await connection.request(body), app.digest(body))
        await connection.send(head.replace(b"/digest", b"/ignore"))
        answer = await connection.receive()
        _expect(answer, app.IGNORED)
        if answer.informational:
            raise Wrong("asked for a body that nobody reads")


async def _read_slowly(visitor: Visitor) -> None:
    """A client that takes seconds for a large answer."""
    size = visitor.random.choice((700_000, 3_000_000))
    target, body = visitor.random.choice(
        (
            (f"/big?size={size}", app.pattern(size)),
            (f"/stream?size={size}&piece=50000", app.pattern(size)),
            (f"/file?start={app.MAX_SIZE - size}", app.pattern(app.MAX_SIZE)[-size:]),
        )
    )
    async with visitor.connect(receive_buffer=_SMALL_BUFFER) as connection:
        connection.pause = visitor.random.choice((0.01, 0.03))
        _expect(await connection.request(_request(target)), body)


async def _send_slowly(visitor: Visitor) -> None:
    """A client that takes seconds for its request."""
    body = app.pattern(40_000)
    chunked = visitor.random.random() < 0.5
    if chunked:
        data = _request("/digest", "Transfer-Encoding: chunked", method="POST")
        data += b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    else:
        data = _upload(body)
    async with visitor.connect() as connection:
        for start in range(0, 60, 4):
            await connection.send(data[start : start + 4])
            await asyncio.sleep(0.03)
        for start in range(60, len(data), 1500):
            await connection.send(data[start : start + 1500])
            await asyncio.sleep(0.05)
        _expect(await connection.receive(), app.digest(body))


async def _half_close(visitor: Visitor) -> None:
    """Clients that end their side: behind a request, which is answered, or inside one."""
    async with visitor.connect() as connection:
        if visitor.random.random() < 0.7:
            size = visitor.random.choice(_DOWNLOAD_SIZES)
            await connection.send(_request("/sleep?ms=20") + _request(f"/big?size={size}"))
            connection.half_close()
            _expect(await connection.receive(), app.SLEPT)
            _expect(await connection.receive(), app.pattern(size))
            await _expect_eof(connection)
        else:
            # A short body is awaited before there is a thread, a long one with it.
            size = visitor.random.choice((1000, 3_000_000))
            whole = _upload(app.pattern(size))
            await connection.send(whole[: -size // 10])
            connection.half_close()
            _expect_refusal(await connection.read_until_eof())


async def _reset(visitor: Visitor) -> None:
    """Clients that break off in each phase; nothing is expected but that nobody else notices."""
    choose = visitor.random.choice
    big = _upload(app.pattern(3_000_000))
    before, read_first = choose(
        (
            (b"", False),
            (b"GET /hello HT", False),
            (_request("/hello"), False),
            (_request("/hello"), True),
            (_request("/hello") * 10, True),
            (_request("/sleep?ms=50"), False),
            (_request("/sleep?ms=50") * 3, False),
            (big[:200_000], False),
            (big[:2_000_000], False),
            (_request("/digest", "Transfer-Encoding: chunked", method="POST") + b"5\r\nab", False),
            (_upload(b"x", "Expect: 100-continue")[:-1], True),
            (_request(f"/big?size={app.MAX_SIZE}"), True),
            (_request(f"/stream?size={app.MAX_SIZE}&piece=30000"), True),
            (_request("/file?start=0"), True),
        )
    )
    # The server may be the first to break off: it then answers, or closes, while we still send.
    with contextlib.suppress(ConnectionError):
        async with visitor.connect(receive_buffer=_SMALL_BUFFER) as connection:
            await connection.send(before)
            if read_first:
                await connection.read(1000)
            await asyncio.sleep(choose((0, 0, 0.005, 0.03)))
            if visitor.random.random() < 0.7:
                connection.reset()


async def _fail(visitor: Visitor) -> None:
    """Applications that fail: the one place where a 5xx is due."""
    async with visitor.connect() as connection:
        answer = await connection.request(_request("/fail"))
        if answer.status != 500:
            raise Wrong(f"status {answer.status} of a failure")
    async with visitor.connect() as connection:
        with contextlib.suppress(Incomplete, ConnectionResetError):
            answer = await connection.request(_request("/fail-late"))
            raise Wrong(f"{len(answer.body)} bytes of a failed body looked complete")
    # Each failure is a traceback in the log, which has to fit into a file.
    await asyncio.sleep(0.2)


_GARBAGE = (
    b"\r\n\r\n\r\nnonsense\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/9.9\r\nHost: h\r\n\r\n",
    b"GET /\x00 HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET / HTTP/1.1\nHost: h\n\n",
    b"GET / HTTP/1.1\r\nHost: h\r\n folded: yes\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost : h\r\n\r\n",
    b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: h\r\n" + b"X: y\r\n" * 200 + b"\r\n",
    b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"y" * 70_000 + b"\r\n\r\n",
    b"POST /digest HTTP/1.1\r\nHost: h\r\nContent-Length: 5, 6\r\n\r\nabcdef",
    b"POST /digest HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n",
    b"POST /digest HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999\r\n\r\n",
    b"POST /digest HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0",
    b"POST /digest HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n",
    b"POST /digest HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nab\r\n0\r\n\r\n",
    b"POST /digest HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcdef0\r\n\r\n",
)


async def _garbage(visitor: Visitor) -> None:
    """What is no request: refused, and the connection closed."""
    if noise := visitor.random.random() < 0.3:
        data = visitor.random.randbytes(visitor.random.choice((1, 50, 5000, 100_000)))
    else:
        data = visitor.random.choice(_GARBAGE)
    received = b""
    # It may stop reading, and close, before it has seen all of it.
    with contextlib.suppress(ConnectionError):
        async with visitor.connect() as connection:
            await connection.send(data)
            connection.half_close()
            received = await connection.read_until_eof()
    _expect_refusal(received)
    if not noise and not received:
        raise Incomplete(f"no answer to {data[:60]!r}")


def _expect_refusal(received: bytes) -> None:
    """Raise `Wrong` unless there is nothing, or a refusal that blames the client."""
    if received and not received.startswith((b"HTTP/1.1 4", b"HTTP/1.1 501 ", b"HTTP/1.1 505 ")):
        raise Wrong(f"answered {received[:60]!r}")


KINDS = (
    Kind("hello", 4, _hello),
    Kind("hello-once", 3, _hello_once),
    Kind("pipelined", 2, _pipelined),
    Kind("stream", 2, _stream),
    Kind("file", 2, _download),
    Kind("upload", 2, _send_upload),
    Kind("upload-chunked", 2, _send_chunked),
    Kind("upload-expect", 2, _send_expected),
    Kind("slow-reader", 6, _read_slowly),
    Kind("slow-sender", 6, _send_slowly),
    Kind("half-close", 2, _half_close),
    Kind("reset", 4, _reset),
    Kind("garbage", 2, _garbage),
    Kind("failure", 1, _fail),
)
