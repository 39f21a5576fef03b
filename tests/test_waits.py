"""The warning that requests had to wait for a thread: when it is said, what it says, how often."""

import contextlib
import logging
import re
import threading
from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
from memory import MemoryConnection
from raw_client import TIMEOUT, StartServer, connect, eventually, on_each_loop
from thread_waits import StillClock

from aiowsgi.observe.waits import Waits

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"

WARNING = re.compile(
    r"Requests waited up to (?P<longest>\d+\.\d) s for one of (?P<threads>\d+) threads?: "
    r"(?P<waited>\d+) ran late, (?P<refused>\d+) got a 503(, and more are waiting)?\."
)

FULL = re.compile(
    r"The queue for (?P<threads>\d+) threads? was full \(--queue-size\), and (?P<refused>\d+) "
    r"requests? got a 503 at once\. Each stream "
)


def hello(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[int, int, float, int]]:
    """Return the numbers of each warning since the last call: threads, waited, longest, refused."""
    numbers = []
    for record in caplog.records:
        assert (record.name, record.levelno) == ("aiowsgi.error", logging.WARNING)
        if record.getMessage().startswith("Refused "):
            continue  # See test_refusals.
        if (match := FULL.match(record.getMessage())) is not None:
            numbers.append((int(match["threads"]), 0, 0.0, int(match["refused"])))
            continue
        match = WARNING.match(record.getMessage())
        assert match is not None, record.getMessage()
        threads, waited, longest, refused = match.group("threads", "waited", "longest", "refused")
        numbers.append((int(threads), int(waited), float(longest), int(refused)))
    caplog.clear()
    return numbers


# --- collecting ----------------------------------------------------------------------------------


def test_first_wait_is_told_at_once(caplog: pytest.LogCaptureFixture) -> None:
    waits = Waits(8, StillClock())
    assert said(caplog) == []
    waits.note(2.34)
    assert said(caplog) == [(8, 1, 2.3, 0)]


def test_warning_says_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    Waits(8, StillClock()).note(2.0)
    (message,) = (record.getMessage() for record in caplog.records)
    for advice in ("Each stream", "--threads", "kill -URG", "server.inspect()"):
        assert advice in message
    assert len(message.splitlines()) == 1


def test_warning_is_said_once_a_minute_and_counts_what_came_between(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = StillClock()
    waits = Waits(4, clock)
    waits.note(1.5)
    assert len(said(caplog)) == 1
    for wait in (2.0, 7.0, 3.0):
        clock.now += 10
        waits.note(wait)
        waits.note(0.0, refused=True)
    clock.now += 29.9
    waits.note(1.1)
    assert said(caplog) == []
    clock.now += 0.2
    waits.note(4.0)
    # Three, one and this one; three were refused.
    assert said(caplog) == [(4, 5, 7.0, 3)]


def test_each_warning_counts_from_the_last_one(caplog: pytest.LogCaptureFixture) -> None:
    clock = StillClock()
    waits = Waits(4, clock)
    for wait in (9.0, 2.0, 3.0):
        clock.now += 3600
        waits.note(wait)
        waits.note(wait - 1, refused=True)
    # What is refused behind a warning belongs to the next one.
    assert said(caplog) == [(4, 1, 9.0, 0), (4, 1, 8.0, 1), (4, 1, 3.0, 1)]


def test_refused_request_is_told_alone(caplog: pytest.LogCaptureFixture) -> None:
    Waits(4, StillClock()).note(0.0, refused=True)
    assert "The queue for 4 threads was full" in caplog.text
    assert said(caplog) == [(4, 0, 0.0, 1)]


def test_request_that_still_waits_is_told_and_counted_when_its_wait_is_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = StillClock()
    waits = Waits(1, clock)
    waits.note_waiting(1.5)
    waits.note_waiting(2.0)
    assert "for one of 1 thread: 0 ran late, 0 got a 503, and more are waiting. " in caplog.text
    assert said(caplog) == [(1, 0, 1.5, 0)]
    waits.note(2.5)
    clock.now += 60
    waits.note(1.1)
    assert said(caplog) == [(1, 2, 2.5, 0)]


# --- what a connection tells ---------------------------------------------------------------------


def connection_with(**options: object) -> MemoryConnection:
    options = {"queue_timeout": 30.0, "queue_target": 1.0, "access_log": False, **options}
    return MemoryConnection(hello, **options)


def test_request_that_waited_longer_than_the_target_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    connection = connection_with(queue_target=2.0)
    for wait in (0.0, 1.0, 1.9):
        connection.receive(GET)
        connection.timers.advance(wait)
        connection.run_job()
    assert said(caplog) == []
    connection.receive(GET)
    # Not looked at since it has waited for that long.
    connection.timers.advance(1.99)
    connection.timers.now += 0.5
    connection.run_job()
    assert said(caplog) == [(1, 1, 2.5, 0)]
    assert connection.sent.count(b"200 OK") == 4


def test_request_is_told_while_it_waits(caplog: pytest.LogCaptureFixture) -> None:
    connection = connection_with(queue_target=2.0)
    connection.receive(GET)
    connection.timers.advance(1.9)
    assert said(caplog) == []
    connection.timers.advance(0.7)
    assert said(caplog) == [(1, 0, 2.0, 0)]
    # Once, however long it takes.
    connection.timers.advance(20)
    connection.run_job()
    assert said(caplog) == []
    assert connection.status == 200


def test_request_that_took_its_time_otherwise_is_not_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    connection = connection_with()
    connection.timers.advance(20)
    connection.receive(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n")
    connection.timers.advance(5)
    connection.receive(b"\r\n")
    connection.timers.advance(20)
    connection.wire.capacity = 0
    connection.receive(b"x" * 10)
    connection.run_job()
    connection.timers.advance(20)
    connection.wire.take(1000)
    connection.timers.run_ready()
    assert connection.status == 200
    assert said(caplog) == []


def test_request_that_finds_no_room_is_told(caplog: pytest.LogCaptureFixture) -> None:
    connection = connection_with()
    connection.pool.full = True
    connection.receive(GET)
    assert connection.status == 503
    assert said(caplog) == [(1, 0, 0.0, 1)]


def test_request_that_waited_in_vain_is_told(caplog: pytest.LogCaptureFixture) -> None:
    connection = connection_with()
    connection.receive(GET)
    connection.timers.advance(30.1)
    assert connection.status == 503
    connection.shared.observers.waits.note(0.0)
    assert len(said(caplog)) == 1  # While it waited.
    connection.timers.advance(60)
    connection.shared.observers.waits.note(0.0)
    assert said(caplog) == [(1, 2, 30.0, 1)]


@on_each_loop
async def test_busy_server_warns_once(
    start_server: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    go_on = threading.Event()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        assert go_on.wait(TIMEOUT)
        return hello(environ, start_response)

    target = 0.05
    server = await start_server(app, threads=1, queue_target=target)
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(await connect(server)) for _ in range(3)]
        for client in clients:
            await client.send(GET)
        await eventually(
            lambda: sum(request.queue_wait > target for request in server.inspect().requests) == 2
        )
        go_on.set()
        for client in clients:
            assert (await client.receive()).status == 200
    ((threads, waited, longest, refused),) = said(caplog)
    # Told while they waited, where the loop came to look in that time.
    assert (threads, refused) == (1, 0)
    assert waited <= 1
    assert longest >= target
