"""Every row of both transition tables is reached, and what is in none of them is a defect.

That nothing else happens either, in whatever order things come, is for the state machine to find
out (``test_connection_machine``): there, too, an illegal event raises.
"""

import logging
from collections.abc import Callable, Iterator
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import pytest
from memory import MemoryConnection, MemoryWire

from aiowsgi.answers.health import HealthAnswerer
from aiowsgi.connection import states as connections
from aiowsgi.connection.states import ConnectionEvent, ConnectionState
from aiowsgi.exchange import states as streams
from aiowsgi.exchange.interfaces import Answerer
from aiowsgi.exchange.states import StreamEvent, StreamState
from aiowsgi.exchange.stream import Stream
from aiowsgi.exchange.transitions import IllegalEvent, log_defect

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
GET_HEALTH = b"GET /up HTTP/1.1\r\nHost: h\r\n\r\n"
# With ten bytes of a body that are not here yet.
POST = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n"
POST_HEALTH = b"POST /up HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n"
BODY = b"0123456789"

State = ConnectionState | StreamState
Event = ConnectionEvent | StreamEvent
# A scenario returns the state before an event, and the state behind it.
Scenario = Callable[[], tuple[State, State]]
# By the names of state and event: members of two enumerations of numbers may be equal.
Entry = tuple[str, str]
SCENARIOS: dict[Entry, Scenario] = {}
ENTRIES: dict[Entry, tuple[State, State]] = {}


def entry(state: State, event: Event) -> Entry:
    """Return the name of an entry of either table."""
    return f"{type(state).__name__}.{state.name}", event.name


for rows in (connections.TRANSITIONS, streams.TRANSITIONS):
    for state, row in rows.items():
        for event, after in row.items():
            ENTRIES[entry(state, event)] = state, after


def shows(state: State, event: Event) -> Callable[[Scenario], Scenario]:
    """Register the scenario of one entry."""

    def register(scenario: Scenario) -> Scenario:
        assert entry(state, event) not in SCENARIOS
        SCENARIOS[entry(state, event)] = scenario
        return scenario

    return register


