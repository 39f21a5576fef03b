"""Every clock of a connection, on a clock of the test's: no waiting, no sockets."""

import threading
import time
from collections.abc import Callable, Iterable
from math import inf
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import pytest
from memory import TIMEOUT, ManualTimer, ManualTimers, MemoryConnection, MemoryWire

from aiowsgi.bridge.pool.jobs import JobThread
from aiowsgi.config import Config
from aiowsgi.connection.deadline import Deadline, FirstChecks
from aiowsgi.connection.states import (
    LINGER_TIMEOUT,
    LINGER_TOTAL,
    RULES,
    STREAM_RULES,
    ConnectionState,
    Timeouts,
    table,
)
from aiowsgi.errors import RequestBodyError
from aiowsgi.exchange.states import StreamState

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
POST_TEN = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n"
# Longer than the prefetch of the connections below, so that it is streamed.
POST_STREAMED = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n" + b"x" * 20
POST_EXPECT = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n"
POST_CHUNKED = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"

OPTIONS = {
    "timeout_keep_alive": 65.0,
    "timeout_header": 11.0,
    "timeout_body": 31.0,
    "timeout_write": 61.0,
    "queue_timeout": 17.0,
    "body_prefetch": 16,
    "access_log": False,
}


def hello(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


def read_all(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    body = environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"%d" % len(body)]


def large(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"x" * 200_000]


def connection_with(app: object = hello, **options: object) -> MemoryConnection:
    return MemoryConnection(app, **{**OPTIONS, **options})  # type: ignore[arg-type]


# --- the deadline --------------------------------------------------------------------------------


class Reached:
    """Counts how often a deadline was reached, and when it was last."""

    def __init__(self, timers: ManualTimers) -> None:
        self.timers = timers
        self.times: list[float] = []

    def __call__(self) -> None:
        self.times.append(self.timers.now)


def new_deadline() -> tuple[ManualTimers, Deadline, Reached]:
    timers = ManualTimers()
    reached = Reached(timers)
    return timers, Deadline(FirstChecks(timers), timers.time, reached), reached


def test_deadline_is_reached_once_at_its_time() -> None:
    timers, deadline, reached = new_deadline()
    start = timers.now
    deadline.set(5, timers.now)
    timers.advance(4.9)
    assert reached.times == []
    timers.advance(100)
    assert reached.times == [start + 5]


def test_deadline_moved_later_is_not_reached_early_and_keeps_its_timer() -> None:
    timers, deadline, reached = new_deadline()
    start = timers.now
    deadline.set(5, timers.now)
    for _ in range(10):
        timers.advance(1)
        deadline.set(5, timers.now)
        assert len(timers.pending) == 1
    assert reached.times == []
    timers.advance(100)
    assert reached.times == [start + 15]


def test_deadline_moved_earlier_is_reached_early() -> None:
    timers, deadline, reached = new_deadline()
    start = timers.now
    deadline.set(60, timers.now)
    deadline.set(2, timers.now)
    assert len(timers.pending) == 1
    timers.advance(100)
    assert reached.times == [start + 2]


def test_deadline_that_is_far_at_first_and_moved_near_at_once_keeps_its_timer() -> None:
    timers, deadline, reached = new_deadline()
    start = timers.now
    deadline.set(75, timers.now)
    (first,) = timers.pending
    deadline.set(0.5, timers.now)
    assert timers.pending == [first]
    deadline.set(75, timers.now)
    timers.advance(74.9)
    assert reached.times == []
    timers.advance(1)
    assert reached.times == [start + 75]


def test_deadline_taken_away_is_not_reached() -> None:
    timers, deadline, reached = new_deadline()
    deadline.set(5, timers.now)
    deadline.set(inf, timers.now)
    timers.advance(100)
    assert reached.times == []
    assert len(timers.pending) == 0


def test_deadline_taken_away_and_set_again_is_reached() -> None:
    timers, deadline, reached = new_deadline()
    start = timers.now
    deadline.set(5, timers.now)
    timers.advance(1)
    deadline.set(inf, timers.now)
    timers.advance(1)
    deadline.set(5, timers.now)
    timers.advance(100)
    assert reached.times == [start + 7]


def test_deadline_set_when_reached_is_reached_again() -> None:
    timers = ManualTimers()
    times: list[float] = []

    def again() -> None:
        times.append(timers.now)
        if len(times) < 3:
            deadline.set(2, timers.now)

    start = timers.now
    deadline = Deadline(FirstChecks(timers), timers.time, again)
    deadline.set(2, timers.now)
    timers.advance(100)
    assert times == [start + 2, start + 4, start + 6]


def test_deadline_passed_while_the_process_was_stopped_is_reached_once_the_loop_has_read() -> None:
    timers, deadline, reached = new_deadline()
    deadline.set(5, timers.now)
    timers.now += 30
    timers.advance(0)
    assert reached.times == []
    timers.advance(1)
    assert reached.times == [pytest.approx(1000 + 30.1)]
    # Though its loop is late all the time.
    deadline.set(5, timers.now)
    timers.now += 30
    timers.advance(0)
    timers.now += 30
    timers.advance(0)
    assert len(reached.times) == 2


def test_deadline_passed_while_the_process_was_stopped_moves_with_what_has_come() -> None:
    timers, deadline, reached = new_deadline()
    deadline.set(5, timers.now)
    timers.now += 30
    timers.advance(0)
    deadline.set(5, timers.now)
    timers.advance(4.9)
    assert reached.times == []
    timers.advance(1)
    assert reached.times == [1000 + 35]


def test_cancelled_deadline_leaves_no_timer() -> None:
    timers, deadline, reached = new_deadline()
    deadline.set(5, timers.now)
    deadline.cancel()
    deadline.cancel()
    assert len(timers.pending) == 0
    timers.advance(100)
    assert reached.times == []


def test_deadlines_that_are_new_have_one_timer_together() -> None:
    timers = ManualTimers()
    reached = Reached(timers)
    start = timers.now
    checks = FirstChecks(timers)
    deadlines = [Deadline(checks, timers.time, reached) for _ in range(3)]
    for deadline in deadlines:
        deadline.set(5, timers.now)
        timers.advance(0.1)
        assert len(timers.pending) == 1
    deadlines[1].cancel()
    assert len(timers.pending) == 1
    timers.advance(100)
    assert reached.times == [start + 5, pytest.approx(start + 5.2)]


def test_deadline_that_another_one_takes_away_is_not_reached() -> None:
    timers = ManualTimers()
    reached = Reached(timers)
    checks = FirstChecks(timers)
    first = Deadline(checks, timers.time, lambda: second.cancel())
    second = Deadline(checks, timers.time, reached)
    for deadline in (first, second):
        deadline.set(0.5, timers.now)
    timers.advance(100)
    assert reached.times == []
    assert len(timers.pending) == 0


def test_deadline_is_reached_where_that_before_it_fails() -> None:
    timers = ManualTimers()
    reached = Reached(timers)
    checks = FirstChecks(timers)

    def fail() -> None:
        raise ZeroDivisionError

    start = timers.now
    first, second = Deadline(checks, timers.time, fail), Deadline(checks, timers.time, reached)
    for deadline in (first, second):
        deadline.set(0.5, timers.now)
    with pytest.raises(ZeroDivisionError):
        timers.advance(1)
    timers.advance(1)
    assert reached.times == [start + 0.5]


# --- the table -----------------------------------------------------------------------------------


def test_every_state_has_a_row() -> None:
    """While a request is being answered, that is the row of what has become of it."""
    rows = [row.split("|")[1].strip() for row in table().splitlines()[2:]]
    busy = ["BUSY, BODY", "BUSY, QUEUED", "BUSY, ACTIVE", "BUSY, ANSWERED"]
    assert rows == ["IDLE", "HEAD", *busy, "DROPPING", "CLOSING", "CLOSED"]


def test_every_state_in_which_the_client_is_awaited_has_a_timeout() -> None:
    timeouts = Timeouts(Config())
    # What it is while a request is there says the state of that. Who is gone is not waited for.
    unbounded = {state for state in ConnectionState if timeouts.connection[state] == inf}
    assert unbounded == {ConnectionState.BUSY, ConnectionState.CLOSED}
    # The application takes its time, unless that is limited; who takes the response is looked
    # after for as long as there is any. The others are over in the same pass of the loop.
    streams = {state for state in StreamState if timeouts.stream[state] == inf}
    assert streams - {StreamState.ACTIVE, StreamState.ANSWERED} == {
        StreamState.BEGUN,
        StreamState.ENDED,
    }
    rules = [*RULES.values(), *STREAM_RULES.values()]
    assert [rule for rule in rules if rule.timeout is None] == [RULES[ConnectionState.CLOSED]]


# --- IDLE ----------------------------------------------------------------------------------------


def test_new_connection_that_stays_silent_is_closed_without_a_word() -> None:
    connection = connection_with()
    connection.timers.advance(64.9)
    assert not connection.closed
    connection.timers.advance(0.2)
    assert connection.closed
    assert connection.sent == b""
    assert len(connection.timers.pending) == 0


def test_idle_connection_is_closed_after_the_last_response_not_after_the_first() -> None:
    connection = connection_with()
    for _ in range(3):
        connection.timers.advance(60)
        connection.receive(GET)
        connection.run_job()
    assert connection.sent.count(b"200 OK") == 3
    size = len(connection.sent)
    connection.timers.advance(64.9)
    assert not connection.closed
    connection.timers.advance(0.2)
    assert connection.closed
    assert len(connection.sent) == size


@pytest.mark.parametrize("end", [False, True], ids=["open", "half-closed"])
def test_empty_line_behind_a_request_does_not_begin_another(end: bool) -> None:
    """RFC 9112 §2.2: old clients send a CRLF behind the body. Nobody waits for an answer to it."""
    connection = connection_with()
    connection.receive(GET + b"\r\n")
    if end:
        connection.end()
    connection.run_job()
    connection.timers.advance(64)
    assert connection.sent.count(b"HTTP/1.1") == 1
    assert connection.closed == end
    connection.timers.advance(2)
    assert connection.sent.count(b"HTTP/1.1") == 1
    assert connection.closed


# --- HEAD ----------------------------------------------------------------------------------------


def test_slow_head_gets_a_408_however_it_dribbles() -> None:
    connection = connection_with()
    head = b"GET / HTTP/1.1\r\nHost: h\r\nX-Slow: aaaaaaaaaaaaaaaaaaaaaaaa"
    for byte in head[:11]:
        connection.receive(bytes([byte]))
        connection.timers.advance(0.99)
    assert connection.sent == b""
    connection.receive(head[11:12])
    connection.timers.advance(0.2)
    assert connection.status == 408
    assert b"\r\nConnection: close\r\n" in connection.sent
    assert connection.wire.half_closed
    assert not connection.pool.jobs


def test_head_clock_starts_with_the_first_byte() -> None:
    connection = connection_with()
    connection.timers.advance(60)
    connection.receive(b"G")
    connection.timers.advance(10.9)
    connection.receive(GET[1:])
    connection.run_job()
    assert connection.status == 200


def test_head_clock_of_the_next_request_runs_when_it_begins_behind_another() -> None:
    connection = connection_with()
    connection.receive(GET + b"GET /sec")
    connection.timers.advance(10)
    connection.run_job()
    connection.timers.advance(10.9)
    assert connection.sent.count(b"HTTP/1.1") == 1
    connection.timers.advance(0.2)
    assert connection.sent.count(b"HTTP/1.1 408") == 1


# --- BODY ----------------------------------------------------------------------------------------


def test_body_that_stays_away_gets_a_408_and_no_thread() -> None:
    connection = connection_with()
    connection.receive(POST_TEN + b"abc")
    connection.timers.advance(30.9)
    assert connection.sent == b""
    connection.timers.advance(0.2)
    assert connection.status == 408
    assert not connection.pool.jobs


def test_body_clock_starts_again_with_every_byte() -> None:
    """A client that was quick at first may be silent again and again, each time for that long."""
    connection = connection_with(read_all, min_body_rate=1, body_prefetch=1000)
    connection.receive(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 310\r\n\r\n")
    connection.receive(b"x" * 300)
    for _ in range(10):
        connection.timers.advance(30)
        assert not connection.pool.jobs
        connection.receive(b"x")
    connection.run_job()
    assert connection.status == 200
    assert connection.sent.endswith(b"310")


def test_body_that_stops_gets_a_408_however_quick_it_was() -> None:
    connection = connection_with(min_body_rate=1, body_prefetch=1000)
    connection.receive(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 900\r\n\r\n")
    connection.timers.advance(20)
    connection.receive(b"x" * 800)
    connection.timers.advance(30.9)
    assert connection.sent == b""
    connection.timers.advance(0.2)
    assert connection.status == 408
    assert not connection.pool.jobs


def test_body_that_dribbles_gets_a_408_and_no_thread() -> None:
    """It is never silent for long, but its connection and its memory are not kept for ever."""
    connection = connection_with(min_body_rate=10, body_prefetch=1000)
    connection.receive(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 900\r\n\r\n")
    for _ in range(6):
        connection.timers.advance(5)
        connection.receive(b"x" * 10)
    # It had 31 seconds, and one more for each 10 of its 60 bytes.
    connection.timers.advance(6.9)
    assert connection.sent == b""
    connection.timers.advance(0.2)
    assert connection.status == 408
    assert not connection.pool.jobs


# --- QUEUED --------------------------------------------------------------------------------------


def test_half_closed_client_gets_its_answer_where_the_queue_is_short() -> None:
    connection = connection_with(queue_target=2.0)
    connection.receive(GET)
    connection.end()
    connection.timers.advance(1.4)
    connection.run_job()
    assert connection.status == 200


def test_request_of_a_client_that_ended_its_side_does_not_run_where_the_queue_is_long() -> None:
    connection = connection_with(queue_target=2.0)
    connection.receive(GET)
    connection.end()
    connection.timers.advance(2.6)
    assert connection.closed
    assert connection.pool.jobs[0].cancelled
    assert connection.sent == b""


def test_full_queue_gets_a_503_with_retry_after() -> None:
    connection = connection_with()
    connection.pool.full = True
    connection.receive(GET)
    assert connection.status == 503
    assert b"\r\nRetry-After: 5\r\n" in connection.sent
    assert b"\r\nConnection: close\r\n" in connection.sent


def test_request_that_waits_too_long_for_a_thread_gets_a_503_and_is_not_run() -> None:
    connection = connection_with()
    connection.receive(GET)
    connection.timers.advance(16.9)
    assert connection.sent == b""
    connection.timers.advance(0.2)
    assert connection.status == 503
    assert b"\r\nRetry-After: 5\r\n" in connection.sent
    assert connection.pool.jobs[0].cancelled


def test_queue_clock_does_not_end_a_request_that_runs() -> None:
    """A thread that has not written yet tells nobody that it has begun."""
    begun, go_on = threading.Event(), threading.Event()

    def slow(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        begun.set()
        assert go_on.wait(TIMEOUT)
        return hello(environ, start_response)

    connection = connection_with(slow)
    connection.receive(GET)
    thread = connection.start_job()
    assert begun.wait(TIMEOUT)
    connection.timers.advance(10_000)
    assert connection.sent == b""
    assert not connection.closed
    go_on.set()
    connection.timers.run_until(lambda: connection.sent)
    thread.join(TIMEOUT)
    assert connection.status == 200


# --- ACTIVE: the body ----------------------------------------------------------------------------


def stalled_upload(
    app: object, head: bytes = POST_STREAMED, **options: object
) -> tuple[MemoryConnection, threading.Thread]:
    """Start an application that waits for the rest of its body."""
    connection = connection_with(app, **options)
    connection.receive(head)
    thread = connection.start_job()
    # It has taken what there was; what it wants now has to come from the client.
    connection.timers.run_until(lambda: connection.connection.blocks_thread)
    connection.timers.run_ready()
    return connection, thread


def test_stalled_upload_gets_a_408_when_the_application_gives_up() -> None:
    connection, thread = stalled_upload(read_all)
    connection.timers.advance(30.9)
    assert connection.sent == b""
    connection.timers.advance(0.2)
    thread.join(TIMEOUT)
    connection.timers.run_ready()
    assert connection.status == 408
    assert connection.wire.half_closed


def test_stalled_upload_gets_the_application_s_own_answer() -> None:
    errors: list[BaseException] = []

    def careful(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        try:
            environ["wsgi.input"].read()
        except ConnectionError as error:
            errors.append(error)
        start_response("400 Too Slow", [("Content-Type", "text/plain")])
        return [b"own answer"]

    connection, thread = stalled_upload(careful)
    connection.timers.advance(31.1)
    thread.join(TIMEOUT)
    connection.timers.run_ready()
    assert connection.sent.startswith(b"HTTP/1.1 400 Too Slow\r\n")
    assert connection.sent.endswith(b"own answer")
    assert connection.wire.half_closed
    assert isinstance(errors[0], RequestBodyError)
    assert "took too long" in str(errors[0])


# Read as it comes, and never more of it in memory than there may be: the client is always awaited.
LONG_STREAMED = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2600\r\n\r\n" + b"x" * 200


def test_upload_that_goes_on_is_not_cut() -> None:
    connection, thread = stalled_upload(read_all, LONG_STREAMED, min_body_rate=1, body_prefetch=200)
    for _ in range(80):
        connection.timers.advance(30)
        # The thread has to make room first.
        connection.timers.run_until(lambda: connection.wire.reading)
        connection.receive(b"x" * 30)
    connection.timers.run_until(lambda: connection.sent)
    thread.join(TIMEOUT)
    assert connection.status == 200
    assert connection.sent.endswith(b"2600")


def test_upload_that_dribbles_gets_a_408_when_the_application_gives_up() -> None:
    connection, thread = stalled_upload(
        read_all, LONG_STREAMED, min_body_rate=10, body_prefetch=200
    )
    for _ in range(6):
        connection.timers.advance(5)
        connection.receive(b"x" * 10)
    # It had 31 seconds, and one more for each 10 of its 260 bytes.
    connection.timers.advance(26.9)
    assert connection.sent == b""
    connection.timers.advance(0.2)
    thread.join(TIMEOUT)
    connection.timers.run_ready()
    assert connection.status == 408


def test_client_that_was_told_to_continue_and_sends_nothing_gets_a_408() -> None:
    connection, thread = stalled_upload(read_all, POST_EXPECT)
    assert connection.sent == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.timers.advance(31.1)
    thread.join(TIMEOUT)
    connection.timers.run_ready()
    assert b"\r\n\r\nHTTP/1.1 408 " in connection.sent


def test_body_that_is_awaited_behind_the_head_of_the_response_is_not_awaited_for_ever() -> None:
    """No 100 may follow a final response, and the client that waits for it never sends its body.

    The thread has to come back all the same (RFC 9110 §10.1.1).
    """
    go_on = threading.Event()

    def answers_first(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"wait"
        assert go_on.wait(TIMEOUT)
        yield environ["wsgi.input"].read()

    connection = connection_with(answers_first)
    connection.receive(POST_EXPECT)
    thread = connection.start_job()
    connection.timers.run_until(lambda: connection.sent)
    go_on.set()
    connection.timers.run_until(lambda: connection.connection.blocks_thread)
    connection.timers.run_ready()
    connection.timers.advance(31.1)
    thread.join(1.0)
    released = not thread.is_alive()
    connection.connection.on_lost()
    thread.join(TIMEOUT)
    assert released
    assert b"100 Continue" not in connection.sent


def test_expectation_of_one_request_does_not_live_on_in_the_next() -> None:
    """An empty chunked body may overtake the application's first look at its input."""
    connection = connection_with(read_all)
    connection.receive(POST_CHUNKED[:-2] + b"Expect: 100-continue\r\n\r\n")
    thread = connection.start_job()
    # The thread waits for its body; the loop does not get to know before the body has ended.
    end = time.monotonic() + TIMEOUT
    while not connection.connection.blocks_thread:
        assert time.monotonic() < end
        time.sleep(0.001)
    connection.receive(b"0\r\n\r\n")
    thread.join(TIMEOUT)
    connection.timers.run_ready()
    assert connection.status == 200
    size = len(connection.sent)

    connection.receive(POST_STREAMED)
    thread = connection.start_job()
    connection.timers.run_until(lambda: connection.connection.blocks_thread)
    connection.timers.run_ready()
    assert len(connection.sent) == size, "a 100 for a client that did not ask"
    connection.timers.advance(31.1)
    thread.join(1.0)
    released = not thread.is_alive()
    connection.connection.on_lost()
    thread.join(TIMEOUT)
    assert released


def test_time_that_the_application_takes_is_not_the_client_s() -> None:
    """The body is whole: whatever the application waits for, it is not the client."""
    connection = connection_with(hello)
    connection.receive(POST_STREAMED + b"x" * 80)
    connection.run_job()
    connection.receive(GET)
    connection.pool.jobs[0].taken = JobThread("thread", 0, connection.timers.time())
    connection.timers.advance(100_000)
    assert not connection.closed


# --- ACTIVE and CLOSING: sending -----------------------------------------------------------------


def paused_generator(chunks: list[bytes], finished: threading.Event) -> WSGIApplication:
    """Make an application that sends the chunks one by one."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        try:
            yield from chunks
        finally:
            finished.set()

    return app


def test_thread_that_is_blocked_by_a_client_that_takes_nothing_is_released() -> None:
    finished = threading.Event()
    connection = connection_with(paused_generator([b"x" * 50_000] * 100, finished))
    connection.wire.capacity = 0
    connection.receive(GET)
    thread = connection.start_job()
    connection.timers.run_until(lambda: connection.connection.blocks_thread)
    assert not finished.is_set()
    connection.timers.advance(60.9)
    assert not connection.wire.was_aborted
    assert not finished.is_set()
    connection.timers.advance(2)
    assert connection.wire.was_aborted
    thread.join(TIMEOUT)
    assert finished.is_set()
    assert connection.disconnects == 1


class FewTimers(ManualTimers):
    """Has no timer to give where somebody looks again and again."""

    def __init__(self) -> None:
        super().__init__()
        self._left = 200

    def call_later(self, delay: float, callback: Callable[[], object]) -> ManualTimer:
        self._left -= 1
        assert self._left, "too many timers"
        return super().call_later(delay, callback)


def test_body_that_is_late_does_not_matter_while_the_client_takes_nothing() -> None:
    """It may wait for its response to go on before it sends the rest."""
    finished = threading.Event()
    send_all = paused_generator([b"x" * 50_000] * 100, finished)

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        environ["wsgi.input"].read(15)  # There is room for more than has come.
        return send_all(environ, start_response)

    connection = connection_with(app, timers=FewTimers())
    connection.wire.capacity = 0
    connection.receive(POST_STREAMED)
    thread = connection.start_job()
    try:
        connection.timers.run_until(lambda: connection.connection.blocks_thread)
        connection.timers.advance(60.9)
        assert not connection.wire.was_aborted
        connection.timers.advance(2)
        assert connection.wire.was_aborted
    finally:
        connection.connection.on_lost()
        thread.join(TIMEOUT)
    assert finished.is_set()


def test_client_that_takes_little_is_not_cut_where_no_rate_is_asked_for() -> None:
    finished = threading.Event()
    connection = connection_with(
        paused_generator([b"x" * 50_000] * 100, finished), min_response_rate=0
    )
    connection.wire.capacity = 0
    connection.receive(GET)
    thread = connection.start_job()
    connection.timers.run_until(lambda: connection.wire.pending)
    for _ in range(20):
        connection.timers.advance(55)
        connection.wire.take(1)
    assert not connection.wire.was_aborted
    assert not finished.is_set()
    connection.timers.advance(64)
    assert connection.wire.was_aborted
    connection.timers.run_ready()
    thread.join(TIMEOUT)
    assert finished.is_set()


@pytest.mark.parametrize(("taken", "until"), [(20, 63), (100, 71), (10_000, 115)])
def test_response_needs_its_rate_once_the_first_patience_is_over(taken: int, until: int) -> None:
    """Ten bytes are worth a second, and none is worth more than the patience for silence."""
    connection = connection_with(large, response_buffer=1 << 20, min_response_rate=10)
    connection.wire.capacity = 0
    connection.receive(GET)
    connection.run_job()
    connection.timers.advance(53)
    connection.wire.take(taken)
    # It is looked at every other second.
    connection.timers.advance(until - 53 - 0.1)
    assert not connection.wire.was_aborted
    connection.timers.advance(2.2)
    assert connection.wire.was_aborted
    assert connection.closed


def test_pauses_of_a_stream_make_its_client_no_faster() -> None:
    """It takes each portion in time, and some 10 KB a second in all."""
    finished = threading.Event()
    connection = connection_with(
        paused_generator([b"x" * 50_000] * 100, finished), min_response_rate=50_000
    )
    connection.wire.capacity = 0
    connection.receive(GET)
    thread = connection.start_job()
    drained = 0
    while not connection.closed:
        connection.timers.run_until(lambda: connection.wire.pending)
        connection.timers.advance(25)
        # Everything that is left: nothing is waited for until the next portion comes.
        connection.wire.take(len(connection.wire.pending))
        drained += 1
    assert drained == 3
    thread.join(TIMEOUT)
    assert finished.is_set()


def test_bytes_that_the_client_sends_are_no_progress_of_what_it_takes() -> None:
    """Dribbling an upload must not keep a thread that waits for the client to read."""
    finished = threading.Event()
    connection = connection_with(paused_generator([b"x" * 50_000] * 100, finished))
    connection.wire.capacity = 0
    connection.receive(POST_EXPECT)
    thread = connection.start_job()
    connection.timers.run_until(lambda: connection.wire.pending)
    for _ in range(4):
        connection.timers.advance(30)
        if not connection.closed:
            connection.receive(b"x")
    cut = connection.wire.was_aborted
    connection.connection.on_lost()
    thread.join(TIMEOUT)
    assert cut


def test_rest_of_a_response_is_sent_for_as_long_as_the_client_takes_it() -> None:
    connection = connection_with(large, response_buffer=1 << 20)
    connection.wire.capacity = 0
    connection.receive(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    connection.run_job()
    while connection.wire.pending:
        connection.timers.advance(50)
        assert not connection.wire.was_aborted
        connection.wire.take(30_000)
    assert connection.sent.endswith(b"x" * 200_000)


def test_kept_connection_whose_client_does_not_take_the_response_is_cut() -> None:
    connection = connection_with(large, response_buffer=1 << 20)
    connection.wire.capacity = 0
    connection.receive(GET)
    connection.run_job()
    connection.timers.advance(65 + 61 + LINGER_TIMEOUT + 0.2)
    assert connection.wire.was_aborted
    assert connection.closed


def test_rest_of_a_response_that_the_client_does_not_take_is_cut() -> None:
    connection = connection_with(large, response_buffer=1 << 20)
    connection.wire.capacity = 0
    connection.receive(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    connection.run_job()
    connection.timers.advance(60.9)
    assert not connection.wire.was_aborted
    connection.timers.advance(LINGER_TIMEOUT + 0.2)
    assert connection.wire.was_aborted
    assert connection.closed


# --- ANSWERED ------------------------------------------------------------------------------------


def test_refusal_that_the_client_does_not_take_is_cut() -> None:
    connection = connection_with()
    connection.wire.capacity = 0
    connection.receive(b"GET / HTTP/3.0\r\n")
    connection.timers.advance(60.9)
    assert not connection.closed
    connection.timers.advance(LINGER_TIMEOUT + 0.2)
    assert connection.wire.was_reset
    assert connection.closed


def test_client_that_takes_a_refusal_slowly_gets_all_of_it_before_the_connection_ends() -> None:
    connection = connection_with()
    connection.wire.capacity = 0
    connection.receive(b"GET / HTTP/3.0\r\n")
    while connection.wire.pending:
        assert not connection.wire.half_closed
        # Whatever it says meanwhile, it has been answered.
        connection.receive(GET)
        connection.timers.advance(5)
        connection.wire.take(50)
    connection.timers.run_ready()
    assert connection.wire.half_closed
    assert connection.sent.startswith(b"HTTP/1.1 505 ")
    assert connection.sent.count(b"\r\n\r\n") == 1
    connection.end()
    assert connection.closed
    assert not connection.wire.was_aborted


def test_client_that_sends_its_body_before_it_reads_the_refusal_can_do_so() -> None:
    """Unless the server reads, neither goes on. What it reads is of no use, and not kept."""
    connection = connection_with()
    connection.wire.capacity = 0
    connection.receive(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10000000\r\n\r\n")
    connection.timers.advance(31.1)
    for _ in range(10):
        connection.receive(b"x" * 1_000_000)
    assert connection.resources.budget.used == 0
    connection.wire.take(1000)
    connection.timers.run_ready()
    assert connection.status == 408
    assert connection.wire.half_closed
    assert connection.wire.reading


def test_request_that_waits_in_vain_is_read_from_again_once_it_is_refused() -> None:
    connection = connection_with()
    connection.wire.capacity = 0
    connection.receive(GET)
    connection.receive(b"x" * 100_000)
    assert not connection.wire.reading
    connection.timers.advance(17.1)
    connection.receive(b"x" * 100_000)
    assert connection.resources.budget.used == 0
    connection.wire.take(1000)
    assert connection.status == 503


# --- DROPPING ------------------------------------------------------------------------------------


def test_unread_body_that_does_not_arrive_closes_the_connection_without_a_word() -> None:
    connection = connection_with(hello)
    connection.receive(POST_STREAMED)
    connection.run_job()
    size = len(connection.sent)
    connection.timers.advance(30.9)
    assert not connection.closed
    connection.timers.advance(0.2)
    assert connection.closed
    assert len(connection.sent) == size


@pytest.mark.parametrize("rest", [None, b"XYZ\r\n"], ids=["end", "broken chunk"])
def test_broken_rest_of_an_answered_request_gets_no_second_answer(rest: bytes | None) -> None:
    """The client would take it for the answer to a request that it has not sent yet."""
    connection = connection_with(hello)
    connection.receive(POST_CHUNKED + b"14\r\n" + b"x" * 20 + b"\r\n")
    connection.run_job()
    assert connection.status == 200
    if rest is None:
        connection.end()
    else:
        connection.receive(rest)
    connection.timers.advance(LINGER_TIMEOUT + 0.1)
    assert connection.sent.count(b"HTTP/1.1") == 1
    assert connection.closed


# --- CLOSING -------------------------------------------------------------------------------------


def refused() -> MemoryConnection:
    connection = connection_with()
    connection.receive(b"GET / HTTP/3.0\r\n")
    assert connection.status == 505
    assert connection.wire.half_closed
    assert not connection.closed
    return connection


def test_refused_client_has_some_seconds_to_read_the_answer() -> None:
    connection = refused()
    connection.timers.advance(LINGER_TIMEOUT - 0.1)
    assert not connection.closed
    connection.timers.advance(0.2)
    assert connection.closed


def test_refused_client_that_ends_its_side_is_done() -> None:
    connection = refused()
    connection.end()
    assert connection.closed
    assert not connection.wire.was_aborted
    assert len(connection.timers.pending) == 0


def test_refused_client_may_send_on_for_a_while() -> None:
    """What it sends shows that it is there; it is dropped, however much it is."""
    connection = refused()
    step = LINGER_TIMEOUT / 2
    for _ in range(int(LINGER_TOTAL / step) - 1):
        connection.timers.advance(step)
        assert not connection.closed
        connection.receive(b"x" * 1_000_000)
    size = len(connection.sent)
    connection.timers.advance(step + 0.1)
    connection.receive(b"x")
    assert connection.closed
    assert len(connection.sent) == size


def test_closing_connection_reads_on_even_if_it_was_having_a_pause() -> None:
    """Unread bytes would turn the end into a reset, and the client's end would go unnoticed."""
    connection = connection_with(hello)
    head = POST_CHUNKED[:-2] + b"Connection: close\r\nExpect: 100-continue\r\n\r\n"
    connection.receive(head)
    # More chunks than are handled in one go: reading pauses until the next pass of the loop. The
    # thread has written before that.
    connection.receive(b"1\r\nx\r\n" * 200)
    assert not connection.wire.reading
    connection.pool.jobs.pop().run()
    stream = connection.connection.stream
    assert stream is not None
    connection.connection.look_after(stream)
    assert connection.wire.half_closed
    connection.timers.run_ready()
    assert connection.wire.reading


# --- the end -------------------------------------------------------------------------------------


Moment = ConnectionState | StreamState

# What a client has sent by then. Members of different enumerations may be equal.
MOMENTS: list[tuple[Moment, bytes]] = [
    (ConnectionState.IDLE, b""),
    (ConnectionState.HEAD, GET[:10]),
    (StreamState.BODY, POST_TEN + b"x"),
    (StreamState.QUEUED, GET),
    (StreamState.ACTIVE, POST_STREAMED),
    (StreamState.ANSWERED, b"GET / HTTP/3.0\r\n"),
    (ConnectionState.DROPPING, POST_STREAMED),
    (ConnectionState.CLOSING, b"GET / HTTP/3.0\r\n"),
]
at_each_moment = pytest.mark.parametrize(
    ("moment", "data"), [pytest.param(*moment, id=moment[0].name) for moment in MOMENTS]
)


def connection_at(moment: Moment, data: bytes, **options: object) -> MemoryConnection:
    """Return a connection in a state, or with a request in one."""
    connection = connection_with(hello, **options)
    if moment is StreamState.ANSWERED:
        connection.wire.capacity = 0
    if data:
        connection.receive(data)
    if moment is ConnectionState.DROPPING:
        connection.run_job()
    if moment is StreamState.ACTIVE:
        connection.pool.jobs[0].taken = JobThread("thread", 0, connection.timers.time())
    # By then the loop has looked whether a thread has taken the request.
    connection.timers.advance(0.5)
    stream = connection.connection.stream
    assert (connection.connection.state if stream is None else stream.state) is moment
    return connection


@at_each_moment
def test_connection_that_is_lost_leaves_no_timer(moment: Moment, data: bytes) -> None:
    """A timer that survives keeps the connection's whole object graph (Soju06/codex-lb#2041)."""
    # Without a limit there is no timer while the application runs.
    connection = connection_at(moment, data, timeout_request=43.0)
    assert len(connection.timers.pending) == 1
    connection.connection.on_lost()
    assert len(connection.timers.pending) == 0
    assert connection.disconnects == 1
    assert not connection.shared.connections
    # What comes late changes nothing.
    connection.connection.on_lost()
    connection.timers.advance(10_000)
    assert len(connection.timers.pending) == 0
    assert connection.disconnects == 1


@at_each_moment
def test_shutdown_follows_the_table(moment: Moment, data: bytes) -> None:
    connection = connection_at(moment, data)
    # As the server does: what is in flight is the last, and nothing follows it.
    connection.resources.is_draining = True
    connection.connection.announce_close()
    connection.shared.is_closing = True
    connection.connection.close_if_idle()
    rule = STREAM_RULES[moment] if isinstance(moment, StreamState) else RULES[moment]
    if rule.on_shutdown == "close":
        assert connection.connection.state is ConnectionState.CLOSING
        return
    assert not connection.closed
    if moment is StreamState.QUEUED or moment is StreamState.ACTIVE:
        connection.pool.jobs[0].taken = None
        connection.run_job()
        assert connection.status == 200
        assert b"\r\nConnection: close\r\n" in connection.sent
        connection.end()
        assert connection.closed


def test_connection_that_comes_during_a_shutdown_is_closed() -> None:
    connection = connection_with()
    connection.shared.is_closing = True
    late = MemoryWire(connection.timers)
    connection.connect(late)
    connection.timers.run_ready()
    assert late.lost
    assert not connection.closed
