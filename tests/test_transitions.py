"""Every entry of both transition tables is reached, and what is in neither of them is a defect.

A scenario for each entry, and walks through both tables that use all of them. In both, an event
that is in no table raises; so it does where anything may happen (``test_connection_machine``).
"""

import logging
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import pytest
from extent import exhaustive
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from memory import TIMEOUT, ManualTimers, MemoryConnection, MemoryServer, MemoryWire
from stepped_app import Fail, Give, Return, Run, SteppedPool, SteppedThread

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
    return MemoryConnection(app, health_path="/up", **options)


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


@shows(connections.BUSY, connections.STREAM_END)
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


@shows(connections.BUSY, connections.STREAM_END_EARLY)
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


@shows(connections.DROPPING, connections.BODY_END)
def the_body_ends_behind_the_answer() -> tuple[State, State]:
    client = connect_and_drain()
    before = client.connection.state
    client.receive(BODY[5:])
    return before, client.connection.state


@shows(connections.DROPPING, connections.CLOSE)
def the_server_does_not_wait_for_the_body() -> tuple[State, State]:
    client = connect_and_drain()
    before = client.connection.state
    client.connection.close_if_idle()
    return before, client.connection.state


@shows(connections.DROPPING, connections.LOST)
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


@shows(streams.BEGUN, streams.EXPECT_BODY)
def a_body_is_to_come() -> tuple[State, State]:
    client = connect()
    client.receive(POST)
    stream = stream_of(client)
    # As each stream is when it is made, which is not seen from here.
    new = stream.make_replacement(client.codec.encoder(stream.head))
    return new.state, stream.state


@shows(streams.BEGUN, streams.DISPATCH)
def a_request_without_a_body_is_queued() -> tuple[State, State]:
    client = connect()
    watcher = Watcher(client)
    client.receive(GET)
    return watcher.seen()


@shows(streams.BEGUN, streams.RESPOND)
def a_request_without_a_body_is_answered_by_the_loop() -> tuple[State, State]:
    client = connect()
    watcher = Watcher(client)
    client.receive(GET_HEALTH)
    return watcher.seen()


@shows(streams.BEGUN, streams.GIVE_UP)
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


# In any order.

HEADS = {
    "GET": GET,
    "last GET": b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
    "health": GET_HEALTH,
    "POST": POST,
    "POST to health": POST_HEALTH,
}
OPTIONS: dict[str, Any] = {
    # A body of ten bytes is streamed where not all of it comes at once.
    "body_prefetch": 6,
    "timeout_header": 3.0,
    "timeout_body": 4.0,
    "min_body_rate": 1,
    "health_path": "/up",
    "timeout_keep_alive": 5.0,
    "queue_timeout": 6.0,
}
# What a timeout does in the states of a connection, without a stream.
ENDS_BY_TIME = {
    ConnectionState.IDLE: OPTIONS["timeout_keep_alive"],
    ConnectionState.DROPPING: OPTIONS["timeout_body"],
    ConnectionState.CLOSING: connections.LINGER_TIMEOUT,
}
REFUSED_BY_TIME = {
    StreamState.BODY: OPTIONS["timeout_body"],
    StreamState.QUEUED: OPTIONS["queue_timeout"],
}


# Most of what is there to be seen comes of a body.
kinds = st.sampled_from([*sorted(HEADS), "POST", "POST", "POST to health"])
body_sizes = st.sampled_from([1, *[OPTIONS["body_prefetch"]] * 4, len(BODY)])
rarely = st.sampled_from([False] * 4 + [True])


