"""A close is announced where it can be known (RFC 9112 §9.6): by the server or the application."""

import logging
import threading
from collections.abc import Iterable, Iterator
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import pytest
from log_records import loud
from raw_client import TIMEOUT, RawClient, Response, StartServer, connect, in_thread, on_each_wire

from aiowsgi.connection.receiver import MAX_DROPPED_BYTES
from aiowsgi.wsgi import headers

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
PREFETCH = 1 << 20


def answering(*fields: tuple[str, str], status: str = "200 OK") -> WSGIApplication:
    """Make an application that reads nothing of a request."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response(status, [("Content-Type", "text/plain"), *fields])
        return [b"hello"]

    return app


def echo(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    body = environ["wsgi.input"].read(-1)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"%d" % len(body)]


def says_close(response: Response) -> bool:
    return response.get("connection") == "close"


async def assert_ended(client: RawClient) -> None:
    client.half_close()
    assert await client.read_until_eof() == b""


def length_head(size: int) -> bytes:
    return b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % size


@on_each_wire
@pytest.mark.parametrize("pieces", [1, 3, 2000])
async def test_last_response_is_complete_though_the_client_takes_it_in_parts(
    start_server: StartServer, pieces: int
) -> None:
    body = [bytes([number % 251]) * ((4 << 20) // pieces) for number in range(pieces)]

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        length = str(sum(map(len, body)))
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", length)])
        return body

    async with await connect(await start_server(app)) as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        assert (await client.receive()).body == b"".join(body)
        assert await client.read_until_eof() == b""


# By the server.


@on_each_wire
@pytest.mark.parametrize("left", [0, 1, MAX_DROPPED_BYTES, MAX_DROPPED_BYTES + 1, 1 << 30])
async def test_what_is_left_of_an_unread_body_decides(start_server: StartServer, left: int) -> None:
    server = await start_server(answering(), limit_request_body=1 << 31)
    async with await connect(server) as client:
        # All of it is there but what is left, or as much as makes a thread begin.
        await client.send(length_head(PREFETCH + left) + b"x" * PREFETCH)
        response = await client.receive()
        assert response.body == b"hello"
        assert says_close(response) is (left > MAX_DROPPED_BYTES)
        if left <= MAX_DROPPED_BYTES:
            await client.send(b"x" * left)
            assert (await client.request(GET)).status == 200
        else:
            await assert_ended(client)


@on_each_wire
async def test_a_chunked_body_that_fills_the_buffer_unread_ends_the_connection(
    start_server: StartServer,
) -> None:
    server = await start_server(answering())
    async with await connect(server) as client:
        await client.send(CHUNKED + b"%x\r\n%b\r\n" % (PREFETCH, b"x" * PREFETCH))
        assert says_close(await client.receive())
        await assert_ended(client)


@on_each_wire
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_a_body_that_is_read_keeps_the_connection(
    start_server: StartServer, chunked: bool
) -> None:
    server = await start_server(echo)
    size = PREFETCH + 2 * MAX_DROPPED_BYTES
    head, end = (
        (CHUNKED + b"%x\r\n" % size, b"\r\n0\r\n\r\n") if chunked else (length_head(size), b"")
    )
    async with await connect(server) as client:
        for _ in range(2):
            response = await client.request(head + b"x" * size + end)
            assert response.body == b"%d" % size
            assert not says_close(response)


@pytest.mark.parametrize("first", [0, 1])
async def test_an_application_that_reads_behind_its_head_gets_its_body(
    start_server: StartServer, first: int
) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        before = environ["wsgi.input"].read(first)
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"read "
        yield b"%d" % len(before + environ["wsgi.input"].read(-1))

    server = await start_server(app)
    size = 4 * PREFETCH
    async with await connect(server) as client:
        response = await client.request(length_head(size) + b"x" * size)
        assert response.body == b"read %d" % size
        # Whoever has begun to read may go on.
        assert says_close(response) is (not first)


async def test_an_application_that_has_answered_reads_no_more(start_server: StartServer) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        environ["wsgi.input"].read(1)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"hello"]

    # The validator would hide that the answer is complete.
    server = await start_server(app, validate=False)
    async with await connect(server) as client:
        await client.send(length_head(1 << 30) + b"x" * PREFETCH)
        assert says_close(await client.receive())
        await assert_ended(client)


@on_each_wire
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
@pytest.mark.parametrize("number", [1, 3])
async def test_the_last_answer_to_a_client_that_has_ended_its_side(
    start_server: StartServer, number: int, version: bytes
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        begun.set()
        assert go_on.wait(TIMEOUT)
        return answering()(environ, start_response)

    # The validator would hide the list, and with it the length.
    server = await start_server(app, validate=False)
    async with await connect(server) as client, await connect(server) as other:
        get = b"GET / HTTP/%b\r\nHost: h\r\nConnection: keep-alive\r\n\r\n" % version
        await client.send(get * number)
        client.half_close()
        await in_thread(begun.wait, TIMEOUT)
        # The end of the client's side has been seen by now.
        assert (await other.request(b"GET / HTTP/3.7\r\n\r\n")).status == 505
        go_on.set()
        said = [says_close(await client.receive()) for _ in range(number)]
        assert said == [False] * (number - 1) + [True]
        assert await client.read_until_eof() == b""


# By the application.


@pytest.fixture(autouse=True)
def said_nothing_yet() -> Iterator[None]:
    """What is said once a process is said once a test."""
    headers.warn_of_ignored.cache_clear()
    yield
    headers.warn_of_ignored.cache_clear()


@on_each_wire
@pytest.mark.parametrize("value", ["close", "Close", "keep-alive, close", "close ,x-foo", ",close"])
async def test_an_application_may_close(start_server: StartServer, value: str) -> None:
    server = await start_server(answering(("Connection", value)), validate=False)
    async with await connect(server) as client:
        await client.send(GET)
        head = await client.read_until(b"\r\n\r\n")
        assert head.lower().count(b"connection:") == 1
        assert b"\r\nConnection: close\r\n" in head
        assert await client.read_until_eof() == b"hello"


@pytest.mark.parametrize(
    "fields",
    [
        [("Connection", "keep-alive")],
        [("connection", "Keep-Alive"), ("Keep-Alive", "timeout=5, max=100")],
        [("Connection", "x-foo")],
        [("Connection", "")],
        [("Proxy-Connection", "keep-alive")],
        [("Trailer", "X-Checksum")],
    ],
    ids=str,
)
async def test_what_belongs_to_the_server_is_left_out_and_said_once(
    start_server: StartServer, caplog: pytest.LogCaptureFixture, fields: Any
) -> None:
    server = await start_server(answering(*fields, ("X-Own", "1")), validate=False)
    with caplog.at_level(logging.WARNING, "aiowsgi.error"):
        async with await connect(server) as client:
            for _ in range(3):
                response = await client.request(GET)
                assert (response.status, response.body) == (200, b"hello")
                names = {name for name, _ in response.fields}
                assert names.isdisjoint(name.lower() for name, _ in fields)
                assert response.get("x-own") == "1"
    messages = [record.getMessage() for record in loud(caplog)]
    assert len(messages) == len(fields)
    for message, (name, _) in zip(messages, fields, strict=True):
        assert name.title() in message
        assert "Remove it" in message


@pytest.mark.parametrize("value", ["close", "keep-alive"])
async def test_the_connection_of_a_1_0_client_is_announced_once(
    start_server: StartServer, value: str
) -> None:
    server = await start_server(answering(("Connection", value)), validate=False)
    async with await connect(server) as client:
        await client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        head = await client.read_until(b"\r\n\r\n")
        assert head.lower().count(b"connection:") == 1
        assert b"\r\nConnection: %b\r\n" % value.encode() in head


@pytest.mark.parametrize(
    "fields",
    [
        [("Connection", "upgrade")],
        [("Connection", "Upgrade, close")],
        [("Upgrade", "websocket")],
        [("Transfer-Encoding", "chunked")],
        [("TE", "trailers")],
    ],
    ids=str,
)
async def test_what_the_server_does_not_do_is_an_error(
    start_server: StartServer, caplog: pytest.LogCaptureFixture, fields: Any
) -> None:
    server = await start_server(answering(*fields), validate=False)
    async with await connect(server) as client:
        assert (await client.request(GET)).status == 500
    assert "remove it" in caplog.text