def hello(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
    return [b"hello"]


def connect(app: WSGIApplication = hello, **options: Any) -> MemoryConnection:
    """Return a connection whose server has a health check at ``/up``."""
    client = MemoryConnection(app, **options)
    shared = client.shared
    shared.answerer = HealthAnswerer("/up", lambda: True, shared.answerer)
    return client


def stream_of(client: MemoryConnection) -> Stream:
    """Return the stream that is in flight."""
    assert client.connection.stream is not None
    return client.connection.stream


def fail(client: MemoryConnection) -> None:
    """Let the client go."""
    client.wire.fail()
    client.timers.run_ready()


# Connections.


@shows(connections.IDLE, connections.BYTES)
def a_head_begins() -> tuple[State, State]:
    client = connect()
    before = client.connection.state
    client.receive(GET[:7])
    return before, client.connection.state


@shows(connections.IDLE, connections.REQUEST)
def a_head_comes_as_a_whole() -> tuple[State, State]:
    client = connect()
    before = client.connection.state
    client.receive(GET)
    return before, client.connection.state


@shows(connections.IDLE, connections.CLOSE)
def an_idle_connection_is_closed() -> tuple[State, State]:
    client = connect()
    before = client.connection.state
    client.connection.close_if_idle()
    return before, client.connection.state


@shows(connections.IDLE, connections.LOST)
def an_idle_client_goes() -> tuple[State, State]:
    client = connect()
    before = client.connection.state
    fail(client)
    return before, client.connection.state


@shows(connections.HEAD, connections.REQUEST)
def a_head_is_completed() -> tuple[State, State]:
    client = connect()
    client.receive(GET[:7])
    before = client.connection.state
    client.receive(GET[7:])
    return before, client.connection.state


@shows(connections.HEAD, connections.LOST)
def a_client_goes_in_the_midst_of_a_head() -> tuple[State, State]:
    client = connect()
    client.receive(GET[:7])
    before = client.connection.state
    fail(client)
    return before, client.connection.state


@shows(connections.BUSY, connections.ANSWERED)
def a_request_is_answered() -> tuple[State, State]:
    client = connect()
    client.receive(GET)
    before = client.connection.state
    client.run_job()
    assert client.status == 200
    return before, client.connection.state


def connect_and_drain() -> MemoryConnection:
    """Return a connection whose response is complete before its request."""
    client = connect(body_prefetch=1)
    client.receive(POST + BODY[:5])
    client.run_job()
    assert client.status == 200
    return client


@shows(connections.BUSY, connections.ANSWERED_EARLY)
def a_request_is_answered_while_its_body_arrives() -> tuple[State, State]:
    client = connect(body_prefetch=1)
    client.receive(POST + BODY[:5])
    before = client.connection.state
    client.run_job()
    assert client.status == 200
    return before, client.connection.state


@shows(connections.BUSY, connections.CLOSE)
def the_last_request_is_answered() -> tuple[State, State]:
    client = connect()
    client.receive(GET)
    client.resources.is_draining = True
    before = client.connection.state
    client.run_job()
    assert client.wire.half_closed
    return before, client.connection.state


@shows(connections.BUSY, connections.LOST)
def a_client_does_not_wait_for_its_answer() -> tuple[State, State]:
    client = connect()
    client.receive(GET)
    before = client.connection.state
    fail(client)
    return before, client.connection.state


@shows(connections.DRAIN, connections.BODY_END)
def the_body_ends_behind_the_answer() -> tuple[State, State]:
    client = connect_and_drain()
    before = client.connection.state
    client.receive(BODY[5:])
    return before, client.connection.state


@shows(connections.DRAIN, connections.CLOSE)
def the_server_does_not_wait_for_the_body() -> tuple[State, State]:
    client = connect_and_drain()
    before = client.connection.state
    client.connection.close_if_idle()
    return before, client.connection.state


@shows(connections.DRAIN, connections.LOST)
def a_client_is_answered_and_goes() -> tuple[State, State]:
    client = connect_and_drain()
    before = client.connection.state
    fail(client)
    return before, client.connection.state


@shows(connections.CLOSING, connections.LOST)
def a_client_closes_behind_the_last_answer() -> tuple[State, State]:
    client = connect()
    client.receive(b"nonsense\r\n\r\n")
    assert client.status == 400
    before = client.connection.state
    client.end()
    client.timers.run_ready()
    return before, client.connection.state


# Streams.


class Watcher:
    """An answerer that looks at each stream before and after another one has answered."""

    def __init__(self, client: MemoryConnection) -> None:
        self._answerer: Answerer = client.shared.answerer
        client.shared.answerer = self
        self.stream: Stream | None = None
        self.before: StreamState | None = None
        self.after: StreamState | None = None

    def answer(self, stream: Stream) -> None:
        """See ``Answerer``."""
        self.stream = stream
        self.before = stream.state
        self._answerer.answer(stream)
        self.after = stream.state

    def seen(self) -> tuple[StreamState, StreamState]:
        """Return the states of the stream that was answered last."""
        assert self.before is not None
        assert self.after is not None
        return self.before, self.after


@shows(streams.OPEN, streams.EXPECT_BODY)
def a_body_is_to_come() -> tuple[State, State]:
    client = connect()
    client.receive(POST)
    stream = stream_of(client)
    # As each stream is when it is made, which is not seen from here.
    new = stream.make_replacement(client.codec.encoder(stream.head))
    return new.state, stream.state


@shows(streams.OPEN, streams.DISPATCH)
def a_request_without_a_body_is_queued() -> tuple[State, State]:
    client = connect()
    watcher = Watcher(client)
    client.receive(GET)
    return watcher.seen()


@shows(streams.OPEN, streams.RESPOND)
def a_request_without_a_body_is_answered_by_the_loop() -> tuple[State, State]:
    client = connect()
    watcher = Watcher(client)
    client.receive(GET_HEALTH)
    return watcher.seen()


@shows(streams.OPEN, streams.GIVE_UP)
def a_request_without_a_body_finds_the_queue_full() -> tuple[State, State]:
    client = connect()
    watcher = Watcher(client)
    client.pool.full = True
    client.receive(GET)
    assert client.status == 503
    assert watcher.before is not None
    assert watcher.stream is not None
    return watcher.before, watcher.stream.state


@shows(streams.BODY, streams.DISPATCH)
def a_request_with_its_body_is_queued() -> tuple[State, State]:
    client = connect()
    watcher = Watcher(client)
    client.receive(POST + BODY)
    return watcher.seen()


@shows(streams.BODY, streams.RESPOND)
def a_request_with_its_body_is_answered_by_the_loop() -> tuple[State, State]:
    client = connect()
    watcher = Watcher(client)
    client.receive(POST_HEALTH + BODY)
    return watcher.seen()


@shows(streams.BODY, streams.GIVE_UP)
def a_client_goes_in_the_midst_of_a_body() -> tuple[State, State]:
    client = connect()
    client.receive(POST + BODY[:5])
    stream = stream_of(client)
    before = stream.state
    fail(client)
    return before, stream.state


class InTwoPieces:
    """Answers in two pieces. In between it lets the loop have its turn, and calls ``meanwhile``."""

    def __init__(self) -> None:
        self.client = connect(self._answer)
        self.client.receive(GET)
        self.stream = stream_of(self.client)
        self.seen: list[StreamState] = []
        self.meanwhile: Callable[[], object] = lambda: None

    def _answer(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "10")])
        yield b"hello"
        self.seen.append(self.stream.state)
        self.client.timers.run_ready()
        self.seen.append(self.stream.state)
        self.meanwhile()
        self.client.timers.run_ready()
        yield b"world"


