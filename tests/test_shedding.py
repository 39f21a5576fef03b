"""Who has to go when threads, memory, connections or descriptors run short, and who may stay.

Most of it happens to many connections of one server in memory, on a clock that the test moves.
Whatever happens, the budget of buffered bytes is back at zero in the end.
"""

import asyncio
import contextlib
import gc
import socket
import threading
import weakref
from collections.abc import Iterable, Iterator
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
from descriptors import descriptors_used_up
from memory import TIMEOUT, HeldJob, MemoryConnection, MemoryServer, MemoryWire
from raw_client import RawClient, StartServer, connect, eventually, on_each_loop

import aiowsgi
from aiowsgi.connection.shedding import LoadShedding
from aiowsgi.connection.states import ConnectionState
from aiowsgi.exchange import interfaces
from aiowsgi.observe.inspection import RequestInfo

PIECE = 50_000
# Has room for one piece, and no second one.
BUFFER = 60_000
# Bytes a second from which nobody is slow.
PACE = 16 << 10
HELLO = b"GET /hello HTTP/1.1\r\nHost: h\r\n\r\n"


class Application:
    """Answers /hello; /bytes/N; /stream without end; /read behind the body of the request."""

    def __init__(self) -> None:
        # How many bytes it has got of all bodies together.
        self.received = 0

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        _, name, *rest = environ["PATH_INFO"].split("/")
        start_response("200 OK", [("Content-Type", "text/plain")])
        match name:
            case "bytes":
                return [b"x" * int(rest[0])]
            case "read":
                return [b"%d" % sum(map(len, iter(lambda: self._read(environ, 1 << 16), b"")))]
            case "stream":
                self._read(environ, 1000)
                return iter(lambda: b"x" * PIECE, b"")
        return [b"hello"]

    def _read(self, environ: WSGIEnvironment, size: int) -> bytes:
        data: bytes = environ["wsgi.input"].read1(size)
        self.received += len(data)
        return data


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode()


def post(size: int, received: int = 0, *, path: str = "/read", field: str = "X: x") -> bytes:
    """Return an upload of which so many bytes of the body have been received."""
    head = f"POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {size}\r\n{field}\r\n\r\n"
    return head.encode() + b"x" * received


class Client(MemoryConnection):
    """One more connection to a server that is there."""

    def __init__(self, server: MemoryServer) -> None:
        # What ``MemoryConnection`` would make anew.
        self.timers, self.pool = server.timers, server.pool
        self.resources, self.shared, self.codec = server.resources, server.shared, server.codec
        self.wire = MemoryWire(self.timers)
        self.connection = self.connect(self.wire)

    @property
    def cut(self) -> bool:
        return self.wire.was_aborted