class Walk(RuleBasedStateMachine):
    """Walks both tables: what happens to a connection is told to a model that knows only them."""

    # The entries that were used by any of the walks.
    used: ClassVar[set[Entry]]

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        timers = ManualTimers()
        self.pool = SteppedPool(timers.time)
        self.server = MemoryServer(self.application, timers=timers, pool=self.pool, **OPTIONS)
        self.timers = timers
        self.thread: SteppedThread | None = None
        # The model: both states, what request there is, and how much of it has arrived.
        self.state = ConnectionState.CLOSED
        self.stream: StreamState | None = None
        self.kind = ""
        self.begun = 0
        self.body = 0

    def application(self, environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        return Run(self.folder, environ, start_response).call()

    # The model.

    def expect(self, *events: Event) -> None:
        """Go on in the tables."""
        for event in events:
            if isinstance(event, ConnectionEvent):
                self.used.add(entry(self.state, event))
                self.state = connections.TRANSITIONS[self.state][event]
                if event is connections.REQUEST:
                    self.stream = StreamState.BEGUN
            else:
                assert self.stream is not None
                self.used.add(entry(self.stream, event))
                after = streams.TRANSITIONS[self.stream][event]
                self.stream = None if after is StreamState.ENDED else after

    def expect_refusal(self) -> None:
        """The loop answers in place of what there was, and the client has to close."""
        if self.stream is None:
            self.expect(connections.REQUEST)
        else:
            self.expect(streams.GIVE_UP)
            self.stream = StreamState.BEGUN
        self.expect(streams.RESPOND, streams.SENT, connections.CLOSE)

    def expect_answer(self, *, full: bool) -> None:
        """The request is answered by the loop, queued, or refused where the queue is full."""
        if "health" in self.kind:
            self.expect(streams.RESPOND)
        elif full:
            self.expect_refusal()
        else:
            self.expect(streams.DISPATCH)

    def expect_end(self) -> None:
        """The response is sent."""
        self.expect(streams.SENT)
        if self.kind == "last GET":
            self.expect(connections.CLOSE, connections.LOST)
        elif self.arrives:
            self.expect(connections.STREAM_END_EARLY)
        else:
            self.expect(connections.STREAM_END)

    @property
    def arrives(self) -> bool:
        """Whether a body is not complete."""
        return "POST" in self.kind and self.body < len(BODY)

    @invariant()
    def the_connection_is_where_the_tables_lead(self) -> None:
        if self.state is ConnectionState.CLOSED:
            return
        stream = self.connection.stream
        assert self.connection.state is self.state
        assert (None if stream is None else stream.state) is self.stream

    # The client.

    @precondition(lambda self: self.state is ConnectionState.CLOSED)
    @rule()
    def connect(self) -> None:
        self.wire = MemoryWire(self.timers)
        self.connection = self.server.connect(self.wire)
        self.state = ConnectionState.IDLE

    @precondition(lambda self: self.state is ConnectionState.IDLE)
    @rule(kind=kinds)
    def begin_head(self, kind: str) -> None:
        self.kind, self.begun = kind, 7
        self.connection.receive(HEADS[kind][:7])
        self.expect(connections.BYTES)

    @precondition(lambda self: self.state in (ConnectionState.IDLE, ConnectionState.HEAD))
    @rule(kind=kinds, size=body_sizes, full=rarely)
    def send_head(self, kind: str, size: int, full: bool) -> None:
        if self.state is ConnectionState.IDLE:
            self.kind, self.begun = kind, 0
        self.body = 0
        self.pool.full = full
        self.connection.receive(HEADS[self.kind][self.begun :])
        self.expect(connections.REQUEST)
        if "POST" in self.kind:
            self.expect(streams.EXPECT_BODY)
            self.send_body(size, full)
        else:
            self.expect_answer(full=full)

    @precondition(lambda self: self.state in (ConnectionState.IDLE, ConnectionState.HEAD))
    @rule()
    def send_nonsense(self) -> None:
        self.connection.receive(b"\x00\r\n\r\n")
        self.expect_refusal()

    @precondition(lambda self: self.stream is not StreamState.ANSWERED and self.arrives)
    @precondition(lambda self: self.state in (ConnectionState.BUSY, ConnectionState.DROPPING))
    @rule(size=body_sizes, full=rarely)
    def send_body(self, size: int, full: bool) -> None:
        data = BODY[self.body :][:size]
        self.body += len(data)
        self.pool.full = full
        if data:
            self.connection.receive(data)
        self.timers.run_ready()
        if self.stream is StreamState.BODY:
            if not self.arrives or self.body >= OPTIONS["body_prefetch"]:
                self.expect_answer(full=full)
                if self.stream is StreamState.ANSWERED:
                    self.expect_end()
        elif self.stream is None and not self.arrives:
            self.expect(connections.BODY_END)

    @precondition(lambda self: self.state is ConnectionState.CLOSING)
    @rule()
    def close(self) -> None:
        self.connection.receive_end()
        self.timers.run_ready()
        self.expect(connections.LOST)

    @precondition(lambda self: self.state is not ConnectionState.CLOSED)
    @rule()
    def go(self) -> None:
        self.wire.fail()
        self.connection.on_lost()
        if self.stream is not None:
            self.expect(streams.GIVE_UP)
        self.expect(connections.LOST)
        self.end_thread()

    # The server.

    @precondition(lambda self: self.stream is StreamState.ANSWERED)
    @rule()
    def let_loop_run(self) -> None:
        self.timers.run_ready()
        self.expect_end()

    @precondition(lambda self: self.state is not ConnectionState.CLOSED)
    @rule()
    def shut_down(self) -> None:
        before = self.state
        self.connection.close_if_idle()
        if before is ConnectionState.IDLE:
            self.timers.run_ready()
            self.expect(connections.CLOSE, connections.LOST)
        elif before is ConnectionState.DROPPING:
            self.expect(connections.CLOSE)

    @precondition(lambda self: self.stream is None and self.state in ENDS_BY_TIME)
    @rule()
    def end_by_time(self) -> None:
        self.timers.advance(ENDS_BY_TIME[self.state])
        if self.state is not ConnectionState.CLOSING:
            self.expect(connections.CLOSE)
        self.expect(connections.LOST)

    @precondition(lambda self: self.stream in REFUSED_BY_TIME and self.thread is None)
    @rule()
    def refuse_by_time(self) -> None:
        assert self.stream is not None
        self.timers.advance(REFUSED_BY_TIME[self.stream])
        self.expect_refusal()

    @precondition(lambda self: self.state is ConnectionState.HEAD)
    @rule()
    def refuse_slow_head(self) -> None:
        self.timers.advance(OPTIONS["timeout_header"])
        self.expect_refusal()

    # The application.

    def order(self, order: Give | Return | Fail) -> None:
        """Have a thread do something, and let the loop take note."""
        if self.thread is None:
            (job,) = (job for job in self.pool.jobs if not job.cancelled)
            self.pool.jobs.clear()
            self.thread = SteppedThread(job.run)
            self.thread.go()
        self.thread.go(order)
        if self.thread.waits_for is None:
            self.thread = None
        self.timers.run_ready()

    def end_thread(self) -> None:
        """Let a thread find out that its client has gone."""
        if self.thread is not None:
            self.order(Return(()))
        assert self.thread is None
        self.pool.jobs.clear()

    @precondition(lambda self: self.stream in (StreamState.QUEUED, StreamState.ACTIVE))
    @rule()
    def give_a_piece(self) -> None:
        self.order(Give(10, by_write=True, tolerant=False))
        if self.stream is StreamState.QUEUED:
            self.expect(streams.START)

    @precondition(lambda self: self.stream in (StreamState.QUEUED, StreamState.ACTIVE))
    @rule()
    def end_the_response(self) -> None:
        self.order(Return(()))
        self.expect_end()

    # Two rules of many are what most of the others are about.
    give_another_piece, end_it_at_last = give_a_piece, end_the_response

    @precondition(lambda self: self.stream is StreamState.ACTIVE)
    @rule()
    def fail_in_its_midst(self) -> None:
        self.order(Fail())
        self.expect(streams.GIVE_UP, connections.CLOSE, connections.LOST)

    def teardown(self) -> None:
        if self.thread is not None:
            self.thread.stop()


@exhaustive
def test_walks_use_all_entries_and_no_others(tmp_path: Path) -> None:
    class OneWalk(Walk):
        used: ClassVar[set[Entry]] = set()

    run_state_machine_as_test(
        partial(OneWalk, tmp_path),
        settings=settings(
            # What is used is to be the same each time.
            derandomize=True,
            max_examples=400,
            stateful_step_count=30,
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert OneWalk.used == set(ENTRIES)


# What is in no table.

WAYS: dict[StreamState, tuple[StreamEvent, ...]] = {
    streams.BEGUN: (),
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
    defects: list[str],
) -> None:
    client, other = connect_two()
    client.receive(GET)
    stream = stream_of(client)
    stream.fire(streams.EXPECT_BODY)
    assert stream.state is StreamState.QUEUED
    check_that_one_is_cut(client, other, caplog, "a stream in QUEUED got EXPECT_BODY")
    defects.clear()


def test_an_illegal_event_of_a_connection_is_logged_and_cuts_it(
    caplog: pytest.LogCaptureFixture,
    defects: list[str],
) -> None:
    client, other = connect_two()
    client.receive(GET)
    stream = stream_of(client)
    client.connection.on_head(stream.head)
    assert client.connection.stream is stream
    check_that_one_is_cut(client, other, caplog, "a connection in BUSY got REQUEST")
    # The application is not called in vain.
    assert client.pool.jobs[0].cancelled
    defects.clear()


# What the loop answers.


@pytest.mark.parametrize("spooled", [False, True], ids=["streamed", "spooled"])
def test_a_body_that_the_loop_answers_is_let_go(spooled: bool) -> None:
    client = connect(body_prefetch=1, body_spool=1 << 20 if spooled else 0)
    size = 70_000
    head = b"POST /up HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % size
    client.receive(head + bytes(50_000))
    client.receive(bytes(size - 50_000))
    spooler = client.resources.spooler
    client.timers.run_until(lambda: client.status == 405)
    assert client.connection.state is ConnectionState.IDLE
    assert client.resources.budget.used == 0
    if spooler is not None:
        assert spooler.budget.used == 0
        ended = threading.Event()
        spooler.stop(ended.set)
        assert ended.wait(TIMEOUT)