@shows(streams.QUEUED, streams.START)
def a_thread_has_begun_and_the_loop_comes_to_know() -> tuple[State, State]:
    app = InTwoPieces()
    app.client.run_job()
    return app.seen[0], app.seen[1]


@shows(streams.QUEUED, streams.SENT)
def a_thread_answers_before_the_loop_knows_that_it_has_begun() -> tuple[State, State]:
    client = connect()
    client.receive(GET)
    stream = stream_of(client)
    client.pool.jobs.pop().run()
    before = stream.state
    client.timers.run_ready()
    assert client.sent.endswith(b"\r\n\r\nhello")
    return before, stream.state


@shows(streams.QUEUED, streams.GIVE_UP)
def a_client_goes_while_its_request_is_queued() -> tuple[State, State]:
    client = connect()
    client.receive(GET)
    stream = stream_of(client)
    before = stream.state
    fail(client)
    return before, stream.state


@shows(streams.ACTIVE, streams.SENT)
def an_application_comes_to_its_end() -> tuple[State, State]:
    app = InTwoPieces()
    app.client.run_job()
    assert app.client.sent.endswith(b"\r\n\r\nhelloworld")
    return app.seen[1], app.stream.state


@shows(streams.ACTIVE, streams.GIVE_UP)
def a_client_goes_while_the_application_runs() -> tuple[State, State]:
    app = InTwoPieces()
    app.meanwhile = app.client.wire.fail
    app.client.run_job()
    assert app.client.sent.endswith(b"\r\n\r\nhello")
    return app.seen[1], app.stream.state


@shows(streams.ANSWERED, streams.SENT)
def what_the_loop_answers_is_sent() -> tuple[State, State]:
    client = connect()
    client.receive(GET_HEALTH)
    stream = stream_of(client)
    before = stream.state
    client.timers.run_ready()
    assert client.sent.endswith(b"\r\n\r\nok\n")
    return before, stream.state


@shows(streams.ANSWERED, streams.GIVE_UP)
def a_client_does_not_take_what_the_loop_answers() -> tuple[State, State]:
    client = connect()
    client.wire.capacity = 10
    client.receive(GET_HEALTH)
    stream = stream_of(client)
    client.timers.run_ready()
    before = stream.state
    fail(client)
    assert len(client.sent) == 10
    return before, stream.state