class Crowd:
    """A server in memory and its clients. Use ``crowd``."""

    def __init__(self, **options: Any) -> None:
        options = {"response_buffer": BUFFER, "body_prefetch": 100_000, **options}
        self._app = Application()
        self._server = server = MemoryServer(self._app, **options)
        self.timers, self.pool = server.timers, server.pool
        self.resources, self.shared = server.resources, server.shared
        self._clients: list[Client] = []
        self._threads: list[threading.Thread] = []

    @property
    def used(self) -> int:
        return self.resources.budget.used

    def connect(self) -> Client:
        self._clients.append(client := Client(self._server))
        return client

    def ask(self, request: bytes) -> Client:
        """Connect and let a request arrive, for which no thread comes."""
        client = self.connect()
        client.receive(request)
        self.timers.run_ready()
        return client

    def serve_on_thread(self) -> None:
        """Start a thread for the oldest request."""
        self._threads.append(self._clients[-1].start_job())

    def writer(self, request: bytes = get("/stream")) -> Client:
        """Connect a client that takes nothing; return it when a thread waits for it."""
        client = self.connect()
        client.wire.capacity = 0
        client.receive(request)
        self.serve_on_thread()

        def stuck() -> bool:
            stream = client.connection.stream
            assert stream is not None
            # What is queued stays there, and a further piece has no room.
            return bool(client.wire.pending) and stream.held >= PIECE and stream.blocks_thread

        self.timers.run_until(stuck)
        return client

    def reader(self) -> Client:
        """Connect a client that was told to continue; return it when a thread waits for it."""
        client = self.connect()
        client.receive(post(900_000, field="Expect: 100-continue"))
        self.serve_on_thread()
        self.timers.run_until(lambda: client.sent)
        assert client.status == 100
        client.wire.sent.clear()
        return client

    def send(self, client: Client, size: int) -> None:
        """Let a client send so much; wait until the application has it, if it runs."""
        runs, received = client.connection.blocks_thread, self._app.received + size
        client.receive(b"x" * size)
        if runs:
            self.timers.run_until(lambda: self._app.received == received)
            self.timers.run_until(lambda: client.connection.blocks_thread)

    def finished(self, size: int, taken: int = 0) -> Client:
        """Connect a client that takes ``taken`` bytes of an answer whose thread is free again."""
        client = self.connect()
        client.wire.capacity = 0
        client.receive(get(f"/bytes/{size}"))
        client.run_job()
        client.wire.take(taken)
        return client

    def end(self) -> None:
        """Let all clients leave: nothing of them may be left."""
        while self._clients:
            self._clients.pop().wire.abort()
        self.timers.run_ready()
        for thread in self._threads:
            thread.join(TIMEOUT)
            assert not thread.is_alive(), "a thread waits for a client that has left"
        self.timers.run_ready()
        assert self.used == 0
        assert not self.shared.connections
        assert not self.timers.pending
        assert self.pool.away == 0


@contextlib.contextmanager
def crowd(**options: Any) -> Iterator[Crowd]:
    crowd = Crowd(**options)
    try:
        yield crowd
    finally:
        crowd.end()


# --- threads -------------------------------------------------------------------------------------


def test_slowest_writers_are_cut_and_as_many_as_requests_wait() -> None:
    with crowd() as some:
        writers = [some.writer() for _ in range(4)]
        for writer, taken in zip(writers, (300, 100, 400, 200), strict=True):
            writer.wire.take(taken)
        some.timers.advance(2)
        some.pool.is_starved = True
        for client in (some.connect(), some.connect()):
            client.receive(HELLO)
        assert not any(writer.cut for writer in writers)
        some.timers.run_ready()
        assert [writer.cut for writer in writers] == [False, True, False, True]


@pytest.mark.parametrize(("taken", "stays"), [(2 * PACE, True), (2 * PACE - 1, False)])
def test_writer_stays_whose_client_takes_enough(taken: int, stays: bool) -> None:
    with crowd() as some:
        writer = some.writer()
        writer.wire.take(taken)
        some.timers.advance(2)
        some.pool.is_starved = True
        some.ask(HELLO)
        assert writer.cut is not stays


@pytest.mark.parametrize(("sent", "stays"), [(2 * PACE, True), (2 * PACE - 1, False)])
def test_reader_stays_whose_client_sends_enough(sent: int, stays: bool) -> None:
    with crowd() as some:
        reader = some.reader()
        some.send(reader, sent)
        some.timers.advance(2)
        some.pool.is_starved = True
        some.ask(HELLO)
        if stays:
            some.timers.run_ready()
            assert reader.sent == b""
            assert reader.connection.blocks_thread
        else:
            # The application gave up because its request did.
            some.timers.run_until(lambda: reader.sent)
            assert reader.status == 408


def test_client_is_slow_after_the_first_moments_only() -> None:
    with crowd() as some:
        writer, reader = some.writer(), some.reader()
        some.timers.advance(0.49)
        some.pool.is_starved = True
        some.ask(HELLO)
        some.ask(HELLO)
        assert not writer.cut
        assert reader.connection.blocks_thread
        some.timers.advance(0.6)
        some.timers.run_until(lambda: reader.sent)
        assert writer.cut


