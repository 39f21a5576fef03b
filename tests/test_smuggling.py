"""Request smuggling against the server alone: each technique of ``smuggling`` over a socket.

A request is read in exactly the way its entry states, or it is refused and nothing behind it is
read. Neither depends on how the bytes arrive, nor on whether the application reads its input.
"""

import asyncio
import contextlib
import socket
from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
from extent import sampled
from raw_client import RawClient, Response, StartServer, connect
from smuggling import OUTER, PIPELINED, SMUGGLED, TECHNIQUES, Request, Technique

NEXT = "GET /next"
NEXT_DATA = b"GET /next HTTP/1.1\r\nHost: h\r\n\r\n"


class Recorder:
    """An application that notes each request, and answers with its method and target."""

    def __init__(self) -> None:
        # Whether it reads its input. What it does not read, the server has to get rid of.
        self.reads = True
        self.seen: list[Request] = []

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(-1) if self.reads else b""
        request = f"{environ['REQUEST_METHOD']} {environ['REQUEST_URI']}"
        self.seen.append((request, body))
        fields = [("Content-Type", "text/plain"), ("Content-Length", "2"), ("X-Request", request)]
        start_response("200 OK", fields)
        return [b"ok"]

    def take(self) -> list[Request]:
        """Return what was noted, and forget it."""
        seen, self.seen = self.seen, []
        return seen


async def send(client: RawClient, data: bytes, *, dribbled: bool = False) -> None:
    """Send ``data`` at once or in many pieces, as far as the server lets it."""
    # Else the kernel would put the pieces together again.
    client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # A few bytes each. Byte by byte is the parser's own test, of a corpus.
    size = 1 + len(data) // 50 if dribbled else len(data)
    with contextlib.suppress(ConnectionError):
        for start in range(0, len(data), size):
            await client.send(data[start : start + size])
            # The server runs on the same loop, and reads what is there before this goes on.
            await asyncio.sleep(0)


async def is_ended(client: RawClient) -> bool:
    """Send requests that are too late; return whether there is nothing but the end."""
    await send(client, SMUGGLED * 2)
    try:
        return await client.read_until_eof() == b""
    except ConnectionResetError:  # It was closed before they came.
        return True


def says_close(response: Response) -> bool:
    return response.get("connection") == "close"


async def attack(client: RawClient, technique: Technique, *, dribbled: bool) -> list[Request]:
    """Hold the server to an entry; return the requests that must have reached the application."""
    await send(client, technique.data, dribbled=dribbled)
    closing = False
    for request, _ in technique.requests:
        assert not closing
        response = await client.receive(request.partition(" ")[0])
        assert response.status == 200
        assert response.get("x-request") == request
        closing = says_close(response)
    expected = list(technique.requests)
    match technique.end:
        case "open":
            response = await client.request(NEXT_DATA)
            assert response.get("x-request") == NEXT
            expected.append((NEXT, b""))
        case "closed":
            assert closing
            assert await is_ended(client)
        case "waits":
            client.half_close()
            response = await client.receive()
            assert response.status == 400
            assert says_close(response)
            assert await client.read_until_eof() == b""
        case status:
            response = await client.receive()
            assert response.status == status
            assert says_close(response)
            assert await is_ended(client)
    return expected


@pytest.mark.parametrize(
    "technique", sampled(TECHNIQUES, one_in=2), ids=lambda technique: technique.name
)
async def test_technique_is_refused_or_read_in_the_stated_way(
    start_server: StartServer, technique: Technique
) -> None:
    app = Recorder()
    server = await start_server(app, validate=False)
    for app.reads, dribbled in [(True, False), (True, True), (False, False)]:
        async with await connect(server) as client:
            expected = await attack(client, technique, dribbled=dribbled)
        seen = app.take()
        if app.reads:
            assert seen == expected
        else:
            assert [request for request, _ in seen] == [request for request, _ in expected]
    # Nor does anything come later.
    server.close()
    await server.wait_closed()
    assert app.take() == []


@pytest.mark.parametrize(
    "technique", sampled(TECHNIQUES, one_in=2), ids=lambda technique: technique.name
)
async def test_nothing_is_smuggled_past_an_application_that_answers_early(
    start_server: StartServer, technique: Technique
) -> None:
    """It has answered when most of the body comes, whether or not that turns out to be sound."""
    app = Recorder()
    app.reads = False
    server = await start_server(app, validate=False, body_prefetch=1)
    async with await connect(server) as client:
        await send(client, technique.data, dribbled=True)
        with contextlib.suppress(OSError):
            client.half_close()
        with contextlib.suppress(ConnectionResetError):
            await client.read_until_eof()
    server.close()
    await server.wait_closed()
    # Also not a part of it: the body may have been left at any byte.
    seen = [request for request, _ in app.take() if "/smuggled" in request]
    assert seen == [request for request, _ in technique.requests if "/smuggled" in request]


async def test_body_that_was_held_back_is_not_taken_from_the_next_request(
    start_server: StartServer,
) -> None:
    """Nobody asked for it, so whatever comes next is a request, or the body after all."""
    app = Recorder()
    app.reads = False
    server = await start_server(app)
    async with await connect(server) as client:
        response = await client.request(
            b"POST /outer HTTP/1.1\r\nHost: h\r\nContent-Length: 35\r\nExpect: 100-continue\r\n\r\n"
        )
        assert response.status == 200
        assert not response.informational
        assert says_close(response)
        assert await is_ended(client)
    assert app.take() == [OUTER]


async def test_embedded_request_would_be_noticed(start_server: StartServer) -> None:
    """Wherever its bytes are taken for a request, the application gets it."""
    app = Recorder()
    server = await start_server(app)
    async with await connect(server) as client:
        assert (await client.request(SMUGGLED)).get("x-request") == PIPELINED[0]
    assert app.take() == [PIPELINED]


def test_every_technique_embeds_a_request_under_a_name_of_its_own() -> None:
    assert len({technique.name for technique in TECHNIQUES}) == len(TECHNIQUES)
    for technique in TECHNIQUES:
        assert technique.known
        assert SMUGGLED.partition(b"\r\n")[0] in technique.data, technique.name
        # Once at the most, and nothing is read behind it.
        assert PIPELINED not in technique.requests[:-1], technique.name
