"""The health check of ``--health-path``: answered by the loop, whatever the threads do."""

import asyncio
import socket
import threading
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import h11
import pytest
from memory import MemoryConnection
from raw_client import (
    TIMEOUT,
    StartServer,
    connect,
    connect_to,
    eventually,
    in_thread,
    on_each_loop,
    parts_of,
)

from aiowsgi.exchange.stream import MAX_DROPPED_BYTES

PATH = "/healthz"
CHECK = b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n"
HELLO = b"GET /hello HTTP/1.1\r\nHost: h\r\n\r\n"
WAIT = b"GET /wait HTTP/1.1\r\nHost: h\r\n\r\n"
# Seconds after which an application is given up, where a test waits for that.
REAL_LIMIT = 0.05


class App:
    """Says which path it was called with; at /wait when it is let."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.go_on = threading.Event()
        self._begun = threading.Semaphore(0)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        self.paths.append(environ["PATH_INFO"])
        if environ["PATH_INFO"] == "/wait":
            self._begun.release()
            assert self.go_on.wait(TIMEOUT)
        body = environ["PATH_INFO"].encode()
        start_response(
            "200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))]
        )
        return [body]

    def wait_for_call(self) -> None:
        """Wait until /wait is called once more."""
        assert self._begun.acquire(timeout=TIMEOUT)


def checked(app: App | None = None, **options: Any) -> MemoryConnection:
    """Return a connection of a server that has a health check."""
    return MemoryConnection(App() if app is None else app, health_path=PATH, **options)


class Answer:
    """One response: its status, its fields and its body."""

    def __init__(self, response: h11.Response, body: bytes) -> None:
        self.status = response.status_code
        self.fields = {name.decode(): value.decode() for name, value in response.headers}
        self.body = body

    @property
    def is_last(self) -> bool:
        """Whether it says that the connection ends behind it."""
        return self.fields.get("connection") == "close"


def answers(connection: MemoryConnection, *methods: str) -> list[Answer]:
    """Return all responses that were sent; ``methods`` are those of the requests, GET if left out.

    There must be nothing else, such as the beginning of another response.
    """
    connection.timers.run_ready()
    found: list[Answer] = []
    data = connection.sent
    while data:
        method = methods[len(found)] if methods else "GET"
        reader = h11.Connection(h11.CLIENT)
        reader.send(h11.Request(method=method, target="/", headers=[("Host", "h")]))
        reader.send(h11.EndOfMessage())
        reader.receive_data(data)
        response = reader.next_event()
        assert isinstance(response, h11.Response), response
        body = b""
        while isinstance(event := reader.next_event(), h11.Data):
            body += event.data
        assert isinstance(event, h11.EndOfMessage), event
        found.append(Answer(response, body))
        data = reader.trailing_data[0]
    return found


def run_jobs(connection: MemoryConnection) -> None:
    """Run the application for all requests that there are."""
    connection.timers.run_ready()
    while connection.pool.jobs:
        connection.run_job()


# --- what is answered ----------------------------------------------------------------------------


def test_a_server_that_is_up_answers_200_and_nothing_may_store_that() -> None:
    app = App()
    connection = checked(app)
    connection.receive(CHECK)
    (answer,) = answers(connection)
    assert (answer.status, answer.body) == (200, b"ok\n")
    assert answer.fields["cache-control"] == "no-store"
    assert answer.fields["content-type"].startswith("text/plain")
    assert answer.fields["content-length"] == "3"
    assert not connection.pool.jobs
    assert not app.paths


def test_head_gets_the_fields_without_the_content() -> None:
    connection = checked()
    connection.receive(CHECK.replace(b"GET", b"HEAD") + CHECK)
    head, get = answers(connection, "HEAD", "GET")
    assert (head.status, head.body, get.body) == (200, b"", b"ok\n")
    assert head.fields["content-length"] == get.fields["content-length"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "get", "PURGE"])
def test_other_methods_get_405_with_those_that_are_allowed(method: str) -> None:
    connection = checked()
    length = b"Content-Length: 0\r\n\r\n"
    connection.receive(CHECK.replace(b"GET", method.encode())[:-2] + length + CHECK)
    refused, answer = answers(connection, method, "GET")
    assert (refused.status, refused.fields["allow"]) == (405, "GET, HEAD")
    assert not refused.is_last
    assert answer.status == 200
    assert not connection.pool.jobs


@pytest.mark.parametrize(
    "target", ["/healthz?", "/healthz?deep=1", "http://h/healthz", "/healthz?/"]
)
def test_the_query_and_the_form_of_the_target_do_not_matter(target: str) -> None:
    connection = checked()
    connection.receive(CHECK.replace(b"/healthz", target.encode()))
    assert [answer.status for answer in answers(connection)] == [200]


@pytest.mark.parametrize(
    "target", ["/", "/healthz/", "/healthzz", "/HEALTHZ", "/%68ealthz", "//healthz", "/x?/healthz"]
)
def test_every_other_path_reaches_the_application(target: str) -> None:
    app = App()
    connection = checked(app)
    connection.receive(CHECK.replace(b"/healthz", target.encode()))
    assert not connection.sent
    run_jobs(connection)
    assert len(app.paths) == 1


def test_without_the_option_the_path_reaches_the_application() -> None:
    app = App()
    connection = MemoryConnection(app)
    connection.receive(CHECK)
    run_jobs(connection)
    assert app.paths == [PATH]
    assert [answer.body for answer in answers(connection)] == [PATH.encode()]


def test_http_1_0_gets_its_answer_and_the_end() -> None:
    connection = checked()
    connection.receive(b"GET /healthz HTTP/1.0\r\n\r\n")
    (answer,) = answers(connection)
    assert (answer.status, answer.body, answer.is_last) == (200, b"ok\n", True)
    connection.end()
    assert connection.closed


# --- whether the server is up --------------------------------------------------------------------


def test_it_is_answered_while_the_queue_takes_no_request() -> None:
    connection = checked()
    connection.pool.full = True
    connection.receive(HELLO.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    assert [answer.status for answer in answers(connection)] == [503]
    other = checked()
    other.pool.full = True
    other.receive(CHECK + CHECK)
    assert [answer.status for answer in answers(other)] == [200, 200]


def test_a_server_that_drains_answers_503_and_the_connection_ends() -> None:
    connection = checked()
    connection.receive(CHECK)
    connection.timers.run_ready()
    connection.resources.is_draining = True
    connection.receive(CHECK)
    before, after = answers(connection)
    assert (before.status, before.is_last) == (200, False)
    assert (after.status, after.is_last) == (503, True)
    assert after.fields["cache-control"] == "no-store"
    connection.end()
    assert connection.closed


def test_a_server_that_has_lost_its_threads_answers_503_until_they_are_back() -> None:
    connection = checked(max_lost_threads=2)
    for lost in (0, 1, 2, 3, 1):
        connection.pool.lost = lost
        connection.receive(CHECK)
    found = answers(connection)
    assert [answer.status for answer in found] == [200, 200, 503, 503, 200]
    assert not any(answer.is_last for answer in found)


# --- among other requests ------------------------------------------------------------------------


def test_thousands_that_arrive_in_one_read_are_all_answered() -> None:
    # More than Python has room for calls within calls.
    number = 5000
    connection = checked()
    connection.receive(CHECK * number)
    connection.timers.run_ready()
    assert connection.sent.count(b"HTTP/1.1 200 OK\r\n") == number
    assert connection.sent.endswith(b"\r\n\r\nok\n")
    assert connection.connection.stream is None
    assert not connection.connection.held


def test_answers_keep_the_order_of_the_requests_on_a_connection() -> None:
    app = App()
    connection = checked(app)
    connection.receive((CHECK + HELLO + CHECK + CHECK) * 20)
    run_jobs(connection)
    bodies = [answer.body for answer in answers(connection)]
    assert bodies == [b"ok\n", b"/hello", b"ok\n", b"ok\n"] * 20
    assert app.paths == ["/hello"] * 20


def test_a_connection_is_kept_and_its_requests_are_counted() -> None:
    connection = checked(max_keep_alive_requests=3)
    for _ in range(3):
        connection.receive(CHECK)
        connection.timers.run_ready()
        connection.timers.advance(1.0)
    found = answers(connection)
    assert [(answer.status, answer.is_last) for answer in found] == [
        (200, False),
        (200, False),
        (200, True),
    ]


def test_a_client_that_takes_nothing_is_waited_for_only_so_long() -> None:
    connection = checked(timeout_write=10.0)
    connection.wire.capacity = 0
    connection.receive(CHECK)
    connection.timers.advance(9.0)
    assert not connection.closed
    connection.timers.advance(2.0)
    assert connection.closed
    assert connection.wire.was_reset


# --- with a body ---------------------------------------------------------------------------------


def framed(body: bytes, *, chunked: bool) -> bytes:
    """Return a health check that has a body."""
    if not chunked:
        return CHECK[:-2] + b"Content-Length: %d\r\n\r\n" % len(body) + body
    chunks = [body[at : at + 50_000] for at in range(0, len(body), 50_000)]
    coded = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return CHECK[:-2] + b"Transfer-Encoding: chunked\r\n\r\n" + coded + b"0\r\n\r\n"


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [1, 1000, MAX_DROPPED_BYTES])
def test_a_body_is_dropped_and_the_connection_goes_on(size: int, chunked: bool) -> None:
    connection = checked(body_prefetch=1 << 14)
    data = framed(b"x" * size, chunked=chunked)
    for at in range(0, len(data), 1 << 16):
        connection.receive(data[at : at + (1 << 16)])
        connection.timers.run_ready()
    connection.receive(CHECK)
    assert [(answer.status, answer.is_last) for answer in answers(connection)] == [
        (200, False),
        (200, False),
    ]
    assert not connection.resources.budget.used


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_long_to_be_dropped_ends_the_connection(chunked: bool) -> None:
    connection = checked(body_prefetch=1 << 14)
    data = framed(b"x" * (4 * MAX_DROPPED_BYTES), chunked=chunked)
    for at in range(0, len(data), 1 << 16):
        connection.receive(data[at : at + (1 << 16)])
        connection.timers.run_ready()
    (answer,) = answers(connection)
    assert answer.status == 200
    # How long a chunked body is shows only at its end.
    assert answer.is_last is not chunked
    connection.end()
    assert connection.closed
    assert not connection.resources.budget.used


def test_a_client_that_waits_for_100_gets_the_answer_in_its_place() -> None:
    connection = checked()
    head = b"Content-Length: 10\r\nExpect: 100-continue\r\n\r\n"
    connection.receive(CHECK[:-2] + head)
    # What it sends next cannot be told from a request, so the connection ends.
    (answer,) = answers(connection)
    assert (answer.status, answer.is_last) == (200, True)
    assert b" 100 " not in connection.sent
    connection.receive(b"0123456789")
    connection.end()
    assert connection.closed


def test_a_body_that_stays_away_is_waited_for_as_with_other_requests() -> None:
    connection = checked(timeout_body=5.0)
    connection.receive(framed(b"x" * 10, chunked=False)[:-1])
    connection.timers.advance(4.0)
    assert not connection.sent
    connection.timers.advance(2.0)
    assert connection.status == 408


# --- what the log says ---------------------------------------------------------------------------


def test_the_access_log_has_a_line_for_each(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "aiowsgi.access")
    connection = checked(access_log=True)
    connection.receive(CHECK + CHECK.replace(b"GET", b"POST"))
    connection.resources.is_draining = True
    connection.timers.run_ready()
    lines = [record.getMessage() for record in caplog.records if record.name == "aiowsgi.access"]
    assert len(lines) == 2
    assert '"GET /healthz HTTP/1.1" 200 3 ' in lines[0]
    assert '"POST /healthz HTTP/1.1" 405 ' in lines[1]


# --- over sockets --------------------------------------------------------------------------------


@on_each_loop
async def test_it_is_answered_while_all_threads_are_stuck_and_the_queue_is_full(
    start_server: StartServer,
) -> None:
    app = App()
    server = await start_server(
        app, threads=1, queue_size=1, queue_timeout=TIMEOUT, health_path=PATH
    )
    async with await connect(server) as stuck, await connect(server) as queued:
        await stuck.send(WAIT)
        await in_thread(app.wait_for_call)
        await queued.send(HELLO)
        await eventually(lambda: server.inspect().queued == 1)
        async with await connect(server) as client:
            for _ in range(3):
                assert (await client.request(CHECK)).body == b"ok\n"
            # Nobody else gets an answer.
            assert (await client.request(HELLO)).status == 503
        app.go_on.set()
        assert (await stuck.receive()).body == b"/wait"
        assert (await queued.receive()).body == b"/hello"


@on_each_loop
async def test_a_server_says_503_from_the_beginning_of_its_drain_delay(
    start_server: StartServer,
) -> None:
    server = await start_server(App(), drain_delay=TIMEOUT, health_path=PATH)
    async with await connect(server) as client:
        assert (await client.request(CHECK)).status == 200
        address = server.sockets[0].getsockname()
        server.close()
        # Requests are still answered, on this connection and on new ones.
        answer = await client.request(CHECK)
        assert (answer.status, answer.get("connection")) == (503, "close")
        for request, status in ((CHECK, 503), (HELLO, 200)):
            async with await connect_to(address) as other:
                assert (await other.request(request)).status == status
    server.abort()
    await server.wait_closed()


@on_each_loop
async def test_a_server_without_threads_says_503_until_they_are_back(
    start_server: StartServer,
) -> None:
    app = App()
    server = await start_server(
        app, threads=1, max_lost_threads=1, timeout_request=REAL_LIMIT, health_path=PATH
    )
    async with await connect(server) as client:
        assert (await client.request(CHECK)).status == 200
        async with await connect(server) as stuck:
            assert (await stuck.request(WAIT)).status == 504
        assert (await client.request(CHECK)).status == 503
        app.go_on.set()
        await eventually(lambda: server.healthy)
        assert (await client.request(CHECK)).status == 200


@on_each_loop
async def test_many_in_one_write_are_answered_while_others_get_their_turn(
    start_server: StartServer,
) -> None:
    server = await start_server(App(), health_path=PATH)
    number = 2000
    async with await connect(server) as many, await connect(server) as other:
        await many.send(CHECK * number + HELLO)
        assert (await other.request(CHECK)).status == 200
        assert (await other.request(HELLO)).body == b"/hello"
        for _ in range(number):
            assert (await many.receive()).body == b"ok\n"
        assert (await many.receive()).body == b"/hello"


@on_each_loop
async def test_a_body_in_a_temporary_file_is_dropped_with_its_file(
    start_server: StartServer,
) -> None:
    server = await start_server(App(), health_path=PATH, body_spool=1 << 20, body_prefetch=1 << 10)
    async with await connect(server) as client:
        answer = await client.request(framed(b"x" * (1 << 16), chunked=True))
        assert (answer.status, answer.body) == (200, b"ok\n")
        assert (await client.request(CHECK)).status == 200
        assert (await client.request(HELLO)).body == b"/hello"
        spooler = parts_of(server).resources.spooler
        assert spooler is not None
        await eventually(lambda: not spooler.open_files)
        assert not spooler.budget.used


@on_each_loop
async def test_server_that_cannot_accept_any_more_is_not_up(start_server: StartServer) -> None:
    server = await start_server(App(), health_path=PATH)
    async with await connect(server) as client:
        assert (await client.request(CHECK)).status == 200
        server.sockets[0].shutdown(socket.SHUT_RD)
        async with asyncio.timeout(TIMEOUT):
            while (await client.request(CHECK)).status == 200:
                pass
        assert (await client.request(CHECK)).status == 503
        # What is connected is served on.
        assert (await client.request(HELLO)).status == 200