def test_nobody_is_cut_while_threads_are_to_be_had() -> None:
    with crowd() as some:
        writer, reader = some.writer(), some.reader()
        some.timers.advance(20)
        some.ask(HELLO)
        some.timers.advance(5)
        assert not writer.cut
        assert reader.connection.blocks_thread


def test_slow_client_that_keeps_no_thread_waiting_stays() -> None:
    with crowd() as some:
        taking = some.finished(30_000)
        sending = some.ask(post(50_000, 1))
        beginning = some.ask(b"GET ")
        some.timers.advance(2)
        some.pool.is_starved = True
        some.ask(HELLO)
        assert not taking.cut
        assert sending.sent == beginning.sent == b""


def test_writer_whose_upload_is_not_complete_is_cut_once(caplog: pytest.LogCaptureFixture) -> None:
    """A client may be slow to send and to take: what keeps the thread waiting decides."""
    with crowd(body_prefetch=1000) as some:
        writer = some.writer(post(900_000, 1000, path="/stream"))
        some.timers.advance(2)
        some.pool.is_starved = True
        some.ask(HELLO)
        assert writer.cut
        some.timers.advance(1)
    assert caplog.text.count("Cut 1 slow client:") == caplog.text.count("Cut ") == 1


def test_cuts_are_told_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    with crowd(queue_target=60.0) as some:
        for _ in range(4):
            some.writer()
        some.timers.advance(1)
        some.pool.is_starved = True
        some.ask(HELLO)
        some.timers.advance(9)  # It still waits, and is looked after all the time.
        assert caplog.messages == ["Cut 1 slow client: the server is short of threads"]
        some.timers.advance(2)
        assert caplog.messages[1:] == ["Cut 3 slow clients: the server is short of threads"]


# --- memory --------------------------------------------------------------------------------------


