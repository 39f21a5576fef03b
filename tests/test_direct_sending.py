"""What a pool thread sends by itself: in the right order, and only while it is allowed to."""

import asyncio
import random
import socket
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import pytest
from extent import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from memory import MemoryConnection, MemoryServer, MemoryWire, Owner, waking
from raw_client import StartServer, connect, eventually, on_each_loop

from aiowsgi.bridge.budget import Budget
from aiowsgi.bridge.locks import Lock, make_condition, make_lock
from aiowsgi.bridge.response import ResponseWriter, WriterTerms
from aiowsgi.bridge.source import Progress
from aiowsgi.errors import ApplicationError, ClientDisconnected, RequestTimeout
from aiowsgi.net.sockets import send_now

# Fail-safe, in seconds.
TIMEOUT = 20.0
ALL = 1 << 30
GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


class NoSlots:
    def make_condition(self, lock: Lock) -> threading.Condition:
        return make_condition(lock)

    def release_slot(self) -> None: ...

    def reclaim_slot(self) -> None: ...


class Kernel:
    """Takes what there is room for."""

    def __init__(self, room: int = ALL) -> None:
        self.room = room
        self.taken = bytearray()

    def send(self, pieces: list[bytes]) -> int:
        data = b"".join(pieces)[: self.room]
        self.room -= len(data)
        self.taken += data
        return len(data)


class Wakes:
    def __init__(self) -> None:
        self.number = 0

    def __call__(self) -> None:
        self.number += 1


@pytest.fixture
def wakes() -> Wakes:
    return Wakes()


def direct_writer(wakes: Wakes, kernel: Kernel) -> ResponseWriter:
    terms = WriterTerms(waking(wakes), 1 << 20, Budget(ALL), NoSlots())
    writer = ResponseWriter(Owner(), terms, make_lock())
    writer.send_now = kernel.send
    return writer


class DirectConnection(MemoryConnection):
    """A connection whose threads may give bytes to a kernel themselves."""

    def __init__(self, app: WSGIApplication, kernel: Kernel) -> None:
        MemoryServer.__init__(self, app)
        self.wire = DirectWire(self, kernel)
        self.connection = self.connect(self.wire)


class DirectWire(MemoryWire):
    def __init__(self, server: MemoryServer, kernel: Kernel) -> None:
        super().__init__(server.timers)
        self.is_plain = True
        self._kernel = kernel

    def send_now(self, pieces: list[bytes]) -> int:
        return self._kernel.send(pieces)


# --- the writer, in memory -----------------------------------------------------------------------


def test_pieces_go_out_without_the_loop_thread(wakes: Wakes) -> None:
    kernel = Kernel()
    writer = direct_writer(wakes, kernel)
    writer.write([b"a", b"b"])
    writer.write([b"c"])
    assert (bytes(kernel.taken), wakes.number) == (b"abc", 0)
    writer.finish([b"d"])
    # The loop thread is woken, because it has to go on with the connection.
    assert (bytes(kernel.taken), wakes.number) == (b"abcd", 1)
    assert writer.take(ALL) == ([], Progress.FINISHED)


@pytest.mark.parametrize("room", [0, 1, 2, 3])
def test_what_the_kernel_does_not_take_is_queued(wakes: Wakes, room: int) -> None:
    kernel = Kernel(room)
    writer = direct_writer(wakes, kernel)
    writer.write([b"ab", b"cd"])
    kernel.room = ALL
    writer.write([b"ef"])
    assert wakes.number == 1
    pieces, progress = writer.take(ALL)
    assert (bytes(kernel.taken) + b"".join(pieces), progress) == (b"abcdef", Progress.OPEN)
    assert len(kernel.taken) == room


def test_nothing_overtakes_what_the_loop_thread_has_taken(wakes: Wakes) -> None:
    kernel = Kernel(0)
    writer = direct_writer(wakes, kernel)
    writer.write([b"a"])
    kernel.room = ALL
    assert writer.take(ALL) == ([b"a"], Progress.OPEN)
    writer.write([b"b"])
    assert not kernel.taken
    # That was sent; but there is more by now.
    writer.resume_direct()
    writer.write([b"c"])
    assert not kernel.taken
    assert writer.take(ALL) == ([b"b", b"c"], Progress.OPEN)
    writer.resume_direct()
    writer.write([b"d"])
    assert bytes(kernel.taken) == b"d"


def test_loop_thread_that_comes_between_a_part_and_its_rest_changes_nothing(wakes: Wakes) -> None:
    kernel = Kernel(1)
    writer = direct_writer(wakes, kernel)

    class Rest(bytes):
        """Longer than the pieces that are queued: it is cut up behind what the kernel takes."""

        def __getitem__(self, index: Any) -> Any:
            if not kernel.room:
                assert writer.take(ALL) == ([], Progress.OPEN)
                writer.resume_direct()
                kernel.room = ALL
            return super().__getitem__(index)

    writer.write([b"a", Rest(b"b" * 200_000)])
    writer.write([b"c"])
    assert bytes(kernel.taken) == b"a"
    assert b"".join(writer.take(ALL)[0]) == b"b" * 200_000 + b"c"


