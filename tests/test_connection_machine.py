"""Anything may happen to a connection, in any order, and what is promised holds all the same.

A state machine drives clients, applications, time and the server at their smallest steps. What has
to come of it is known from what the clients have made and what the applications have given; none of
the server's own code tells it.
"""

import enum
import logging
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

from descriptors import open_descriptors
from extent import examples
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from memory import HeldPool, ManualTimers, MemoryServer
from stepped_app import (
    End,
    Fail,
    Fault,
    Give,
    Phase,
    Read,
    Return,
    ReturnFile,
    Run,
    Start,
    SteppedPool,
    SteppedThread,
    Wait,
)
from stepped_client import (
    MALFORMED,
    RECEIVE,
    Answer,
    Peer,
    Request,
    health_check,
    malformed_request,
    plain_request,
    request_in_chunks,
    request_with_length,
)

from aiowsgi.connection.states import ConnectionState
from aiowsgi.errors import ServerStopped
from aiowsgi.exchange.stream import Stream

BODY_LIMIT = 120_000
# The shortest time after which the server may lose its patience with a client, in seconds.
PATIENCE = 3.0
TIMES = {
    "timeout_header": PATIENCE,
    "timeout_body": 4.0,
    "timeout_keep_alive": 5.0,
    "timeout_write": 6.0,
    "queue_timeout": 7.0,
}
# Memory of which none of the examples can use it all.
PLENTY = 1 << 28
# What may have arrived before there is a use for it: further requests, and one reading more.
AHEAD = (1 << 16) + RECEIVE
# More passes of the loop than anything here can need.
MANY = 20_000

rarely = st.sampled_from([False] * 5 + [True])
capacities = st.sampled_from([None, None, 0, 500, 50_000])
which = st.integers(0, 3)
sizes = st.sampled_from([0, 1, 100, 3000, 20_000, 70_000, 400_000])
body_sizes = st.sampled_from([1, 100, 3000, 20_000, 70_000, 110_000, 130_000])
pieces = st.lists(st.sampled_from([1, 2, 60, 300, 20_000]), max_size=6)
many_pieces = st.integers(100, 400).map(lambda number: [1] * number)


class Sent(enum.Enum):
    """How much of a request is sent at once."""

    ALL = enum.auto()
    HEAD = enum.auto()
    PART = enum.auto()
    NOTHING = enum.auto()


sent = st.sampled_from([Sent.ALL, Sent.ALL, Sent.HEAD, Sent.PART, Sent.NOTHING])

an_order = st.one_of(
    st.builds(Read, st.sampled_from([1, 40, 5000, 1 << 20]), st.booleans()),
    st.builds(Start, st.sampled_from([200, 200, 200, 404, 204, 304]), st.none() | sizes),
    st.builds(Give, sizes, st.booleans(), st.booleans()),
    st.builds(Return, st.none() | st.lists(sizes, max_size=2).map(tuple), rarely),
    st.builds(ReturnFile, sizes, st.sampled_from([0, 10])),
    st.builds(End, st.booleans()),
    rarely.map(lambda fails: Fail() if fails else End(fill=True)),
)
# What ordinary applications do.
ordinary = st.sampled_from(
    [
        [Return((3000,))],
        [Read(1 << 20, tolerant=False), Return((100,))],
        [Return(None), Give(20_000, by_write=False, tolerant=False), End(fill=True)],
        [Start(200, 70_000), Return(None), End(fill=True)],
        [ReturnFile(70_000, 0)],
        [Give(3000, by_write=True, tolerant=False)] * 4,
        [Read(40, tolerant=False), Read(5000, tolerant=False), Read(5000, tolerant=False)],
    ]
)
orders = st.lists(an_order, min_size=1, max_size=5) | ordinary


class Trouble(enum.Enum):
    """What may befall what is in flight."""

    CLIENT_ENDS = "a client has nothing more to say"
    CLIENT_CLOSES = "a client goes"
    CLIENT_RESETS = "a client is gone"
    FILE = "a file becomes shorter while it is sent"
    QUEUE = "there is no room in the queue for the next request"
    SLOW_CLIENTS = "all threads wait for clients"
    LITTLE_MEMORY = "64 KiB are left"
    NO_MEMORY = "none is left"
    NO_ROOM = "other clients want to connect"
    DRAIN = "the server is about to close"
    CLOSE = "the server closes"
    CUT = "the server cuts what is in flight"


