"""``max_keep_alive_requests``: how many requests a connection carries, and how it ends."""

import itertools
from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
from memory import MemoryConnection
from raw_client import StartServer, connect, on_each_loop

CLOSE = b"\r\nConnection: close\r\n"


def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with the path, without a look at the body."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["PATH_INFO"].encode()]


def get(path: str, *, version: str = "1.1", field: str = "X: x") -> bytes:
    return f"GET {path} HTTP/{version}\r\nHost: h\r\n{field}\r\n\r\n".encode()


def answers(connection: MemoryConnection) -> list[bytes]:
    """Return what was sent since the last call, one item a response, and forget it."""
    _, *found = connection.sent.split(b"HTTP/1.1 ")
    connection.wire.sent.clear()
    return found


def assert_over(connection: MemoryConnection) -> None:
    """Check that the connection ends with its client, and that nothing is left of it."""
    assert connection.wire.half_closed
    assert not connection.pool.jobs
    connection.end()
    assert connection.closed
    assert connection.resources.budget.used == 0
    assert len(connection.timers.pending) == 0


@pytest.mark.parametrize("limit", [1, 2, 7])
def test_last_answer_says_so_and_the_connection_ends(limit: int) -> None:
    connection = MemoryConnection(answer, max_keep_alive_requests=limit)
    for number in range(1, limit + 1):
        connection.receive(get(f"/{number}"))
        connection.run_job()
        (response,) = answers(connection)
        assert response.endswith(f"/{number}".encode())
        assert (CLOSE in response) is (number == limit)
    # What comes all the same is dropped.
    connection.receive(get("/more"))
    assert_over(connection)
    assert answers(connection) == []


def test_no_limit_by_default() -> None:
    connection = MemoryConnection(answer)
    for _ in range(1000):
        connection.receive(get("/"))
        connection.run_job()
    assert len(answers(connection)) == 1000
    assert not connection.wire.half_closed


def test_requests_that_were_sent_behind_the_last_one_are_not_run() -> None:
    connection = MemoryConnection(answer, max_keep_alive_requests=2)
    connection.receive(b"".join(get(f"/{number}") for number in range(5)))
    for _ in range(2):
        connection.run_job()
    first, last = answers(connection)
    assert CLOSE not in first
    assert CLOSE in last
    assert_over(connection)


@pytest.mark.parametrize("arrived", [0, 60, 100])
def test_unread_body_of_the_last_request_does_not_hurt_its_answer(arrived: int) -> None:
    connection = MemoryConnection(answer, max_keep_alive_requests=1, body_prefetch=50)
    # The expectation brings the application into play before anything has arrived.
    field = "Content-Length: 100" + "\r\nExpect: 100-continue" * (not arrived)
    connection.receive(get("/", field=field) + b"x" * arrived)
    connection.run_job()
    (response,) = answers(connection)
    assert CLOSE in response
    # Read and dropped: a socket that is closed over unread bytes resets its connection.
    assert not connection.wire.is_closing
    connection.receive(b"x" * 10)
    assert_over(connection)


def test_old_client_that_asked_to_be_kept_is_told_too() -> None:
    connection = MemoryConnection(answer, max_keep_alive_requests=2)
    said = []
    for _ in range(2):
        connection.receive(get("/", version="1.0", field="Connection: keep-alive"))
        connection.run_job()
        (response,) = answers(connection)
        said.append((b"\r\nConnection: keep-alive\r\n" in response, CLOSE in response))
    assert said == [(True, False), (False, True)]
    assert_over(connection)


def test_refused_request_ends_the_connection_at_once() -> None:
    connection = MemoryConnection(answer, max_keep_alive_requests=2)
    connection.receive(get("/"))
    connection.run_job()
    connection.receive(b"nonsense\r\n\r\n")
    first, refused = answers(connection)
    assert CLOSE not in first
    assert refused.startswith(b"400 ")
    assert_over(connection)


@on_each_loop
async def test_every_connection_has_its_own_count(start_server: StartServer) -> None:
    server = await start_server(answer, max_keep_alive_requests=3)
    numbers = itertools.count()
    async with await connect(server) as one, await connect(server) as other:
        for limit_is_reached in (False, False, True):
            for client in (one, other):
                path = f"/{next(numbers)}"
                response = await client.request(get(path))
                assert response.body == path.encode()
                assert response.get("connection") == ("close" if limit_is_reached else None)
        for client in (one, other):
            assert await client.read_until_eof() == b""
