"""``timeout_request``: an application that takes too long is answered for, and done without.

The clock is the test's where only that matters. Where threads are replaced they are real, as are
the sockets, and the limit is short.
"""

import asyncio
import itertools
import logging
import math
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
from extent import exhaustive
from log_records import loud
from memory import MemoryConnection
from raw_client import (
    TIMEOUT,
    RawClient,
    StartServer,
    connect,
    eventually,
    in_thread,
    on_each_wire,
)

import aiowsgi

PLAIN = [("Content-Type", "text/plain")]
GET = b"GET /slow?really HTTP/1.1\r\nHost: h\r\n\r\n"
PING = b"GET /ping HTTP/1.1\r\nHost: h\r\n\r\n"
# Longer than the prefetch below, so that it is streamed; its end does not come.
STALLED = b"POST /slow HTTP/1.1\r\nHost: h\r\nContent-Length: 99\r\n\r\n" + b"x" * 20

# On the clock of the test, and on that of the wall: a busy machine answers a ping in time.
LIMIT = 5.0
REAL_LIMIT = 0.5

Ending = Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]


def hello(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [*PLAIN])
    return [b"hello"]


class Slow:
    """An application that waits until the test lets it go on, and then ends in its own way."""

    def __init__(self, ending: Ending = hello) -> None:
        self._ending = ending
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.ended = threading.Event()
        self.errors: list[BaseException] = []
        self.environ: WSGIEnvironment = {}
        # The name of its thread.
        self.thread = ""

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        self.thread = threading.current_thread().name
        if environ["PATH_INFO"] == "/ping":
            start_response("200 OK", [*PLAIN])
            return [b"pong"]
        self.environ = environ
        try:
            self.begun.set()
            self.wait_in_the_application()
            return self._ending(environ, start_response)
        except BaseException as error:
            self.errors.append(error)
            raise
        finally:
            self.ended.set()

    def wait_in_the_application(self) -> None:
        assert self.go_on.wait(TIMEOUT)  # A line to be found in the stack.


class Closing(itertools.chain[bytes]):
    """An iterable that counts how often it is closed."""

    closes = 0

    def close(self) -> None:
        self.closes += 1


def connection_with(app: Ending, **options: object) -> MemoryConnection:
    return MemoryConnection(app, **{"timeout_request": LIMIT, "access_log": False, **options})


def begin(
    ending: Ending = hello, request: bytes = GET, *, queued: float = 0.0, **options: object
) -> tuple[Slow, MemoryConnection, threading.Thread]:
    """Let a request wait in the queue, and then its application."""
    app = Slow(ending)
    connection = connection_with(app, **options)
    connection.receive(request)
    connection.timers.advance(queued)
    thread = connection.start_job()
    assert app.begun.wait(TIMEOUT)
    return app, connection, thread


def finish(connection: MemoryConnection, app: Slow, thread: threading.Thread) -> None:
    """Let the application end, and everything that is due happen."""
    app.go_on.set()
    connection.timers.run_until(lambda: not thread.is_alive())
    connection.timers.run_ready()


def assert_timed_out(connection: MemoryConnection) -> None:
    """Check that the answer was a 504, the only one, and that the connection ends with it."""
    assert connection.status == 504
    assert connection.sent.count(b"HTTP/1.1 ") == 1
    assert b"\r\nConnection: close\r\n" in connection.sent
    assert connection.wire.half_closed


# --- when it is over -----------------------------------------------------------------------------


def test_application_that_does_not_answer_in_time_gets_a_504() -> None:
    app, connection, thread = begin()
    connection.timers.advance(LIMIT - 0.1)
    assert connection.sent == b""
    connection.timers.advance(0.2)
    assert_timed_out(connection)
    assert connection.pool.lost == 1
    # What it answers then is dropped, and the connection goes as others do.
    finish(connection, app, thread)
    assert_timed_out(connection)
    connection.end()
    assert connection.closed
    assert connection.resources.budget.used == 0
    assert len(connection.timers.pending) == 0


def test_time_in_the_queue_does_not_count() -> None:
    app, connection, thread = begin(queued=900.3, queue_timeout=1000.0)
    connection.timers.advance(LIMIT - 0.1)
    assert connection.sent == b""
    connection.timers.advance(0.2)
    assert_timed_out(connection)
    finish(connection, app, thread)