class Passes(ManualTimers):
    """Timers of a loop that polls its clients, too."""

    def __init__(self, run_loop: Callable[[], None]) -> None:
        super().__init__()
        self._run_loop = run_loop

    def run_ready(self) -> None:
        self._run_loop()


class Connections(RuleBasedStateMachine):
    """Some connections of one server."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.descriptors = open_descriptors()
        self.log = _Log()
        self.peers: list[Peer] = []
        self.threads: list[SteppedThread] = []
        self.runs: dict[str, Run] = {}
        self.new_runs: list[Run] = []
        # How many requests of each connection have reached the application.
        self.executed: dict[Peer, int] = {}
        self.checked: dict[str, int] = {}
        # Connections that the server may end for reasons of its own.
        self.meddled: set[Peer] = set()
        # For how many steps the loop does something else, and what it does first then.
        self.busy = 0
        self.polls_first = False
        self.ballast = 0

    # What there is.

    @initialize(
        timeout_request=st.sampled_from([0.0, 0.0, 5.0]),
        body_prefetch=st.sampled_from([1, 100, 30_000, 1 << 20]),
        response_buffer=st.sampled_from([1000, 20_000, 1 << 20]),
        max_buffered=st.sampled_from([1 << 17, PLENTY]),
        max_keep_alive_requests=st.sampled_from([0, 0, 0, 2]),
        client=st.tuples(st.booleans(), capacities),
    )
    def start(self, client: tuple[bool, int | None], **options: Any) -> None:
        self.first_client = client
        self.timers = Passes(self.run_loop)
        self.server = MemoryServer(
            self.application,
            timers=self.timers,
            pool=SteppedPool(self.timers.time),
            limit_request_body=BODY_LIMIT,
            health_path="/up",
            **TIMES,
            **options,
        )
        self.resources, self.shared = self.server.resources, self.server.shared
        self.pool: HeldPool = self.server.pool
        self.config = self.resources.config

    def application(self, environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        run = Run(self.folder, environ, start_response)
        self.new_runs.append(run)
        return run.call()

    @property
    def connected(self) -> list[Peer]:
        return [peer for peer in self.peers if not peer.lost]

    @property
    def talking(self) -> list[Peer]:
        """Connections whose client may still send."""
        return [peer for peer in self.connected if not peer.ended and not peer.is_gone]

    @property
    def has_room(self) -> bool:
        """Whether another client may connect, and has something to find out."""
        return len(self.connected) < 4 and len(self.talking) < 2 and not self.shared.is_closing

    @property
    def jobs(self) -> list[Any]:
        return [job for job in self.pool.jobs if not job.cancelled]

    @property
    def going(self) -> list[SteppedThread]:
        """Threads that would go on if it was their turn."""
        return [
            thread
            for thread in self.threads
            if isinstance(thread.waits_for, Run) or (thread.waits_for and thread.waits_for.may_end)
        ]

    @property
    def in_flight(self) -> bool:
        """Whether anything is at stake."""
        return bool(self.jobs or self.threads or any(peer.in_flight for peer in self.connected))

    # The loop.

    def run_loop(self) -> None:
        """Run passes of the loop until there is nothing to do any more."""
        ready = self.timers.ready
        for _ in range(MANY):
            if not self.polls_first:
                for _ in range(len(ready)):
                    ready.popleft()()
            self.polls_first = False
            moved = [peer.poll() for peer in self.peers]
            if not (any(moved) or ready):
                return
        raise AssertionError("the loop does not come to rest")

    def settle(self) -> None:
        """Let the loop run, unless it is busy."""
        if self.busy:
            self.busy -= 1
        else:
            self.run_loop()

    @precondition(lambda self: self.in_flight and not self.busy)
    @rule(steps=st.integers(1, 4), polls_first=st.booleans())
    def be_busy(self, steps: int, polls_first: bool) -> None:
        """Let some things happen before the loop comes back, and finds them in either order."""
        self.busy = steps
        self.polls_first = polls_first

    @precondition(lambda self: self.connected or self.shared.is_closing)
    @rule(seconds=st.sampled_from([0.1, 0.6, 1.1, 2.5, 4.5, 4.5, 8.0, 40.0]))
    def pass_time(self, seconds: float) -> None:
        if self.busy:
            self.timers.now += seconds
        else:
            self.timers.advance(seconds)
        self.relax()

    # Clients.

    @precondition(lambda self: self.has_room)
    @rule(tls=st.booleans(), capacity=capacities)
    def connect(self, tls: bool, capacity: int | None) -> None:
        peer = Peer(self.timers, tls=tls)
        peer.capacity = capacity
        self.peers.append(peer)
        self.executed[peer] = 0
        if self.ballast or self.pool.is_starved or self.resources.is_draining:
            self.meddled.add(peer)
        self.server.connect(peer)
        self.settle()

    def make(self, index: int, sent: Sent, make: Any, *args: Any, **more: Any) -> None:
        if not self.talking:
            self.connect(*self.first_client)
        peer = self.talking[index % len(self.talking)]
        token = f"{self.peers.index(peer)}-{len(peer.requests)}"
        peer.add(make(token, *args, **more))
        request = peer.requests[-1]
        held_back = {
            Sent.ALL: 0,
            Sent.HEAD: len(request.behind),
            # A part of the body, or of a head that has none behind it.
            Sent.PART: (len(request.behind) or len(request.head)) // 2,
            Sent.NOTHING: len(peer.unwritten),
        }
        peer.say(len(peer.unwritten) - held_back[sent])
        if self.pool.full:
            # Of interest once: a server that refuses all requests is none.
            self.meddled.add(peer)
            self.run_loop()
            self.pool.full = False
        self.settle()

    @precondition(lambda self: self.talking or self.has_room)
    @rule(
        index=which,
        sent=sent,
        method=st.sampled_from(["GET", "GET", "HEAD"]),
        version=st.sampled_from(["HTTP/1.1", "HTTP/1.1", "HTTP/1.0"]),
        connection=st.sampled_from(["", "", "", "keep-alive", "close"]),
    )
    def ask(self, index: int, sent: Sent, method: str, version: str, connection: str) -> None:
        self.make(index, sent, plain_request, method, version, connection)

    @precondition(lambda self: self.talking or self.has_room)
    @rule(index=which, sent=sent, size=body_sizes, expects=st.booleans())
    def upload(self, index: int, sent: Sent, size: int, expects: bool) -> None:
        self.make(index, sent, request_with_length, size, expects=expects, limit=BODY_LIMIT)

    @precondition(lambda self: self.talking or self.has_room)
    @rule(
        index=which,
        sent=sent,
        sizes=pieces | many_pieces,
        expects=st.booleans(),
        broken=rarely,
    )
    def upload_in_chunks(
        self, index: int, sent: Sent, sizes: list[int], expects: bool, broken: bool
    ) -> None:
        self.make(
            index,
            sent,
            request_in_chunks,
            sizes,
            expects=expects,
            broken=broken,
            limit=BODY_LIMIT,
        )

    @precondition(lambda self: self.talking or self.has_room)
    @rule(
        index=which,
        sent=sent,
        method=st.sampled_from(["GET", "GET", "HEAD", "POST"]),
        size=st.sampled_from([1, 3000, 70_000]),
    )
    def check_health(self, index: int, sent: Sent, method: str, size: int) -> None:
        self.make(index, sent, health_check, method, size)

    @precondition(lambda self: self.in_flight and self.talking and len(self.runs) > 1)
    @rule(index=which, sent=sent, kind=st.sampled_from(sorted(MALFORMED)))
    def send_nonsense(self, index: int, sent: Sent, kind: str) -> None:
        self.make(index, sent, malformed_request, kind)

    @precondition(lambda self: any(peer.unwritten for peer in self.talking))
    @rule(index=which, size=st.sampled_from([1, 2, 20, 75, 300, 20_000, 1 << 20]))
    def send(self, index: int, size: int) -> None:
        peers = [peer for peer in self.talking if peer.unwritten]
        peers[index % len(peers)].say(size)
        self.settle()

    @precondition(lambda self: any(peer.capacity is not None for peer in self.connected))
    @rule(index=which, size=st.sampled_from([1, 50, 300, 5000, 100_000, 1 << 20]))
    def take(self, index: int, size: int) -> None:
        peers = [peer for peer in self.connected if peer.capacity is not None]
        peer = peers[index % len(peers)]
        assert peer.capacity is not None
        peer.capacity += size
        self.settle()

    # Applications.

    @precondition(lambda self: self.jobs)
    @rule(index=which, orders=orders)
    def begin(self, index: int, orders: list[Any]) -> None:
        """A thread takes a request."""
        job = self.jobs[index % len(self.jobs)]
        self.pool.jobs.remove(job)
        self.threads.append(SteppedThread(job.run))
        self.go(self.threads[-1], None, *orders)

    @precondition(lambda self: self.going)
    @rule(index=which, orders=orders)
    def go_on(self, index: int, orders: list[Any]) -> None:
        thread = self.going[index % len(self.going)]
        blocked = isinstance(thread.waits_for, Wait)
        self.go(thread, *[None] * blocked, *orders)

    @precondition(lambda self: self.jobs or self.going)
    @rule(index=which, orders=orders)
    def work(self, index: int, orders: list[Any]) -> None:
        """A thread takes a request, or goes on with one."""
        if self.jobs and (index % 2 == 0 or not self.going):
            self.begin(index // 2, orders)
        else:
            self.go_on(index // 2, orders)

    # All rules are drawn equally often, and this one is what most of the others are about.
    work_on = work_still = work

    def go(self, thread: SteppedThread, *orders: Any) -> None:
        """Let a thread go on with its orders, as far as it gets."""
        for order in orders:
            thread.go(order)
            for run in self.new_runs:
                self.check_run(run)
            self.new_runs.clear()
            self.settle()
            if not isinstance(thread.waits_for, Run):
                break
        self.threads = [thread for thread in self.threads if thread.waits_for is not None]

    # All together.

    @precondition(lambda self: self.in_flight)
    @rule(what=st.sampled_from(Trouble), index=which)
    def meet_trouble(self, what: Trouble, index: int) -> None:
        peer = self.connected[index % len(self.connected)] if self.connected else None
        match what:
            case Trouble.CLIENT_ENDS if peer:
                peer.ended = True
            case Trouble.CLIENT_CLOSES if peer:
                peer.ended = peer.deaf = True
            case Trouble.CLIENT_RESETS if peer:
                peer.is_gone = peer.deaf = True
            case Trouble.FILE:
                for run in self.runs.values():
                    run.shorten(10_000)
            case _:
                self.meddled.update(self.connected)
                self.disturb_server(what)
        self.settle()

    def disturb_server(self, what: Trouble) -> None:
        match what:
            case Trouble.QUEUE:
                self.pool.full = True
            case Trouble.SLOW_CLIENTS:
                self.pool.is_starved = True
                self.shared.shedding.free_threads()
            case Trouble.LITTLE_MEMORY | Trouble.NO_MEMORY:
                left = 1 << 16 if what is Trouble.LITTLE_MEMORY else -1
                size = self.config.max_buffered - left
                self.ballast = self.resources.budget.update(self.ballast, size)
                self.shared.shedding.free_memory()
            case Trouble.NO_ROOM:
                self.shared.shedding.free_connections()
            case Trouble.DRAIN | Trouble.CLOSE if len(self.runs) > 3:
                self.resources.is_draining = True
                for peer in self.connected:
                    peer.owner.announce_close()
                if what is Trouble.CLOSE:
                    self.shared.is_closing = True
                    for client in list(self.shared.connections):
                        client.close_if_idle()
            case Trouble.CUT:
                for client in list(self.shared.connections):
                    client.abort(ServerStopped("the server stopped"))

    def relax(self) -> None:
        """Let the server have enough of everything."""
        self.pool.full = self.pool.is_starved = False
        self.ballast = self.resources.budget.update(self.ballast, 0)

    # What is promised.

    @invariant()
    def promises_are_kept(self) -> None:
        if hasattr(self, "server"):
            self.clients_get_what_is_for_them()
            self.applications_get_what_was_sent()
            self.responses_wait_in_little_memory()
            self.nobody_waits_for_what_is_there()
            self.memory_is_bounded_and_counted()
            assert len(self.timers.pending) <= len(self.shared.connections)
            assert not self.log.unexpected

    def may_end(self, peer: Peer) -> bool:
        """Whether the server may leave a client alone that has not broken HTTP."""
        return peer.ended or peer.is_gone or self.may_be_refused(peer)

    def may_be_refused(self, peer: Peer) -> bool:
        """Whether the server has a reason to refuse a sound request, or to give a client up."""
        impatient = self.timers.now - peer.made_at >= PATIENCE
        return impatient or peer in self.meddled or self.config.max_buffered < PLENTY

    def check_run(self, run: Run) -> None:
        """The application gets the requests that the client made, one after the other."""
        peers = {str(number): peer for number, peer in enumerate(self.peers)}
        number, _, index = run.token.partition("-")
        assert number in peers, "the application got a request that nobody made"
        peer = peers[number]
        assert int(index) < len(peer.requests), "the application got a request that nobody made"
        before, request = peer.requests[: int(index)], peer.requests[int(index)]
        between = before[self.executed[peer] :]
        assert int(index) >= self.executed[peer], "a request came twice"
        assert all(earlier.is_check for earlier in between), "a request came out of turn"
        self.executed[peer] = int(index) + 1
        assert not request.is_check
        assert request.sound_head
        assert run.method == request.method
        assert len(peer.answers.all) <= int(index), "answered before it was executed"
        for earlier in before:
            assert earlier.keep_alive
            assert earlier.refusal is None
            if not earlier.is_check:
                assert self.runs[earlier.token].response_is_over, "two at a time"
        missing = request.end - peer.delivered
        assert missing <= len(request.behind), "executed before it was sent"
        if missing > 0 and not request.expects:
            arrived = len(request.behind) - missing
            assert arrived >= self.config.body_prefetch, "a thread waits for a small body"
        self.runs[run.token] = run

    def clients_get_what_is_for_them(self) -> None:
        for peer in self.peers:
            peer.read()
            for answer in peer.answers.all[-2:]:
                if answer.status:
                    self.check_answer(peer, answer)
                if answer.continues:
                    assert answer.request.expects
                    assert answer.continues == 1
                    assert self.runs[answer.request.token].has_read, "a 100 before it was due"

    def check_answer(self, peer: Peer, answer: Answer) -> None:
        request = answer.request
        run = self.runs.get(request.token)
        assert request.http_11 or "transfer-encoding" not in answer.fields
        assert request.keep_alive or answer.closes
        if request.is_check and answer.status in (200, 405):
            assert (request.method == "POST") is (answer.status == 405)
            return
        if answer.token is None:
            self.check_refusal(peer, answer, run)
            return
        assert answer.token == request.token
        assert run is not None
        assert answer.status == run.status
        checked = self.checked.get(request.token, 0)
        self.checked[request.token] = len(answer.body)
        body = run.given if run.declared is None else run.given[: run.declared]
        assert answer.body[checked:] == body[checked : len(answer.body)]
        assert run.has_body or not answer.body
        if answer.complete:
            assert run.may_look_complete, "a response was cut and looks complete"
            assert len(answer.body) == len(run.body) or run.is_shortened

    def check_refusal(self, peer: Peer, answer: Answer, run: Run | None) -> None:
        """The server has answered in place of the application."""
        request = answer.request
        if answer.status == 500:
            assert run is not None
            assert run.raised
            return
        if request.is_check and answer.status == 503 and not answer.closes:
            assert self.pool.lost or self.resources.is_draining
            return
        assert answer.closes
        match answer.status:
            case request.refusal:
                assert request.sound_head or run is None
            case 400:
                assert peer.ended
            case 408:
                assert self.may_be_refused(peer)
            case 503:
                assert self.may_be_refused(peer) or (request.is_check and self.pool.lost)
                assert run is None
            case 504:
                assert self.config.timeout_request
                assert run is not None
            case _:
                raise AssertionError(f"{answer.status} for {request.token}")

    def applications_get_what_was_sent(self) -> None:
        for thread in self.threads:
            run = thread.waits_for
            if not isinstance(run, Run):
                continue
            peer, request = self.sender_of(run)
            assert request.body.startswith(run.read)
            if run.at_end:
                assert run.read == request.body
                assert peer.delivered >= request.end
            if run.errors:
                assert (
                    request.refusal
                    or run.response_is_over
                    or self.may_end(peer)
                    or self.config.timeout_request
                )
            assert run.closes <= 1

    def nobody_waits_for_what_is_there(self) -> None:
        if self.config.max_buffered < PLENTY or self.ballast:
            return  # Other clients may have made room.
        for thread in self.threads:
            if isinstance(thread.waits_for, Wait):
                assert not thread.waits_for.is_forgotten

    def responses_wait_in_little_memory(self) -> None:
        """What the application has given has been sent, but for what may be buffered."""
        for thread in self.threads:
            run = thread.waits_for
            if not isinstance(run, Run) or run.phase is Phase.CLOSE or run.raised or run.errors:
                continue
            peer, request = self.sender_of(run)
            if peer.deaf or peer.is_gone or run.stream is not peer.owner.stream:
                continue
            answers = [answer for answer in peer.answers.all if answer.request is request]
            reached = sum(len(answer.body) for answer in answers) + len(peer.pending)
            assert len(run.body) - reached <= self.config.response_buffer

    def sender_of(self, run: Run) -> tuple[Peer, Request]:
        number, _, index = run.token.partition("-")
        peer = self.peers[int(number)]
        return peer, peer.requests[int(index)]

    def memory_is_bounded_and_counted(self) -> None:
        streams: set[Stream] = {run.stream for run in self.runs.values()}
        used = self.ballast
        for peer in self.peers:
            connection = peer.owner
            used += connection.held
            stream = connection.stream
            if stream is not None:
                streams.add(stream)
            assert connection.receiver.buffered <= AHEAD
            assert connection.receiver.prefetched_size < self.config.body_prefetch + AHEAD
            assert len(peer.pending) <= (1 << 18) + (1 << 17) + 2000
        for stream in streams:
            used += stream.held
            if stream.body is not None:
                assert stream.body.held < self.config.body_prefetch + AHEAD
        assert self.resources.budget.used == used

    # The end.

    def teardown(self) -> None:
        try:
            # Not where the example has failed already.
            if hasattr(self, "server") and sys.exc_info()[0] is None:
                self.check_that_everything_ends()
        finally:
            for thread in self.threads:
                thread.stop()
            self.log.close()

    def check_that_everything_ends(self) -> None:
        """With clients that send and take, and applications that answer, nothing is left over."""
        self.busy = 0
        self.relax()
        for peer in self.connected:
            peer.capacity = None
            if peer in self.talking:
                peer.say(len(peer.unwritten))
        self.run_loop()
        for _ in range(MANY):
            if self.jobs:
                self.begin(0, [])
            elif self.going:
                self.go_on(0, [Return((), lingers=False), End(fill=True)])
            else:
                break
        assert not self.threads, "a thread waits for ever"
        self.clients_get_what_is_for_them()
        for peer in self.connected:
            if not peer.is_closing and peer.owner.state is not ConnectionState.CLOSING:
                assert not peer.unwritten or peer.ended or peer.is_gone
                if not peer.is_gone:
                    assert not peer.inbox, "the server does not read"
                    assert len(peer.answers.all) == len(peer.requests), "a request is forgotten"
                    assert all(answer.complete for answer in peer.answers.all)
        for peer in self.connected:
            peer.is_gone = peer.deaf = True
        self.run_loop()
        assert not self.connected
        assert not self.shared.connections
        assert self.server.disconnects == len(self.peers)
        assert not self.timers.pending
        assert self.resources.budget.used == 0
        assert self.pool.away == 0
        assert self.shared.files_being_sent == 0
        assert open_descriptors() == self.descriptors
        for run in self.runs.values():
            assert run.closes == run.returned
        self.promises_are_kept()


class _Log(logging.Handler):
    """Keeps what is said of defects."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.unexpected: list[str] = []
        self._logger = logging.getLogger("aiowsgi.error")
        self._propagated = self._logger.propagate
        self._logger.propagate = False
        self._logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if record.levelno > logging.ERROR or (error and not isinstance(error, Fault)):
            self.unexpected.append(f"{record.getMessage()}: {error!r}")

    def close(self) -> None:
        self._logger.removeHandler(self)
        self._logger.propagate = self._propagated
        super().close()


def test_what_is_promised_holds_whatever_happens(tmp_path: Path) -> None:
    run_state_machine_as_test(
        partial(Connections, tmp_path),
        settings=settings(
            max_examples=examples(200),
            stateful_step_count=40,
            suppress_health_check=list(HealthCheck),
        ),
    )
