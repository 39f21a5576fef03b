"""HTTP/1.1 as a client sees it: persistence, order, framing, expectations, refusals, failures."""

import asyncio
import contextlib
import contextvars
import itertools
import logging
import re
import threading
from collections.abc import Iterable, Iterator
from email.utils import parsedate_to_datetime
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import pytest
from log_records import loud
from memory import MemoryConnection
from raw_client import (
    TIMEOUT,
    Incomplete,
    StartServer,
    connect,
    in_thread,
    on_each_loop,
    on_each_wire,
)

PLAIN = [("Content-Type", "text/plain")]
GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
GET_CLOSE = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
GET_10 = b"GET / HTTP/1.0\r\n\r\n"
GET_10_KEPT = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"

Chunks = list[bytes]


def post(
    size: int, *more: bytes, body: bytes | None = None, path: bytes = b"/", version: bytes = b"1.1"
) -> bytes:
    fields = [b"Host: h", b"Content-Length: %d" % size, *more]
    head = b"POST %b HTTP/%b\r\n%b\r\n\r\n" % (path, version, b"\r\n".join(fields))
    return head + (b"x" * size if body is None else body)


def path_app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [*PLAIN])
    return [environ["PATH_INFO"].encode("latin-1")]


def echo(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    body = environ["wsgi.input"].read(-1)
    start_response("200 OK", [*PLAIN])
    return [body]


def answering(*chunks: bytes, status: str = "200 OK", fields: Any = ()) -> WSGIApplication:
    """Make an application that yields the chunks one by one."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response(status, [*PLAIN, *fields])
        yield from chunks

    return app


# --- persistence ---------------------------------------------------------------------------------


@on_each_wire
async def test_connection_in_1_1_is_kept(start_server: StartServer) -> None:
    server = await start_server(path_app)
    async with await connect(server) as client:
        for number in range(5):
            response = await client.request(b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % number)
            assert response.body == b"/%d" % number
            assert response.get("connection") is None
            assert response.http_version == "1.1"


@on_each_wire
async def test_connection_in_1_0_is_kept_when_asked_for(start_server: StartServer) -> None:
    # The validator would hide the list, and with it the length.
    server = await start_server(path_app, validate=False)
    async with await connect(server) as client:
        for _ in range(3):
            response = await client.request(GET_10_KEPT)
            assert response.get("connection") == "keep-alive"
            assert response.get("content-length") == "1"
        response = await client.request(GET_10)
        assert response.get("connection") == "close"
        assert await client.read_until_eof() == b""


@on_each_wire
@pytest.mark.parametrize("request_bytes", [GET_10, GET_CLOSE], ids=["1.0", "close"])
async def test_connection_is_closed_when_the_client_wants_no_more(
    start_server: StartServer, request_bytes: bytes
) -> None:
    server = await start_server(path_app)
    async with await connect(server) as client:
        response = await client.request(request_bytes)
        assert response.status == 200
        assert response.get("connection") == "close"
        assert await client.read_until_eof() == b""


async def test_request_behind_connection_close_is_not_executed(start_server: StartServer) -> None:
    calls: list[str] = []

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        calls.append(environ["PATH_INFO"])
        return path_app(environ, start_response)

    server = await start_server(app)
    async with await connect(server) as client:
        await client.send(GET_CLOSE + b"GET /behind HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (await client.receive()).body == b"/"
        assert await client.read_until_eof() == b""
    server.close()
    await server.wait_closed()
    assert calls == ["/"]


# --- pipelining ----------------------------------------------------------------------------------


@on_each_wire
async def test_pipelined_requests_are_answered_in_order_with_a_slow_first_one(
    start_server: StartServer,
) -> None:
    """CVE-2024-41671: twisted.web answered pipelined requests out of order."""
    begun, go_on = threading.Event(), threading.Event()
    order: list[str] = []

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        order.append(environ["PATH_INFO"])
        if environ["PATH_INFO"] == "/0":
            begun.set()
            assert go_on.wait(TIMEOUT)
        return path_app(environ, start_response)

    server = await start_server(app)
    async with await connect(server) as client, await connect(server) as other:
        await client.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % n for n in range(6)))
        await in_thread(begun.wait, TIMEOUT)
        # There are free threads, and they serve others: only this connection has to wait.
        for _ in range(3):
            response = await other.request(b"GET /other HTTP/1.1\r\nHost: h\r\n\r\n")
            assert response.body == b"/other"
        assert order == ["/0", *["/other"] * 3]
        go_on.set()
        for number in range(6):
            assert (await client.receive()).body == b"/%d" % number
        assert order[4:] == [f"/{number}" for number in range(1, 6)]


@on_each_wire
async def test_hundreds_of_pipelined_requests_with_bodies_are_answered_in_order(
    start_server: StartServer,
) -> None:
    server = await start_server(echo)
    bodies = [b"%d" % number * (number % 7) for number in range(300)]
    requests = b"".join(
        post(len(body), body=body)
        if number % 2
        else b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
        + (b"%x\r\n%b\r\n" % (len(body), body) if body else b"")
        + b"0\r\n\r\n"
        for number, body in enumerate(bodies)
    )
    async with await connect(server) as client:
        sending = asyncio.create_task(client.send(requests))
        assert [(await client.receive()).body for _ in bodies] == bodies
        await sending


# --- framing of responses ------------------------------------------------------------------------


@on_each_wire
async def test_response_of_unknown_length_is_chunked(start_server: StartServer) -> None:
    server = await start_server(answering(b"one", b"", b"two"))
    async with await connect(server) as client:
        response = await client.request(GET)
        assert response.get("transfer-encoding") == "chunked"
        assert response.get("content-length") is None
        assert response.body == b"onetwo"
        # The connection goes on.
        assert (await client.request(GET)).body == b"onetwo"


async def test_chunks_are_sent_as_the_application_makes_them(start_server: StartServer) -> None:
    go_on = threading.Event()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [*PLAIN])
        yield b"one"
        assert go_on.wait(TIMEOUT)
        yield b"two"

    server = await start_server(app)
    async with await connect(server) as client:
        await client.send(GET)
        assert (await client.read_until(b"3\r\none")).startswith(b"HTTP/1.1 200 OK\r\n")
        go_on.set()
        assert await client.read_until(b"0\r\n\r\n") == b"\r\n3\r\ntwo\r\n0\r\n\r\n"


@on_each_wire
@pytest.mark.parametrize("request_bytes", [GET_10, GET_10_KEPT], ids=["1.0", "1.0 keep-alive"])
async def test_response_of_unknown_length_ends_the_connection_in_1_0(
    start_server: StartServer, request_bytes: bytes
) -> None:
    server = await start_server(answering(b"one", b"two"))
    async with await connect(server) as client:
        response = await client.request(request_bytes)
        assert response.get("transfer-encoding") is None
        assert response.get("content-length") is None
        assert response.get("connection") == "close"
        assert response.body == b"onetwo"


@pytest.mark.parametrize(
    ("result", "length"), [([b"hello"], "5"), ([], "0"), ([b""], "0"), ([b"he", b"llo"], "5")]
)
async def test_content_length_is_added_where_the_body_is_known(
    start_server: StartServer, result: Chunks, length: str
) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [*PLAIN])
        return result

    # The validator would hide the list.
    server = await start_server(app, validate=False)
    async with await connect(server) as client:
        response = await client.request(GET)
        assert response.get("content-length") == length
        assert response.get("transfer-encoding") is None
        assert response.body == b"".join(result)


async def test_content_length_is_added_where_an_iterator_yields_nothing(
    start_server: StartServer,
) -> None:
    server = await start_server(answering(b"", b""))
    async with await connect(server) as client:
        assert (await client.request(GET)).get("content-length") == "0"


async def test_date_and_server_are_added(start_server: StartServer) -> None:
    server = await start_server(path_app)
    async with await connect(server) as client:
        response = await client.request(GET)
        assert response.get("server") == "aiowsgi"
        date = response.get("date")
        assert date is not None
        assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", date)
        assert parsedate_to_datetime(date).tzinfo is not None


async def test_date_and_server_of_the_application_are_kept(start_server: StartServer) -> None:
    date = "Thu, 01 Jan 1970 00:00:00 GMT"
    server = await start_server(answering(b"x", fields=[("date", date), ("SERVER", "mine")]))
    async with await connect(server) as client:
        response = await client.request(GET)
        assert response.get("date") == date
        assert response.get("server") == "mine"


@on_each_wire
@pytest.mark.parametrize("status", ["204 No Content", "205 Reset Content", "304 Not Modified"])
async def test_204_205_and_304_have_no_body(start_server: StartServer, status: str) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response(status, [])
        return [b"must not be sent"] if environ["PATH_INFO"] == "/body" else []

    # The validator knows that a 204 with a body is wrong; here it is sent all the same.
    server = await start_server(app, validate=False)
    async with await connect(server) as client:
        for path in (b"/", b"/body"):
            await client.send(b"GET %b HTTP/1.1\r\nHost: h\r\n\r\n" % path)
            head = (await client.read_until(b"\r\n\r\n")).lower()
            assert head.startswith(b"http/1.1 %b\r\n" % status.lower().encode())
            assert b"transfer-encoding" not in head
            # RFC 9110 §15.3.6: of a 205 it has to be said.
            assert (b"\r\ncontent-length: 0\r\n" in head) is status.startswith("205")
            assert status.startswith("205") or b"content-length" not in head
        # What follows is the next response and nothing else.
        assert (await client.request(GET)).status == int(status[:3])


@on_each_wire
@pytest.mark.parametrize("kind", ["list", "iterator", "length"])
async def test_head_has_the_fields_of_get_and_no_body(start_server: StartServer, kind: str) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", PLAIN + ([("Content-Length", "5")] if kind == "length" else []))
        return [b"hello"] if kind == "list" else iter([b"hel", b"lo"])

    server = await start_server(app, validate=False)
    async with await connect(server) as client:
        for _ in range(2):
            await client.send(b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n")
            response = await client.receive("HEAD")
            assert response.status == 200
            assert response.body == b""
            if kind != "iterator":
                assert response.get("content-length") == "5"


async def test_head_of_an_endless_response_ends_and_closes_the_iterable(
    start_server: StartServer,
) -> None:
    closed = threading.Event()
    produced = itertools.count()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [*PLAIN])
        try:
            while True:
                next(produced)
                yield b"x" * 1000
        finally:
            closed.set()

    server = await start_server(app)
    async with await connect(server) as client:
        await client.send(b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (await client.receive("HEAD")).body == b""
        await in_thread(closed.wait, TIMEOUT)
        assert closed.is_set()
        assert next(produced) == 1


# --- request targets -----------------------------------------------------------------------------


async def test_forms_of_request_targets(start_server: StartServer) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [*PLAIN])
        keys = ("REQUEST_METHOD", "PATH_INFO", "QUERY_STRING", "HTTP_HOST", "REQUEST_URI")
        return ["|".join(environ[key] for key in keys).encode("latin-1")]

    # The validator wants a PATH_INFO or a SCRIPT_NAME, and OPTIONS * has neither.
    server = await start_server(app, validate=False)
    for target, expected in {
        b"GET /a%20b?c=d": b"GET|/a b|c=d|h|/a%20b?c=d",
        b"OPTIONS *": b"OPTIONS|||h|*",
        # RFC 9112 §3.2.2: the authority of the target wins over the Host field.
        b"GET http://other:81/a?b": b"GET|/a|b|other:81|http://other:81/a?b",
        b"GET HTTP://other": b"GET|/||other|HTTP://other",
    }.items():
        async with await connect(server) as client:
            response = await client.request(b"%b HTTP/1.1\r\nHost: h\r\n\r\n" % target)
            assert response.body == expected


async def test_connect_is_not_implemented(start_server: StartServer) -> None:
    server = await start_server(path_app)
    async with await connect(server) as client:
        await client.send(b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n")
        # Not a 2xx, so the method does not matter to the reader.
        response = await client.receive()
        assert response.status == 501
        assert b"CONNECT" in response.body
        assert await client.read_until_eof() == b""


# --- expectations --------------------------------------------------------------------------------

EXPECT = b"Expect: 100-continue"


@on_each_loop
async def test_100_is_sent_when_the_application_first_reads(start_server: StartServer) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        begun.set()
        assert go_on.wait(TIMEOUT)
        return echo(environ, start_response)

    server = await start_server(app)
    async with await connect(server) as client, await connect(server) as other:
        await client.send(post(5, EXPECT, body=b""))
        await in_thread(begun.wait, TIMEOUT)
        # A whole exchange on another connection later, nothing has been said.
        assert (await other.request(b"GET / HTTP/3.7\r\n\r\n")).status == 505
        with pytest.raises(BlockingIOError):
            client.socket.recv(1)
        go_on.set()
        assert await client.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        response = await client.request(b"hello")
        assert response.body == b"hello"
        assert response.informational == []
        assert response.get("connection") is None
        # And the connection goes on.
        assert (await client.request(post(2, body=b"hi"))).body == b"hi"


@on_each_wire
async def test_no_100_where_the_application_answers_without_reading(
    start_server: StartServer,
) -> None:
    """What the client sends next may be the body or not: the connection cannot be kept."""
    calls = itertools.count()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        next(calls)
        start_response("401 Unauthorized", [*PLAIN])
        return [b"no"]

    server = await start_server(app)
    async with await connect(server) as client:
        response = await client.request(post(60, EXPECT, body=b""))
        assert response.status == 401
        assert response.informational == []
        assert response.get("connection") == "close"
        # A body that looks like a request is not taken for one.
        await client.send(GET)
        assert await client.read_until_eof() == b""
    assert next(calls) == 1


@on_each_wire
async def test_body_that_came_unasked_needs_no_100_and_no_close(start_server: StartServer) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [*PLAIN])
        return [environ["wsgi.input"].read(-1) if environ["PATH_INFO"] == "/read" else b"unread"]

    server = await start_server(app)
    async with await connect(server) as client:
        for path, expected in ((b"/read", b"hello"), (b"/", b"unread")) * 2:
            response = await client.request(post(5, EXPECT, body=b"hello", path=path))
            assert response.body == expected
            assert response.informational == []
            assert response.get("connection") is None


async def test_body_that_came_before_the_application_read_needs_no_100(
    start_server: StartServer,
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        begun.set()
        assert go_on.wait(TIMEOUT)
        return echo(environ, start_response)

    server = await start_server(app)
    async with await connect(server) as client, await connect(server) as other:
        await client.send(post(5, EXPECT, body=b""))
        await in_thread(begun.wait, TIMEOUT)
        await client.send(b"hello")
        # An exchange on another connection later the body has been seen.
        assert (await other.request(b"GET / HTTP/3.7\r\n\r\n")).status == 505
        go_on.set()
        response = await client.receive()
        assert response.body == b"hello"
        assert response.informational == []


async def test_unknown_expectation_gets_a_417(start_server: StartServer) -> None:
    server = await start_server(echo)
    async with await connect(server) as client:
        response = await client.request(post(5, b"Expect: a-miracle", body=b""))
        assert response.status == 417
        assert response.get("connection") == "close"
        assert await client.read_until_eof() == b""


async def test_expectation_of_a_1_0_client_is_ignored(start_server: StartServer) -> None:
    """RFC 9110 §10.1.1: it would take a 100 for its answer."""
    server = await start_server(echo)
    async with await connect(server) as client:
        response = await client.request(post(5, EXPECT, body=b"hello", version=b"1.0"))
        assert response.status == 200
        assert response.informational == []
        assert response.body == b"hello"


# --- half-close ----------------------------------------------------------------------------------


@on_each_wire
@pytest.mark.parametrize("number", [1, 5])
async def test_client_that_half_closes_gets_its_answers(
    start_server: StartServer, number: int
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        begun.set()
        assert go_on.wait(TIMEOUT)
        return echo(environ, start_response)

    server = await start_server(app)
    async with await connect(server) as client, await connect(server) as other:
        await client.send(b"".join(post(1, body=b"%d" % index) for index in range(number)))
        client.half_close()
        await in_thread(begun.wait, TIMEOUT)
        # The end of the client's side has been seen by now.
        assert (await other.request(b"GET / HTTP/3.7\r\n\r\n")).status == 505
        go_on.set()
        for index in range(number):
            assert (await client.receive()).body == b"%d" % index
        assert await client.read_until_eof() == b""


@on_each_wire
async def test_client_that_half_closes_gets_a_long_answer(start_server: StartServer) -> None:
    chunk = b"x" * 100_000
    server = await start_server(answering(*[chunk] * 30))
    async with await connect(server, receive_buffer=1 << 14) as client:
        await client.send(GET)
        client.half_close()
        assert (await client.receive()).body == chunk * 30
        assert await client.read_until_eof() == b""


@on_each_wire
@pytest.mark.parametrize("part", [GET[:-2], post(10, body=b"abc")], ids=["head", "body"])
async def test_client_that_half_closes_in_mid_request_is_told(
    start_server: StartServer, part: bytes
) -> None:
    calls = itertools.count()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        next(calls)
        return echo(environ, start_response)

    server = await start_server(app)
    async with await connect(server) as client:
        await client.send(part)
        client.half_close()
        assert (await client.receive()).status == 400
        assert await client.read_until_eof() == b""
    assert next(calls) == 0


# --- unread bodies -------------------------------------------------------------------------------


def unread(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [*PLAIN])
    return [b"unread " + environ["PATH_INFO"].encode("latin-1")]


@on_each_wire
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_unread_body_is_dropped_and_the_connection_kept(
    start_server: StartServer, chunked: bool
) -> None:
    server = await start_server(unread, body_prefetch=1000)
    # A body that looks like a request, so that it would be answered if it were taken for one.
    body = (b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n" * 4000)[: 1 << 17]
    if chunked:
        pieces = [body[start : start + 1500] for start in range(0, len(body), 1500)]
        head = b"POST /first HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
        message = head + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
        message += b"0\r\n\r\n"
    else:
        message = post(len(body), body=body, path=b"/first")
    async with await connect(server) as client:
        # The application answers with the body still on its way.
        await client.send(message[:2000])
        assert (await client.receive()).body == b"unread /first"
        await client.send(message[2000:] + b"GET /second HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (await client.receive()).body == b"unread /second"
        client.half_close()
        assert await client.read_until_eof() == b""


@on_each_wire
async def test_unread_body_beyond_the_limit_closes_the_connection(
    start_server: StartServer,
) -> None:
    calls = itertools.count()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        next(calls)
        return unread(environ, start_response)

    server = await start_server(app, body_prefetch=1000)
    requests = b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n" * 20_000
    async with await connect(server) as client:
        await client.send(post(len(requests), body=requests[:2000], path=b"/first"))
        response = await client.receive()
        assert (response.body, response.get("connection")) == (b"unread /first", "close")
        sending = asyncio.create_task(client.send(requests[2000:]))
        # The limit is there to be felt; the answer was read before.
        with contextlib.suppress(ConnectionResetError):
            assert await client.read_until_eof() == b""
        sending.cancel()
        await asyncio.wait([sending])
    assert next(calls) == 1


# --- refusals ------------------------------------------------------------------------------------


@on_each_wire
@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET  / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"GET /" + b"x" * 10_000 + b" HTTP/1.1\r\nHost: h\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"x" * 10_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: h\r\n" + b"X: x\r\n" * 200 + b"\r\n", 431),
        (b"GET / HTTP/2.0\r\nHost: h\r\n\r\n", 505),
        (b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (post(1001, body=b""), 413),
    ],
    ids=["host", "line", "long line", "long field", "many fields", "version", "coding", "body"],
)
async def test_refusal_is_an_answer_with_a_text_and_a_clean_close(
    start_server: StartServer, data: bytes, status: int
) -> None:
    """CVE-2024-49768: and nothing behind it is executed."""
    calls = itertools.count()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        next(calls)
        return path_app(environ, start_response)

    server = await start_server(app, limit_request_body=1000)
    async with await connect(server) as client:
        await client.send(data + GET * 3)
        response = await client.receive()
        assert response.status == status
        assert response.get("connection") == "close"
        content_type = response.get("content-type")
        assert content_type is not None
        assert content_type.startswith("text/plain")
        assert response.body.startswith(b"%d " % status)
        assert response.body.endswith(b"\n")
        assert response.get("content-length") == str(len(response.body))
        await client.send(GET)
        # A reset would raise.
        assert await client.read_until_eof() == b""
    assert next(calls) == 0


@on_each_wire
@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"HEAD / HTTP/1.1\r\n\r\n", 400),
        (b"\r\nHEAD / HTTP/1.1\r\nHost: h\r\nno colon\r\n\r\n", 400),
        (b"HEAD / HTTP/2.0\r\n", 505),
        (b"HEAD nowhere HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"HEAD /" + b"x" * 10_000, 414),
        (b"HEAD / HTTP/1.1\r\nHost: h\r\nContent-Length: 1001\r\n\r\n", 413),
        (b"HEAD / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", 400),
    ],
    ids=["host", "field", "version", "target", "long line", "length", "chunk"],
)
async def test_refused_head_has_no_body(
    start_server: StartServer, data: bytes, status: int
) -> None:
    server = await start_server(path_app, limit_request_body=1000)
    async with await connect(server) as client:
        # Also behind another request.
        assert (await client.request(GET)).status == 200
        await client.send(data)
        head = await client.read_until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status)
        assert b"\r\nConnection: close\r\n" in head
        client.half_close()
        assert await client.read_until_eof() == b""


async def test_head_that_comes_too_slowly_is_refused_without_a_body(
    start_server: StartServer,
) -> None:
    server = await start_server(path_app, timeout_header=0.05)
    async with await connect(server) as client:
        await client.send(b"HEAD / HTTP/1.1\r\nHo")
        assert (await client.read_until(b"\r\n\r\n")).startswith(b"HTTP/1.1 408 ")
        client.half_close()
        assert await client.read_until_eof() == b""


@on_each_wire
async def test_refused_client_that_sends_megabytes_can_still_read_the_answer(
    start_server: StartServer,
) -> None:
    """RFC 9112 §9.6: a reset may destroy an answer that has arrived but was not read."""
    server = await start_server(echo, limit_request_body=1000)
    async with await connect(server) as client:
        # Like most clients: everything is sent before anything is read.
        await client.send(post(5_000_000))
        response = await client.receive()
        assert response.status == 413
        assert await client.read_until_eof() == b""


def test_client_whose_chunks_break_while_the_application_runs_can_read_the_answer() -> None:
    """It may still be sending, also where it asked for the close itself."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        # The bytes arrive while it runs.
        connection.receive(b"1\r\nx\r\nnonsense\r\n" + b"x" * 1000)
        start_response("200 OK", [*PLAIN])
        return [b"unread"]

    connection = MemoryConnection(app, access_log=False)
    head = b"POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n"
    connection.receive(head + EXPECT + b"\r\n\r\n")
    connection.run_job()
    assert connection.sent.endswith(b"unread")
    assert connection.wire.half_closed
    assert not connection.wire.is_closing
    connection.receive(b"x" * 1000)
    connection.end()
    assert connection.closed
    assert not connection.wire.was_aborted


async def test_broken_chunks_are_answered_where_the_application_gives_up(
    start_server: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    begun = threading.Event()
    errors: list[BaseException] = []

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        begun.set()
        try:
            return echo(environ, start_response)
        except ConnectionError as error:
            errors.append(error)
            raise

    caplog.set_level(logging.INFO)
    server = await start_server(app, body_prefetch=10)
    async with await connect(server) as client:
        head = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
        await client.send(head + b"14\r\n" + b"x" * 20)
        await in_thread(begun.wait, TIMEOUT)
        await client.send(b"\r\n14\r\n" + b"x" * 20 + b"!!")
        response = await client.receive()
        assert response.status == 400
        assert b"not followed by CRLF" in response.body
        assert await client.read_until_eof() == b""
    assert "not followed by CRLF" in str(errors[0])
    (warning,) = loud(caplog)
    assert warning.getMessage().startswith('Refused "POST / HTTP/1.1" from 127.0.0.1 with 4')


# --- applications that fail ----------------------------------------------------------------------


class Broken(Exception):
    """What the applications below raise."""


def failing(*chunks: bytes, fields: Any = (), error: type[BaseException] = Broken) -> Any:
    """Make an application that yields the chunks and raises."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [*PLAIN, *fields])
        yield from chunks
        raise error("on purpose")

    return app


@on_each_wire
@pytest.mark.parametrize("error", [Broken, SystemExit, KeyboardInterrupt])
async def test_exception_before_the_head_is_a_500(
    start_server: StartServer, error: type[BaseException]
) -> None:
    server = await start_server(failing(b"", error=error))
    async with await connect(server) as client:
        for _ in range(2):
            response = await client.request(GET)
            assert response.status == 500
            assert response.body == b"500 Internal Server Error\n"


async def test_exception_is_logged_with_traceback_method_path_and_request_id(
    start_server: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    server = await start_server(failing())
    async with await connect(server) as client:
        await client.request(b"GET /some/path?q HTTP/1.1\r\nHost: h\r\n\r\n")
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert re.search(r"GET /some/path\?q \[[0-9a-f]+-1\]", record.getMessage())
    assert record.exc_info is not None
    assert record.exc_info[0] is Broken


@on_each_wire
@pytest.mark.parametrize(
    ("request_bytes", "fields"),
    [(GET, []), (GET, [("Content-Length", "10")]), (GET_10, [("Content-Length", "10")])],
    ids=["chunked", "length", "length 1.0"],
)
async def test_exception_behind_the_head_leaves_the_response_incomplete(
    start_server: StartServer, request_bytes: bytes, fields: Any
) -> None:
    server = await start_server(failing(b"some", fields=fields))
    async with await connect(server) as client:
        await client.send(request_bytes)
        with pytest.raises(Incomplete) as caught:
            await client.receive()
        assert caught.value.received == b"some"


@on_each_wire
async def test_exception_in_a_response_that_the_close_delimits_is_a_reset(
    start_server: StartServer,
) -> None:
    """A regular end would make the response look complete."""
    server = await start_server(failing(b"some"))
    async with await connect(server) as client:
        await client.send(GET_10)
        with pytest.raises(ConnectionResetError):
            await client.read_until_eof()


@on_each_wire
async def test_body_beyond_content_length_is_not_sent(start_server: StartServer) -> None:
    server = await start_server(answering(b"hel", b"lo, world", fields=[("Content-Length", "5")]))
    async with await connect(server) as client:
        for _ in range(2):
            assert (await client.request(GET)).body == b"hello"


@on_each_wire
async def test_body_short_of_content_length_closes_the_connection(
    start_server: StartServer,
) -> None:
    server = await start_server(answering(b"hel", fields=[("Content-Length", "5")]))
    async with await connect(server) as client:
        await client.send(GET)
        with pytest.raises(Incomplete) as caught:
            await client.receive()
        assert caught.value.received == b"hel"


@pytest.mark.parametrize(
    ("body", "message"), [(b"hello!", "1 byte more than"), (b"hell", "1 byte less than")]
)
async def test_wrong_content_length_is_logged(
    start_server: StartServer, caplog: pytest.LogCaptureFixture, body: bytes, message: str
) -> None:
    server = await start_server(answering(body, fields=[("Content-Length", "5")]))
    async with await connect(server) as client:
        await client.send(GET)
        client.half_close()
        await client.read_until_eof()
    server.close()
    await server.wait_closed()
    (record,) = loud(caplog)
    assert message in record.getMessage()
    assert "GET / [" in record.getMessage()


@on_each_wire
async def test_long_responses_that_end_the_connection_reach_slow_readers(
    start_server: StartServer,
) -> None:
    """The last piece and the end of the connection may meet the transport in any state."""
    chunk = b"x" * 30_000
    server = await start_server(answering(*[chunk] * 20))
    for request_bytes in (GET_10, GET_CLOSE) * 4:
        async with await connect(server, receive_buffer=1 << 12) as client:
            assert (await client.request(request_bytes)).body == chunk * 20
            assert await client.read_until_eof() == b""


# --- context variables ---------------------------------------------------------------------------

base: contextvars.ContextVar[str] = contextvars.ContextVar("base", default="unset")
own: contextvars.ContextVar[str] = contextvars.ContextVar("own", default="unset")


class Recorder:
    """An application that notes what it sees in each of its calls, and leaves traces."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, str]] = []

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        self.note("call")
        own.set("call of " + environ["PATH_INFO"])
        start_response("200 OK", [*PLAIN])
        return _Answer(self, environ["PATH_INFO"])

    def note(self, where: str) -> None:
        self.seen.append((where, base.get(), own.get()))


class _Answer:
    def __init__(self, recorder: Recorder, path: str) -> None:
        self._recorder = recorder
        self._path = path
        self._chunks = iter([b"a", b"b"])

    def __iter__(self) -> "_Answer":
        return self

    def __next__(self) -> bytes:
        self._recorder.note("next")
        own.set("next of " + self._path)
        return next(self._chunks)

    def close(self) -> None:
        self._recorder.note("close")


def expected_notes(path: str) -> list[tuple[str, str, str]]:
    """What one request sees: nothing of any other, and all of its own."""
    return [
        ("call", "at start", "unset"),
        ("next", "at start", f"call of {path}"),
        ("next", "at start", f"next of {path}"),
        ("next", "at start", f"next of {path}"),
        ("close", "at start", f"next of {path}"),
    ]


@on_each_wire
async def test_request_sees_a_fresh_copy_of_the_context_of_the_start(
    start_server: StartServer,
) -> None:
    """Call, iterations and close share it, and nothing is left on the thread behind them."""
    recorder = Recorder()
    base.set("at start")
    server = await start_server(recorder, validate=False, threads=1)
    base.set("later")
    async with await connect(server) as client:
        for path in ("/1", "/2", "/3"):
            base.set(path)
            request = f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode()
            assert (await client.request(request)).body == b"ab"
    server.close()
    await server.wait_closed()
    assert recorder.seen == [note for path in ("/1", "/2", "/3") for note in expected_notes(path)]
    assert own.get() == "unset"


@on_each_wire
async def test_context_of_whoever_resumes_reading_does_not_leak(start_server: StartServer) -> None:
    """python/cpython#140947: what calls resume_reading lends its context to all later reads.

    A large upload makes the loop pause and resume reading, in the name of a request that has set
    variables of its own; the requests that are read behind it see none of them.
    """
    recorder = Recorder()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] == "POST":
            own.set("upload")
            while environ["wsgi.input"].read(1 << 16):
                pass
        elif own.get() != "unset":
            raise AssertionError("something leaked")
        if environ["REQUEST_METHOD"] == "POST":
            start_response("200 OK", [*PLAIN])
            return [b"read"]
        return recorder(environ, start_response)

    base.set("at start")
    # One thread, so that each request ends, with its close, before the next one begins.
    server = await start_server(app, validate=False, body_prefetch=1000, threads=1)
    base.set("later")
    own.set("of the host")
    async with await connect(server) as client:
        assert (await client.request(post(2_000_000))).body == b"read"
        for path in ("/1", "/2"):
            request = f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode()
            assert (await client.request(request)).body == b"ab"
    server.close()
    await server.wait_closed()
    assert recorder.seen == [note for path in ("/1", "/2") for note in expected_notes(path)]