def test_slowest_that_hold_memory_are_cut_until_a_tenth_is_free(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with crowd(max_buffered=100_000) as some:
        clients = [some.finished(24_000, taken) for taken in (300, 100, 400, 200)]
        slowest = some.finished(10_000)  # Too little to count.
        some.timers.advance(1)
        assert not any(client.cut for client in clients)
        # A writer that has to pause is what exceeds it; nothing can be said of it yet.
        newcomer = some.finished(24_000)
        assert [client.cut for client in clients] == [False, True, False, True]
        assert not slowest.cut
        assert not newcomer.cut
        assert 60_000 < some.used <= 90_000
    assert caplog.messages == ["Cut 2 slow clients: the server is short of memory"]


def test_upload_that_comes_slowly_gives_way_too() -> None:
    with crowd(max_buffered=100_000) as some:
        upload = some.ask(post(90_000, 30_000))
        some.timers.advance(2)
        some.finished(40_000)
        assert upload.sent == b""
        some.finished(40_000)
        assert upload.status == 408


def _occupied(some: Crowd) -> list[Client]:
    """Fill the memory with what nobody can be cut for: requests that wait for a thread."""
    return [some.ask(post(30_000, 30_000)) for _ in range(3)]


def _assert_refused(client: Client) -> None:
    assert client.status == 503
    assert client.sent.count(b"HTTP/1.1 ") == 1
    assert b"\r\nRetry-After: 5\r\n" in client.sent
    assert client.wire.half_closed


def test_new_bodies_are_refused_when_nobody_can_be_cut() -> None:
    with crowd(max_buffered=100_000) as some:
        waiting = _occupied(some)
        upload = some.ask(post(30_000, 9000))
        assert upload.sent == b""
        upload.receive(b"x" * 9000)
        _assert_refused(upload)
        # What comes without a body is served.
        hello = some.ask(HELLO)
        while some.pool.jobs:
            hello.run_job()
        assert hello.sent.endswith(b"hello")
        assert [client.sent[-5:] for client in waiting] == [b"30000"] * 3
        # There is room again.
        upload = some.ask(post(30_000, 30_000))
        upload.run_job()
        assert upload.sent.endswith(b"30000")


def test_body_in_one_piece_is_refused_and_nothing_else() -> None:
    with crowd(max_buffered=100_000) as some:
        _occupied(some)
        upload = some.ask(post(30_000, 30_000))
        _assert_refused(upload)
        assert some.pool.queued == 3
        some.timers.advance(1)
        assert upload.connection.state is ConnectionState.CLOSING


def test_streamed_body_is_refused_before_it_takes_a_thread() -> None:
    with crowd(max_buffered=100_000, body_prefetch=20_000) as some:
        for _ in range(5):
            some.finished(19_000)
        assert some.used < 100_000
        upload = some.ask(post(900_000, 20_000))
        _assert_refused(upload)
        assert some.pool.queued == 0


def test_request_that_is_cut_for_its_own_slowness_is_answered_once() -> None:
    with crowd(max_buffered=100_000) as some:
        _occupied(some)
        some.resources.budget.limit = 1 << 20
        upload = some.ask(post(90_000, 20_000))
        some.timers.advance(2)
        some.resources.budget.limit = 80_000
        upload.receive(b"x" * 1000)
        assert upload.status == 408
        assert upload.sent.count(b"HTTP/1.1 ") == 1


# --- connections ---------------------------------------------------------------------------------


def test_longest_idle_connections_are_closed_and_no_young_ones() -> None:
    with crowd() as some:
        clients: list[Client] = []
        for _ in range(30):
            clients.append(some.connect())
            some.timers.advance(0.25)
        # Idle is who has been answered, too: from then on.
        clients[0].receive(HELLO)
        clients[0].run_job()
        for closed in (16, 26, 26):  # Some at a time, and none younger than a second.
            some.shared.shedding.free_connections()
            assert [n for n, client in enumerate(clients) if client.closed] == [
                *range(1, closed + 1)
            ]


def test_connection_that_was_used_since_the_last_look_stays() -> None:
    with crowd() as some:
        clients = [some.connect() for _ in range(18)]
        some.timers.advance(5)
        some.shared.shedding.free_connections()
        first, second = [client for client in clients if not client.closed]
        first.receive(HELLO)
        first.run_job()
        some.shared.shedding.free_connections()
        assert second.closed
        assert not first.closed


def _want_room(some: Crowd, seconds: float) -> None:
    """Ask for room as often as a listener does that has none."""
    for _ in range(int(seconds / 0.5)):
        some.shared.shedding.free_connections()
        some.timers.advance(0.5)


def test_whoever_is_not_waited_for_does_not_make_room() -> None:
    with crowd() as some:
        queued = some.ask(HELLO)
        _want_room(some, 20)
        assert not queued.closed


@pytest.mark.parametrize("state", [ConnectionState.DROPPING, ConnectionState.CLOSING])
def test_client_that_is_answered_and_does_not_end_makes_room(state: ConnectionState) -> None:
    with crowd() as some:
        if state is ConnectionState.DROPPING:
            answered = some.ask(post(200_000, 100_000, path="/hello"))
            answered.run_job()
        else:
            answered = some.ask(b"nonsense\r\n\r\n")
        assert answered.connection.state is state
        for _ in range(4):
            some.shared.shedding.free_connections()
            some.timers.advance(0.5)
            if not answered.closed:
                answered.receive(b"x")
        some.timers.advance(0.5)
        some.shared.shedding.free_connections()
        assert answered.cut


def test_slowest_clients_make_room_where_nobody_is_idle_one_each_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with crowd() as some:
        clients = {
            "head": some.ask(b"G"),
            "sending": some.finished(30_000, 90_000),
            "body": some.ask(post(10_000, 5_000)),
            "writer": some.writer(),
        }
        quick = some.finished(50_000)
        some.timers.advance(1)
        quick.wire.take(49_000)

        def gone() -> list[str]:
            return [name for name, client in clients.items() if client.cut or client.status == 408]

        some.shared.shedding.free_connections()
        # Somebody may still become idle for long enough.
        assert gone() == []
        some.timers.advance(1)
        some.shared.shedding.free_connections()
        assert gone() == ["writer"]
        some.shared.shedding.free_connections()
        assert gone() == ["head", "writer"]
        _want_room(some, 1)
        assert gone() == ["head", "body", "writer"]
        assert not quick.cut
    assert "slow client" in caplog.text
    assert "the server is short of connections" in caplog.text


@pytest.mark.parametrize(("rate", "stays"), [(35 << 10, False), (260 << 10, True)])
def test_readers_have_to_be_the_quicker_the_longer_room_is_short(rate: int, stays: bool) -> None:
    """Up to a pace that deserves its connection."""
    with crowd(response_buffer=1 << 30) as some:
        readers = [some.finished(20_000_000) for _ in range(4)]
        for _ in range(60):
            some.shared.shedding.free_connections()
            some.timers.advance(0.5)
            for reader in readers:
                if not reader.closed:
                    reader.wire.take(rate // 2)
        assert all(reader.closed is not stays for reader in readers)


class Counted(set[interfaces.ConnectionHandle]):
    """Counts how often somebody looks at all clients."""

    looks = 0

    def __iter__(self) -> Iterator[interfaces.ConnectionHandle]:
        self.looks += 1
        return super().__iter__()


def test_one_look_serves_everybody_who_wants_room() -> None:
    with crowd() as some:
        for _ in range(40):
            some.connect()
        some.timers.advance(2)
        clients = Counted(some.shared.connections)
        shedding = LoadShedding(clients, some.resources)
        for _ in range(1000):
            shedding.free_connections()
        assert clients.looks == 1
        some.timers.advance(1)
        assert not some.shared.connections


class Handle:
    """A client that has no connection behind it, and notes what is asked of it."""

    holds_spool = False

    def __init__(
        self, rate: float | None, idle_since: float | None = None, *, has_arrived: bool = True
    ) -> None:
        self._rate = rate
        self.has_arrived = has_arrived
        self.idle_since = idle_since
        self.blocks_thread = self.holds_memory = rate is not None
        self.asked: list[str] = []

    def rate(self) -> float | None:
        return self._rate

    def shed(self) -> None:
        self.asked.append("shed")

    def announce_close(self) -> None:
        self.asked.append("announce_close")

    def close_if_idle(self) -> None:
        self.asked.append("close_if_idle")

    def abort(self, error: aiowsgi.ClientDisconnected) -> None:
        self.asked.append("abort")

    def release(self, error: aiowsgi.ClientDisconnected) -> None:
        self.asked.append("release")

    def abandon(self, error: aiowsgi.ClientDisconnected) -> list[int]:
        return []

    def inspect(self, stacks: dict[int, str]) -> RequestInfo | None:
        return None


def test_shedding_knows_of_clients_what_the_interface_says_and_nothing_else() -> None:
    server = MemoryServer(Application(), max_buffered=100_000)
    now = server.timers.now
    slow, quick = Handle(10.0), Handle(1e9)
    old, young = Handle(None, now - 10), Handle(None, now)
    handles: list[interfaces.ConnectionHandle] = [quick, young, slow, old]
    shedding = LoadShedding(handles, server.resources)
    shedding.free_connections()
    assert [old.asked, young.asked, slow.asked, quick.asked] == [["close_if_idle"], [], [], []]
    server.pool.is_starved = True
    server.pool.jobs.append(HeldJob(server.pool, lambda: None))
    shedding.free_threads()
    assert [slow.asked, quick.asked] == [["shed"], []]
    server.resources.budget.update(0, 200_000)
    # Nothing is freed by handles that only take note, so that all that hold memory are cut.
    assert shedding.free_memory()
    assert [slow.asked, quick.asked, young.asked] == [["shed", "shed"], ["shed"], []]


def test_who_has_no_handshake_yet_goes_before_who_has_been_idle_for_longer() -> None:
    server = MemoryServer(Application())
    now = server.timers.now
    old = [Handle(None, now - 10) for _ in range(10)]
    arriving = [Handle(None, now - 2, has_arrived=False) for _ in range(20)]
    fresh = Handle(None, now, has_arrived=False)  # It has had no time for it yet.
    handles: list[interfaces.ConnectionHandle] = [*old, fresh, *arriving]
    shedding = LoadShedding(handles, server.resources)
    for expected in ((16, 0), (20, 10)):  # Some at a time.
        shedding.free_connections()
        closed = tuple(sum(bool(one.asked) for one in those) for those in (arriving, old))
        assert closed == expected
    assert not fresh.asked


def test_look_for_room_keeps_nothing_of_connections_that_are_gone() -> None:
    with crowd() as some:
        wires = [weakref.ref(some.connect().wire) for _ in range(40)]
        some.timers.advance(2)
        some.shared.shedding.free_connections()
        some.timers.run_ready()
        assert len(some.shared.connections) == 24
        some.end()
        gc.collect()
        assert [wire for wire in wires if wire() is not None] == []


async def _closed(client: RawClient) -> None:
    assert await client.read_until_eof() == b""


async def _hello(client: RawClient) -> None:
    assert (await client.request(HELLO)).body == b"hello"


@on_each_loop
async def test_newcomers_are_served_at_the_limit_of_connections(start_server: StartServer) -> None:
    server = await start_server(Application(), validate=False, max_connections=4)
    idle = await connect(server)
    silent = await connect(server)
    busy = await connect(server)
    await _hello(idle)
    await busy.send(b"GET /hello HTTP/1.1\r\n")
    kept = await connect(server)
    await kept.send(post(3, 1))
    await eventually(lambda: [info.phase for info in server.inspect().requests] == ["reading"] * 2)
    await eventually(lambda: server.inspect().connections == 4)
    newcomers = [await connect(server) for _ in range(2)]
    await asyncio.gather(*map(_hello, newcomers))
    await _closed(idle)
    await _closed(silent)
    # Whoever had begun is answered.
    assert (await busy.request(b"Host: h\r\n\r\n")).body == b"hello"
    assert (await kept.request(b"xx")).body == b"3"
    assert server.inspect().buffered == 0


async def _connect(sock: socket.socket, server: aiowsgi.Server) -> RawClient:
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, server.sockets[0].getsockname())
    return RawClient(sock)


@on_each_loop
async def test_newcomers_are_served_where_descriptors_run_short(
    start_server: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    server = await start_server(Application(), validate=False)
    idle, busy = await connect(server), await connect(server)
    await busy.send(b"GET /hello HTTP/1.1\r\n")
    await _hello(idle)
    await eventually(lambda: [info.phase for info in server.inspect().requests] == ["reading"])
    with socket.socket() as sock, descriptors_used_up():
        newcomer = await _connect(sock, server)
        await _hello(newcomer)
        await _closed(idle)
        assert (await busy.request(b"Host: h\r\n\r\n")).body == b"hello"
    # Not at each of the attempts that are made until there is one, for a second.
    assert caplog.text.count("Cannot accept a connection: Too many open files") == 1


# --- the pace of a body --------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(("sent", "until"), [(10, 6), (30, 8), (200, 9)])
def test_body_needs_its_rate_once_the_first_patience_is_over(
    streamed: bool, sent: int, until: int
) -> None:
    """Ten bytes are worth a second, and none is worth more than five of silence."""
    with crowd(timeout_body=5.0, min_body_rate=10) as some:
        client = some.reader() if streamed else some.ask(post(1000))
        some.timers.advance(4)
        some.send(client, sent)
        some.timers.advance(until - 4 - 0.1)
        assert client.sent == b""
        some.timers.advance(0.2)
        some.timers.run_until(lambda: client.sent)
        assert client.status == 408


def test_time_in_the_queue_is_not_the_client_s() -> None:
    with crowd(timeout_body=5.0, body_prefetch=1000) as some:
        client = some.ask(post(2000, 1000))  # Then it is not read from.
        assert not client.wire.reading
        some.timers.advance(20)
        some.serve_on_thread()
        some.timers.run_until(lambda: client.wire.reading)
        some.timers.advance(4)
        client.receive(b"x" * 1000)
        some.timers.run_until(lambda: client.sent)
        assert client.status == 200