def test_response_is_queued_where_many_are_sent_at_one_go(wakes: Wakes) -> None:
    kernel = Kernel()
    writer = direct_writer(wakes, kernel)
    writer.write([b"a"], Progress.FINISHED, direct=False)
    assert not kernel.taken
    assert writer.take(ALL) == ([b"a"], Progress.FINISHED)


@pytest.mark.parametrize("iterable", [False, True])
@pytest.mark.parametrize(
    ("others", "seconds", "direct"), [(0, 0.0, True), (1, 0.0, False), (1, 0.1, True)]
)
def test_end_of_a_response_is_left_to_the_loop_thread_where_other_short_requests_wait(
    iterable: bool, others: int, seconds: float, direct: bool
) -> None:
    kernel = Kernel()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "5")])
        connection.timers.now += seconds
        return iter([b"hello"]) if iterable else [b"hello"]

    connection = DirectConnection(app, kernel)
    connection.receive(GET)
    for _ in range(others):
        connection.pool.enqueue(lambda: None, lambda: None)
    connection.pool.jobs.pop(0).run()
    assert kernel.taken.endswith(b"hello") is direct
    connection.timers.run_ready()
    assert connection.sent.endswith(b"hello") is not direct


def test_thread_sends_again_once_the_client_has_taken_what_it_could_not_send() -> None:
    go_on, gone_on = threading.Event(), threading.Event()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"first"
        assert go_on.wait(TIMEOUT)
        yield b"second"
        gone_on.set()

    connection = MemoryConnection(app, is_plain=True)
    wire = connection.wire
    wire.capacity = 0
    connection.receive(GET)
    thread = connection.start_job()
    connection.timers.run_until(lambda: wire.pending)
    assert wire.sent_now == b""
    wire.take(1 << 20)
    connection.timers.run_ready()
    go_on.set()
    # The loop thread has no turn meanwhile.
    assert gone_on.wait(TIMEOUT)
    assert b"second" in wire.sent_now
    thread.join(TIMEOUT)
    connection.timers.run_ready()
    assert connection.sent.endswith(b"\r\nsecond\r\n0\r\n\r\n")


def test_nothing_is_sent_once_a_connection_is_cut() -> None:
    """Bytes behind that would belong to a response that looks complete where the socket ends."""
    kernel = Kernel()
    cut: list[BaseException] = []

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        write = start_response("200 OK", [("Content-Type", "text/plain")])
        connection.connection.abort(ClientDisconnected("cut"))
        try:
            # The wire tells later that the connection is gone.
            write(b"a")
        except ClientDisconnected as error:
            cut.append(error)
        return []

    connection = DirectConnection(app, kernel)
    connection.receive(GET)
    connection.run_job()
    assert [str(error) for error in cut] == ["cut"]
    assert not kernel.taken
    assert connection.sent == b""


def test_nothing_is_sent_behind_the_end(wakes: Wakes) -> None:
    kernel = Kernel()
    writer = direct_writer(wakes, kernel)
    writer.finish([b"a"])
    with pytest.raises(ApplicationError):
        writer.write([b"b"])
    writer.take(ALL)
    with pytest.raises(ApplicationError):
        writer.write([b"b"])
    assert bytes(kernel.taken) == b"a"


def test_nothing_is_sent_to_nobody(wakes: Wakes) -> None:
    """The descriptor may be another connection's by then."""
    kernel = Kernel()
    writer = direct_writer(wakes, kernel)
    writer.disconnect(ClientDisconnected("gone"))
    writer.resume_direct()
    for call in (writer.write, writer.finish):
        with pytest.raises(ClientDisconnected):
            call([b"a"])
    assert not kernel.taken


def test_response_that_has_not_begun_can_be_withdrawn(wakes: Wakes) -> None:
    kernel = Kernel()
    writer = direct_writer(wakes, kernel)
    assert writer.withdraw(RequestTimeout("late"))
    with pytest.raises(RequestTimeout):
        writer.write([b"a"])
    assert not kernel.taken


@pytest.mark.parametrize("room", [0, 1, ALL])
@pytest.mark.parametrize("end", [False, True])
def test_response_that_has_begun_cannot_be_withdrawn(wakes: Wakes, room: int, end: bool) -> None:
    kernel = Kernel(room)
    writer = direct_writer(wakes, kernel)
    (writer.finish if end else writer.write)([b"ab"])
    assert not writer.withdraw(RequestTimeout("late"))
    writer.check()
    pieces, _ = writer.take(ALL)
    assert bytes(kernel.taken) + b"".join(pieces) == b"ab"
    assert not writer.withdraw(RequestTimeout("late"))


