"""What a request is told beyond PEP 3333, and the times that its access record tells afterwards."""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
from memory import MemoryConnection
from raw_client import (
    TIMEOUT,
    RawClient,
    StartServer,
    clients_of,
    connect,
    eventually,
    in_thread,
    on_each_loop,
    parts_of,
)

import aiowsgi
from aiowsgi.connection.shared import Shared
from aiowsgi.exchange.report import Observers
from aiowsgi.observe.access import AccessRecord, Times

PLAIN = [("Content-Type", "text/plain")]
GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n"

Application = Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]
LEAVE = [pytest.param(RawClient.close, id="fin"), pytest.param(RawClient.reset, id="rst")]


class Keeper:
    """An application that keeps the environ of each request, and answers when it may."""

    def __init__(self) -> None:
        self.environs: list[WSGIEnvironment] = []
        self.begun = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        self.environs.append(environ)
        self.begun.set()
        assert self.go_on.wait(TIMEOUT)
        start_response("200 OK", [*PLAIN])
        return [b"hello"]

    @property
    def disconnected(self) -> bool:
        """What the application of the latest request is told, on the calling thread."""
        told: bool = self.environs[-1]["aiowsgi.disconnected"]()
        return told


def begin(
    request: bytes = GET, **options: object
) -> tuple[Keeper, MemoryConnection, threading.Thread]:
    """Start a request in memory; its application waits."""
    app = Keeper()
    connection = MemoryConnection(app, **{"access_log": False, **options})
    connection.receive(request)
    thread = connection.start_job()
    assert app.begun.wait(TIMEOUT)
    return app, connection, thread


def finish(app: Keeper, connection: MemoryConnection, thread: threading.Thread) -> None:
    app.go_on.set()
    connection.timers.run_until(lambda: not thread.is_alive())
    connection.timers.run_ready()


# --- aiowsgi.queue_wait --------------------------------------------------------------------------


def test_queue_wait_is_the_time_between_the_whole_request_and_its_thread() -> None:
    app = Keeper()
    app.go_on.set()
    connection = MemoryConnection(app, access_log=False, body_prefetch=50)
    waits = [0.0, 2.5, 0.25]
    for wait in waits:
        # An idle client, a slow head and a slow body are no wait for a thread.
        connection.timers.advance(7)
        connection.receive(POST[:20])
        connection.timers.advance(5)
        connection.receive(POST[20:] + b"x" * 40)
        connection.timers.advance(3)
        # So much of it that a thread is taken; nobody wants the rest.
        connection.receive(b"x" * 20)
        connection.timers.advance(wait)
        connection.run_job()
        connection.receive(b"x" * 40)
    assert [environ["aiowsgi.queue_wait"] for environ in app.environs] == waits


def test_pipelined_request_waits_from_the_end_of_the_one_before() -> None:
    app = Keeper()
    app.go_on.set()
    connection = MemoryConnection(app, access_log=False)
    connection.receive(GET + GET)
    connection.timers.advance(4)
    connection.run_job()
    connection.timers.advance(1)
    connection.run_job()
    assert [environ["aiowsgi.queue_wait"] for environ in app.environs] == [4.0, 1.0]


# --- aiowsgi.disconnected ------------------------------------------------------------------------


def test_client_that_only_waits_or_sends_more_has_not_disconnected() -> None:
    app, connection, thread = begin()
    assert app.disconnected is False
    connection.receive(GET + b"GET /third HT")
    assert app.disconnected is False
    connection.timers.advance(10_000)
    assert app.disconnected is False
    finish(app, connection, thread)
    assert connection.status == 200
    assert app.disconnected is False


def test_client_that_takes_nothing_has_not_disconnected() -> None:
    app, connection, thread = begin()
    connection.wire.capacity = 0
    finish(app, connection, thread)
    connection.timers.advance(30)
    assert not connection.closed
    assert app.disconnected is False


def test_client_that_ended_its_side_is_told_of_and_answered() -> None:
    app, connection, thread = begin()
    connection.end()
    assert app.disconnected is True
    finish(app, connection, thread)
    assert connection.status == 200
    assert connection.sent.endswith(b"hello")
    assert app.disconnected is True