@pytest.mark.parametrize("limit", [0.01, 0.4, 3.7])
def test_limit_is_held_to_the_hundredth_whenever_a_thread_begins(limit: float) -> None:
    """The loop is not told when a thread takes a request, and has to look."""
    for queued in (0.0, 0.003, 0.7, 1.0, 1.9):
        app, connection, thread = begin(queued=queued, timeout_request=limit)
        connection.timers.advance(limit - 0.005)
        assert connection.sent == b""
        connection.timers.advance(0.01 + limit * 0.01)
        assert connection.status == 504
        finish(connection, app, thread)


def test_response_whose_head_was_sent_may_take_its_time() -> None:
    going_on = threading.Event()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [*PLAIN])
        yield b"one"
        assert going_on.wait(TIMEOUT)
        yield b"two"

    connection = connection_with(app)
    connection.receive(GET)
    thread = connection.start_job()
    connection.timers.run_until(lambda: connection.sent)
    connection.timers.advance(1000 * LIMIT)
    assert not connection.closed
    going_on.set()
    connection.timers.run_until(lambda: not thread.is_alive())
    connection.timers.run_ready()
    assert connection.status == 200
    assert connection.sent.endswith(b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")
    assert connection.pool.lost == 0


def test_every_request_of_a_connection_has_the_whole_time() -> None:
    def slow(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        connection.timers.now += 0.9 * LIMIT
        return hello(environ, start_response)

    connection = connection_with(slow)
    for _ in range(5):
        connection.receive(GET)
        connection.run_job()
    connection.timers.advance(2 * LIMIT)
    assert connection.sent.count(b"HTTP/1.1 200 ") == 5
    assert b"504" not in connection.sent


def test_no_limit_by_default(caplog: pytest.LogCaptureFixture) -> None:
    app, connection, thread = begin(timeout_request=aiowsgi.Config().timeout_request)
    connection.timers.advance(1_000_000)
    assert connection.sent == b""
    assert app.environ["aiowsgi.deadline"]() == math.inf
    finish(connection, app, thread)
    assert connection.status == 200
    assert not caplog.records


def test_answer_to_head_has_no_body() -> None:
    app, connection, thread = begin(request=GET.replace(b"GET", b"HEAD"))
    connection.timers.advance(LIMIT + 0.1)
    assert_timed_out(connection)
    assert connection.sent.endswith(b"\r\n\r\n")
    finish(connection, app, thread)


def test_pipelined_requests_behind_it_are_not_run() -> None:
    app, connection, thread = begin(request=GET + PING + PING)
    connection.timers.advance(LIMIT + 0.1)
    finish(connection, app, thread)
    assert_timed_out(connection)
    assert not connection.pool.jobs


def test_client_that_left_is_not_answered_and_no_thread_is_written_off() -> None:
    app, connection, thread = begin()
    connection.connection.on_lost()
    connection.timers.advance(2 * LIMIT)
    assert connection.sent == b""
    assert connection.pool.lost == 0
    assert len(connection.timers.pending) == 0
    finish(connection, app, thread)


def test_504_that_the_client_does_not_take_is_seen_as_the_answer_to_its_request() -> None:
    app, connection, thread = begin()
    connection.wire.capacity = 0
    connection.timers.advance(LIMIT + 0.1)
    info = connection.connection.inspect({})
    assert info is not None
    assert (info.phase, info.target) == ("sending", "/slow?really")
    assert info.request_id == app.environ["aiowsgi.request_id"]
    finish(connection, app, thread)


def test_error_log_has_the_request_and_the_stack_once(caplog: pytest.LogCaptureFixture) -> None:
    app, connection, thread = begin()
    connection.timers.advance(LIMIT + 0.1)
    finish(connection, app, thread)
    connection.timers.advance(10 * LIMIT)
    (record,) = [record for record in caplog.records if record.levelno > logging.DEBUG]
    assert (record.name, record.levelno) == ("aiowsgi.error", logging.ERROR)
    message = record.getMessage()
    assert f"GET /slow?really [{app.environ['aiowsgi.request_id']}]" in message
    assert thread.name in message
    assert "in wait_in_the_application" in message
    assert "# A line to be found in the stack." in message


# --- what the application learns -----------------------------------------------------------------


def test_deadline_counts_down_to_nothing() -> None:
    app, connection, thread = begin(queued=3)
    deadline = app.environ["aiowsgi.deadline"]
    assert deadline() == LIMIT
    connection.timers.advance(2)
    assert deadline() == LIMIT - 2
    connection.timers.advance(LIMIT)
    assert deadline() == 0
    connection.timers.advance(LIMIT)
    assert deadline() == 0
    finish(connection, app, thread)


def _write(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [*PLAIN])(b"late")
    return []


def _read(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    environ["wsgi.input"].read()
    return hello(environ, start_response)


def _call(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    aiowsgi.run_coroutine(asyncio.sleep(0))
    return hello(environ, start_response)


@pytest.mark.parametrize("ending", [_write, _read, _call])
def test_what_comes_too_late_raises_request_timeout(
    ending: Ending, caplog: pytest.LogCaptureFixture
) -> None:
    app, connection, thread = begin(ending, STALLED, body_prefetch=16)
    connection.timers.advance(LIMIT + 0.1)
    caplog.clear()
    finish(connection, app, thread)
    assert_timed_out(connection)
    assert [type(error) for error in app.errors] == [aiowsgi.RequestTimeout]
    assert isinstance(app.errors[0], aiowsgi.ClientDisconnected)
    # Everything about it was said.
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]
    assert connection.resources.budget.used == 0


def test_read_that_waits_for_a_stalled_body_is_ended() -> None:
    app = Slow(_read)
    connection = connection_with(app, body_prefetch=16, timeout_body=1000.0)
    app.go_on.set()
    connection.receive(STALLED)
    thread = connection.start_job()
    connection.timers.run_until(lambda: connection.connection.blocks_thread)
    connection.timers.advance(LIMIT - 0.1)
    assert connection.sent == b""
    connection.timers.advance(0.2)
    assert_timed_out(connection)
    thread.join(TIMEOUT)
    assert not thread.is_alive()
    assert [type(error) for error in app.errors] == [aiowsgi.RequestTimeout]


@pytest.mark.parametrize("chunks", [[], [b""], [b"late"], [b"", b"late"]], ids=repr)
def test_iterable_that_comes_too_late_is_closed(chunks: list[bytes]) -> None:
    result = Closing(chunks)
    app, connection, thread = begin(lambda *arguments: (hello(*arguments), result)[1])
    connection.timers.advance(LIMIT + 0.1)
    finish(connection, app, thread)
    assert result.closes == 1
    assert_timed_out(connection)


def test_file_that_comes_too_late_is_closed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 1000)
    file = (tmp_path / "file").open("rb")

    def send_file(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [*PLAIN])
        result: Iterable[bytes] = environ["wsgi.file_wrapper"](file)
        return result

    app, connection, thread = begin(send_file)
    connection.timers.advance(LIMIT + 0.1)
    before = set(os.listdir("/proc/self/fd"))
    finish(connection, app, thread)
    assert file.closed
    assert set(os.listdir("/proc/self/fd")) < before
    assert_timed_out(connection)


# --- on real threads -----------------------------------------------------------------------------


async def expect_504(client: RawClient) -> None:
    """Read the answer, and the end of the connection behind it."""
    response = await client.receive()
    assert response.status == 504
    assert response.get("connection") == "close"
    assert await client.read_until_eof() == b""


async def ping(server: aiowsgi.Server) -> None:
    async with await connect(server) as client:
        assert (await client.request(PING)).body == b"pong"


@on_each_wire
async def test_nothing_else_in_flight_is_hurt(start_server: StartServer) -> None:
    sent, go_on = threading.Event(), threading.Event()

    def stream(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [*PLAIN])
        yield b"one"
        sent.set()
        assert go_on.wait(TIMEOUT)
        yield b"two"

    slow = Slow()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        run = stream if environ["PATH_INFO"] == "/stream" else slow
        return run(environ, start_response)

    server = await start_server(app, timeout_request=REAL_LIMIT)
    async with (
        await connect(server) as idle,
        await connect(server) as streaming,
        await connect(server) as client,
    ):
        assert (await idle.request(PING)).body == b"pong"
        await streaming.send(GET.replace(b"/slow", b"/stream"))
        await in_thread(sent.wait, TIMEOUT)
        await client.send(GET)
        await expect_504(client)
        assert (await idle.request(PING)).body == b"pong"
        go_on.set()
        assert (await streaming.receive()).body == b"onetwo"
        assert (await streaming.request(PING)).body == b"pong"
        slow.go_on.set()
        await in_thread(slow.ended.wait, TIMEOUT)


@on_each_wire
async def test_coroutine_that_is_waited_for_is_cancelled(start_server: StartServer) -> None:
    cancelled = threading.Event()

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    def call(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        aiowsgi.run_coroutine(wait())
        return hello(environ, start_response)

    app = Slow(call)
    app.go_on.set()
    server = await start_server(app, timeout_request=REAL_LIMIT)
    async with await connect(server) as client:
        await client.send(GET)
        await expect_504(client)
        await in_thread(app.ended.wait, TIMEOUT)
        assert [type(error) for error in app.errors] == [aiowsgi.RequestTimeout]
        await in_thread(cancelled.wait, TIMEOUT)
        await eventually(lambda: not server.inspect().lost)


@on_each_wire
async def test_application_that_streams_nothing_is_ended(start_server: StartServer) -> None:
    closed = threading.Event()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [*PLAIN])
        try:
            while not closed.wait(0.001):
                yield b""
        finally:
            closed.set()

    server = await start_server(app, timeout_request=REAL_LIMIT)
    async with await connect(server) as client:
        await client.send(GET)
        await expect_504(client)
        await in_thread(closed.wait, TIMEOUT)


@exhaustive
@on_each_wire
async def test_lost_threads_are_replaced_up_to_the_limit(start_server: StartServer) -> None:
    app = Slow()
    server = await start_server(app, threads=1, max_lost_threads=2, timeout_request=REAL_LIMIT)
    assert server.healthy
    for lost, healthy in ((1, True), (2, False)):
        async with await connect(server) as client:
            await client.send(GET)
            await expect_504(client)
        assert server.inspect().lost == lost
        assert server.healthy is healthy
        assert server.inspect().healthy is healthy
        await ping(server)
    # The last one that there is; the next request waits.
    async with await connect(server) as client, await connect(server) as other:
        await client.send(GET)
        await expect_504(client)
        assert server.inspect().lost == 3
        await other.send(PING)
        await eventually(lambda: server.inspect().queued)
        assert server.inspect().queued == 1
        app.go_on.set()
        assert (await other.receive()).body == b"pong"
    await eventually(lambda: server.healthy and not server.inspect().lost)
    # Replacements are not kept.
    await eventually(lambda: _threads_beside(app.thread) <= 1)
    await ping(server)


def _threads_beside(name: str) -> int:
    """Return how many threads there are of the pool to which a thread of that name belongs."""
    pool, _, _ = name.rpartition("-")
    of_pool = re.compile(rf"{re.escape(pool)}-\d+")
    return sum(bool(of_pool.fullmatch(thread.name)) for thread in threading.enumerate())


@on_each_wire
async def test_no_thread_may_be_lost_where_none_is_replaced(start_server: StartServer) -> None:
    app = Slow()
    server = await start_server(app, threads=2, max_lost_threads=0, timeout_request=REAL_LIMIT)
    assert server.healthy
    async with await connect(server) as client:
        await client.send(GET)
        await expect_504(client)
    assert not server.healthy
    await ping(server)
    app.go_on.set()
    await eventually(lambda: server.healthy)


@on_each_wire
async def test_foreign_executor_s_thread_is_named_and_counted(
    start_server: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    app = Slow()
    with ThreadPoolExecutor(2, thread_name_prefix="theirs") as executor:
        server = await start_server(
            app, executor=executor, max_lost_threads=1, timeout_request=REAL_LIMIT
        )
        async with await connect(server) as client:
            await client.send(GET)
            await expect_504(client)
        message, unhealthy = [record.getMessage() for record in loud(caplog)]
        assert re.search(r"thread theirs_\d is at:", message)
        assert unhealthy.startswith("Lost to requests that do not end: 1 thread. ")
        assert "in wait_in_the_application" in message
        assert not server.healthy
        await ping(server)
        app.go_on.set()
        await eventually(lambda: server.healthy)
        assert server.inspect().lost == 0
        server.close()
        await server.wait_closed()