@pytest.mark.parametrize("entry", list(ENTRIES), ids=" ".join)
def test_an_entry_is_reached(entry: Entry) -> None:
    before, after = SCENARIOS[entry]()
    # The same one, and not only an equal number.
    assert [before, after] == list(ENTRIES[entry])
    assert type(before) is type(after) is type(ENTRIES[entry][0])


def test_each_entry_has_its_scenario_and_nothing_else_has() -> None:
    assert set(SCENARIOS) == set(ENTRIES)


# What is in no table.

WAYS: dict[StreamState, tuple[StreamEvent, ...]] = {
    streams.OPEN: (),
    streams.BODY: (streams.EXPECT_BODY,),
    streams.QUEUED: (streams.DISPATCH,),
    streams.ACTIVE: (streams.DISPATCH, streams.START),
    streams.ANSWERED: (streams.RESPOND,),
    streams.ENDED: (streams.GIVE_UP,),
}
ILLEGAL = [
    pytest.param(state, event, id=f"{state.name} {event.name}")
    for state in StreamState
    for event in StreamEvent
    if event not in streams.TRANSITIONS[state]
]


def stream_in(client: MemoryConnection, state: StreamState) -> Stream:
    """Return a new stream that was brought into a state."""
    client.receive(GET)
    stream = stream_of(client)
    stream = stream.make_replacement(client.codec.encoder(stream.head))
    for event in WAYS[state]:
        stream.fire(event)
    assert stream.state is state
    return stream


@pytest.mark.parametrize(("state", "event"), ILLEGAL)
def test_a_stream_gets_no_event_that_is_not_in_its_row(
    state: StreamState, event: StreamEvent
) -> None:
    stream = stream_in(connect(), state)
    with pytest.raises(IllegalEvent, match=f"a stream in {state.name} got {event.name}"):
        stream.fire(event)
    assert stream.state is state


def test_a_connection_gets_no_event_that_is_not_in_its_row() -> None:
    client = connect()
    client.receive(GET)
    # No parser tells of another request before the end of this one.
    with pytest.raises(IllegalEvent, match="a connection in BUSY got REQUEST"):
        client.connection.on_head(stream_of(client).head)


def connect_two() -> tuple[MemoryConnection, MemoryWire]:
    """Return a connection to a server as in production, and the wire of another one."""
    client = connect()
    client.resources.on_defect = log_defect
    other = MemoryWire(client.timers)
    client.connect(other)
    return client, other


def check_that_one_is_cut(
    client: MemoryConnection, other: MemoryWire, caplog: pytest.LogCaptureFixture, message: str
) -> None:
    """See what becomes of a defect: one message, and one connection less."""
    (record,) = caplog.records
    assert record.name == "aiowsgi.error"
    assert record.levelno == logging.CRITICAL
    assert record.getMessage() == f"A defect of the server: {message}; its connection is cut"
    # Where it was found.
    assert record.stack_info is not None
    assert client.wire.was_aborted
    client.timers.run_ready()
    assert client.connection.state is ConnectionState.CLOSED
    assert client.disconnects == 1
    # The server goes on. A thread that takes the request all the same has nobody to answer to.
    other.owner.receive(GET)
    for job in client.pool.jobs:
        if not job.cancelled:
            job.run()
    client.timers.run_ready()
    assert not client.sent
    assert other.sent.endswith(b"\r\n\r\nhello")
    assert len(caplog.records) == 1


def test_an_illegal_event_of_a_stream_is_logged_and_cuts_its_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    client, other = connect_two()
    client.receive(GET)
    stream = stream_of(client)
    stream.fire(streams.EXPECT_BODY)
    assert stream.state is StreamState.QUEUED
    check_that_one_is_cut(client, other, caplog, "a stream in QUEUED got EXPECT_BODY")


def test_an_illegal_event_of_a_connection_is_logged_and_cuts_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    client, other = connect_two()
    client.receive(GET)
    client.connection.on_head(stream_of(client).head)
    check_that_one_is_cut(client, other, caplog, "a connection in BUSY got REQUEST")