def test_end_that_came_with_the_requests_is_told_to_each() -> None:
    app, connection, thread = begin(GET + GET)
    connection.end()
    app.go_on.set()
    connection.timers.run_until(lambda: connection.pool.jobs)
    connection.run_job()
    thread.join(TIMEOUT)
    first, second = app.environs
    assert first["aiowsgi.disconnected"]()
    assert second["aiowsgi.disconnected"]()
    assert connection.sent.count(b"200 OK") == 2


def test_connection_that_is_lost_is_told() -> None:
    app, connection, thread = begin()
    connection.connection.on_lost()
    assert app.disconnected is True
    finish(app, connection, thread)
    assert connection.sent == b""


def test_request_that_the_server_gave_up_has_nobody_left_either() -> None:
    app, connection, thread = begin(timeout_request=5.0)
    connection.timers.advance(5.1)
    assert connection.status == 504
    assert app.disconnected is True
    finish(app, connection, thread)

    app, connection, thread = begin()
    connection.connection.abort(aiowsgi.ServerStopped("the server stopped"))
    connection.timers.run_ready()
    assert app.disconnected is True
    finish(app, connection, thread)


def test_every_thread_of_the_application_may_ask() -> None:
    app, connection, thread = begin(timeout_request=60.0)
    environ = app.environs[0]
    with ThreadPoolExecutor(1) as executor:

        def ask() -> tuple[bool, float]:
            left = executor.submit(environ["aiowsgi.deadline"]).result(TIMEOUT)
            return executor.submit(environ["aiowsgi.disconnected"]).result(TIMEOUT), left

        assert ask() == (False, 60.0)
        connection.timers.advance(20)
        assert ask() == (False, 40.0)
        connection.end()
        assert ask() == (True, 40.0)
        finish(app, connection, thread)
        # Behind the end, too.
        connection.timers.advance(20)
        assert ask() == (True, 20.0)


@on_each_loop
@pytest.mark.parametrize("leave", LEAVE)
@pytest.mark.parametrize("sent", [GET, POST + b"x" * 20], ids=["get", "upload"])
async def test_application_that_asks_finds_out_that_its_client_left(
    start_server: StartServer, leave: Callable[[RawClient], None], sent: bytes
) -> None:
    asked = threading.Event()
    answers: list[bool] = []

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [*PLAIN])
        # Who leaves a body unread, until nothing more is read from the client, learns nothing.
        environ["wsgi.input"].read(20)
        end = time.monotonic() + TIMEOUT
        while not (told := environ["aiowsgi.disconnected"]()) and time.monotonic() < end:
            asked.set()
            time.sleep(0.001)
        answers.append(told)
        return [b"hello"]

    server = await start_server(app, body_prefetch=10)
    async with await connect(server) as other, await connect(server) as client:
        await client.send(sent)
        await in_thread(asked.wait, TIMEOUT)
        # Somebody else's end is nobody's business.
        other.close()
        await eventually(lambda: len(clients_of(server)) == 1)
        assert not answers
        leave(client)
        await eventually(lambda: answers)
    assert answers == [True]


# --- the times of the access record --------------------------------------------------------------


KeepRecords = Callable[[Shared], list[AccessRecord]]


@pytest.fixture
def keep_records(caplog: pytest.LogCaptureFixture) -> KeepRecords:
    """Return ``keep_records(shared)`` -> the list that access records go to instead of the log."""
    caplog.set_level(logging.INFO, "aiowsgi.access")

    def keep(shared: Shared) -> list[AccessRecord]:
        kept: list[AccessRecord] = []
        shared.observers = Observers(
            access_log=True,
            threads=1,
            queue_target=math.inf,
            clock=shared.resources.clock,
            write=kept.append,
        )
        return kept

    return keep


def test_times_are_those_of_each_step(keep_records: KeepRecords) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        connection.timers.now += 5
        start_response("200 OK", [*PLAIN])
        # More than is sent at a time.
        return [bytes(600_000)]

    connection = MemoryConnection(app)
    records = keep_records(connection.shared)
    start = connection.timers.now
    connection.wire.capacity = 0
    connection.timers.advance(1)
    connection.receive(POST)
    connection.timers.advance(2)
    connection.receive(b"x" * 100)
    connection.timers.advance(4)
    connection.run_job()
    connection.timers.advance(6)
    assert not records
    connection.wire.take(1_000_000)
    connection.timers.run_ready()
    (record,) = records
    assert record.times == Times(
        accepted=start,
        head=start + 1,
        ready=start + 3,
        started=start + 7,
        first_byte=start + 12,
        last_byte=start + 18,
    )
    assert record.times.queue_wait == 4
    assert record.times.duration == 17