@settings(max_examples=examples(60))
@given(
    pieces=st.lists(st.lists(st.binary(max_size=9), max_size=3), max_size=30),
    room=st.integers(0, 12),
    seed=st.integers(0, 1 << 16),
)
def test_two_threads_send_everything_once_and_in_order(
    pieces: list[list[bytes]], room: int, seed: int
) -> None:
    """The kernel has room again only when the loop thread has waited for it."""
    chance = random.Random(seed)
    kernel = Kernel(room)
    woken = threading.Semaphore(0)
    terms = WriterTerms(waking(woken.release), 16, Budget(ALL), NoSlots())
    writer = ResponseWriter(Owner(), terms, make_lock())
    writer.send_now = kernel.send

    def produce() -> None:
        for some in pieces:
            writer.write(list(some))
        writer.finish([])

    with ThreadPoolExecutor(1) as threads:
        producer = threads.submit(produce)
        progress = Progress.OPEN
        while progress is not Progress.FINISHED:
            if progress is Progress.OPEN:
                assert woken.acquire(timeout=TIMEOUT)
            taken, progress = writer.take(chance.randint(1, 20))
            kernel.room = ALL
            kernel.send(taken)
            kernel.room = chance.randint(0, 12)
            if progress is Progress.OPEN:
                writer.resume_direct()
        producer.result(TIMEOUT)
    assert bytes(kernel.taken) == b"".join(b"".join(some) for some in pieces)


# --- the kernel ----------------------------------------------------------------------------------


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.settimeout(TIMEOUT)
    with ours, theirs:
        yield ours, theirs


PIECES = [
    pytest.param([b"x" * 100], id="few"),
    pytest.param([b"x" * (150_000)], id="many"),
    pytest.param([b"x", b"y" * 20_000, b"z"], id="pieces"),
]


@pytest.mark.parametrize("pieces", PIECES)
def test_kernel_gets_all_pieces(
    pair: tuple[socket.socket, socket.socket], pieces: list[bytes]
) -> None:
    data = b"".join(pieces)
    assert send_now(pair[0], pieces) == len(data)
    assert pair[1].recv(len(data), socket.MSG_WAITALL) == data


@pytest.mark.parametrize("pieces", PIECES)
def test_full_kernel_takes_a_part_and_then_nothing(
    pair: tuple[socket.socket, socket.socket], pieces: list[bytes]
) -> None:
    sent = 0
    while (count := send_now(pair[0], pieces)) == sum(map(len, pieces)):
        sent += count
    sent += count
    assert send_now(pair[0], pieces) == 0
    assert len(pair[1].recv(sent, socket.MSG_WAITALL)) == sent


@pytest.mark.parametrize("pieces", PIECES)
def test_client_that_has_gone_takes_nothing(
    pair: tuple[socket.socket, socket.socket], pieces: list[bytes]
) -> None:
    pair[1].close()
    assert send_now(pair[0], pieces) == 0


# --- the server ----------------------------------------------------------------------------------


@on_each_loop
@pytest.mark.parametrize("stream", [False, True])
async def test_answer_arrives_while_the_loop_is_held_up(
    start_server: StartServer, stream: bool
) -> None:
    holding, answered = threading.Event(), threading.Event()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        assert holding.wait(TIMEOUT)
        start_response("200 OK", [("Content-Length", "5")])
        return iter([b"he", b"llo"]) if stream else [b"hello"]

    def ask() -> bytes:
        with socket.create_connection(server.sockets[0].getsockname(), TIMEOUT) as client:
            client.sendall(GET)
            data = b""
            while not data.endswith(b"hello"):
                more = client.recv(1000)
                assert more, "the connection has ended"
                data += more
            answered.set()
        return data

    server = await start_server(app, validate=False)
    asking = asyncio.get_running_loop().run_in_executor(None, ask)
    await eventually(lambda: [info.phase for info in server.inspect().requests] == ["running"])
    holding.set()
    assert answered.wait(TIMEOUT), "the thread waits for the loop"
    assert (await asking).startswith(b"HTTP/1.1 200 OK\r\n")


@on_each_loop
async def test_next_request_may_come_before_the_thread_has_said_that_it_is_done(
    start_server: StartServer,
) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "5")])
        return [environ["PATH_INFO"][1:].encode()]

    server = await start_server(app, validate=False)
    async with await connect(server) as client:
        for number in range(300):
            await client.send(b"GET /%05d HTTP/1.1\r\nHost: h\r\n\r\n" % number)
            assert (await client.receive()).body == b"%05d" % number
