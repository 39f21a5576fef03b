"""A body whose length the server knows is never withheld: chunked ones get a CONTENT_LENGTH."""

from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
from raw_client import StartServer, connect, on_each_loop

POST = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n"


def chunks(body: bytes, size: int = 999) -> bytes:
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def describe(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with the length that was announced, and with the one that was found."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    announced = environ.get("CONTENT_LENGTH", "none")
    assert environ["wsgi.input_terminated"]
    assert "HTTP_TRANSFER_ENCODING" not in environ
    return [f"{announced} {len(environ['wsgi.input'].read(-1))}".encode()]


@on_each_loop
@pytest.mark.parametrize("size", [0, 1, 5000, 9999])
async def test_a_chunked_body_that_has_arrived_whole_has_a_length(
    start_server: StartServer, size: int
) -> None:
    server = await start_server(describe, body_prefetch=10_000)
    async with await connect(server) as client:
        # What is remembered of the header section holds no length of another body.
        for body in (b"x" * size, b"xyz", b"x" * size):
            response = await client.request(POST + b"\r\n" + chunks(body))
            assert response.body == b"%d %d" % (len(body), len(body))


async def test_a_chunked_body_that_is_streamed_has_none(start_server: StartServer) -> None:
    server = await start_server(describe, body_prefetch=10_000)
    async with await connect(server) as client:
        assert (await client.request(POST + b"\r\n" + chunks(b"x" * 10_001))).body == b"none 10001"
        # The client waits for the application, which does not know either.
        await client.send(POST + b"Expect: 100-continue\r\n\r\n")
        assert await client.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(chunks(b"x" * 5))
        assert (await client.receive()).body == b"none 5"


async def test_a_request_without_a_body_has_none(start_server: StartServer) -> None:
    server = await start_server(describe)
    async with await connect(server) as client:
        assert (await client.request(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")).body == b"none 0"