def test_next_request_of_a_connection_has_its_own_times(keep_records: KeepRecords) -> None:
    app = Keeper()
    app.go_on.set()
    connection = MemoryConnection(app)
    records = keep_records(connection.shared)
    start = connection.timers.now
    for _ in range(2):
        connection.timers.advance(10)
        connection.receive(GET)
        connection.timers.advance(1)
        connection.run_job()
    for record, head in zip(records, (start + 10, start + 21), strict=True):
        assert record.times == Times(start, head, head, head + 1, head + 1, head + 1)


def test_request_that_got_no_thread_has_no_times_behind_the_queue(
    keep_records: KeepRecords,
) -> None:
    connection = MemoryConnection(Keeper(), queue_timeout=17.0)
    records = keep_records(connection.shared)
    start = connection.timers.now
    connection.receive(GET)
    connection.timers.advance(17.1)
    (record,) = records
    assert record.status == 503
    assert record.times == Times(start, start, start, 0.0, start + 17, start + 17)
    assert record.times.queue_wait == 17


def test_request_that_never_was_one_begins_and_ends_with_its_refusal(
    keep_records: KeepRecords,
) -> None:
    connection = MemoryConnection(Keeper())
    records = keep_records(connection.shared)
    start = connection.timers.now
    connection.timers.advance(2)
    connection.receive(b"nonsense\r\n\r\n")
    (record,) = records
    assert record.status == 400
    assert record.times == Times(start, start + 2, first_byte=start + 2, last_byte=start + 2)
    assert record.times.duration == record.times.queue_wait == 0


def test_request_whose_client_left_ends_there(keep_records: KeepRecords) -> None:
    app, connection, thread = begin(access_log=True)
    records = keep_records(connection.shared)
    start = connection.timers.now
    connection.timers.advance(3)
    connection.connection.on_lost()
    (record,) = records
    assert record.times == Times(start, start, start, start, last_byte=start + 3)
    finish(app, connection, thread)
    assert len(records) == 1


def test_request_that_took_too_long_ends_with_its_504(keep_records: KeepRecords) -> None:
    app, connection, thread = begin(access_log=True, timeout_request=5.0)
    records = keep_records(connection.shared)
    start = connection.timers.now
    connection.timers.advance(5.1)
    (record,) = records
    assert record.status == 504
    assert record.times == Times(start, start, start, start, start + 5, start + 5)
    finish(app, connection, thread)
    connection.end()
    assert connection.closed
    assert len(records) == 1


@on_each_loop
@pytest.mark.parametrize("path", ["/list", "/stream", "/file", "/echo"])
async def test_times_are_in_their_order(
    start_server: StartServer, path: str, keep_records: KeepRecords, tmp_path: Path
) -> None:
    size = 3_000_000
    (tmp_path / "file").write_bytes(bytes(size))

    def stream(environ: WSGIEnvironment) -> Iterator[bytes]:
        left = size
        while left:
            read = environ["wsgi.input"].read(min(left, 50_000)) if path == "/echo" else b""
            yield read or bytes(50_000)
            left -= 50_000

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [*PLAIN])
        if path == "/list":
            return [bytes(size)]
        if path == "/file":
            result: Iterable[bytes] = environ["wsgi.file_wrapper"]((tmp_path / "file").open("rb"))
            return result
        return stream(environ)

    server = await start_server(app)
    records = keep_records(parts_of(server).shared)
    before = time.monotonic()
    async with await connect(server) as client:
        method = b"POST" if path == "/echo" else b"GET"
        head = b"%b %b HTTP/1.1\r\nHost: h\r\n" % (method, path.encode())
        for _ in range(3):
            await client.send(
                head + (b"Content-Length: 3000000\r\n\r\n" if path == "/echo" else b"")
            )
            if path == "/echo":
                await client.send(bytes(1 << 20))
                await client.send(bytes(size - (1 << 20)))
            else:
                await client.send(b"\r\n")
            assert len((await client.receive()).body) == size
        await eventually(lambda: len(records) == 3)
    after = time.monotonic()
    for record in records:
        assert list(record.times) == sorted(record.times)
        assert before <= record.times.accepted
        assert record.times.last_byte <= after
        assert record.times.queue_wait >= 0
        assert record.size == size
    heads = [record.times.head for record in records]
    assert heads == sorted(set(heads))
