"""The transports of the server itself: many sockets behind one descriptor of the event loop."""

import asyncio
import contextlib
import contextvars
import errno
import fcntl
import itertools
import os
import select
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, cast

import pytest
from descriptors import open_descriptors
from raw_client import (
    HAS_TRANSPORTS,
    StartServer,
    connect_to,
    eventually,
    loop_factories,
    on_each_loop,
    parts_of,
    transports_of_the_loop,
)

from aiowsgi.net.transports.choice import new_connector
from aiowsgi.net.transports.loop_transports import LoopTransports

pytestmark = pytest.mark.skipif(not HAS_TRANSPORTS, reason="there is no epoll")
if HAS_TRANSPORTS:
    from aiowsgi.net.transports import polled_transport as polled_transport_module
    from aiowsgi.net.transports import poller as poller_module
    from aiowsgi.net.transports.polled_transport import (
        _MANY_BYTES,
        _READ_BYTES,
        EPOLLIN,
        EPOLLOUT,
        PolledTransport,
    )
    from aiowsgi.net.transports.poller import _SOCKETS_PER_PASS, Poller

# More than the kernel takes for a client that does not read.
MUCH = b"0123456789abcdef" * (1 << 18)


class Protocol(asyncio.Protocol):
    """Notes what it is told. ``on_data(data)`` is what it does with data."""

    def __init__(self, calls: list[str]) -> None:
        self.calls = calls
        self.received = bytearray()
        self.error: Exception | None = None
        self.stays_open = True
        self.on_made: Callable[[], object] = lambda: None
        self.on_data: Callable[[bytes], object] = lambda data: None
        self.on_lost: Callable[[], object] = lambda: None
        self.on_room: Callable[[], object] = lambda: None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("PolledTransport", transport)
        self.on_made()

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.on_data(data)

    def eof_received(self) -> bool:
        self.calls.append("eof")
        return self.stays_open

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")
        self.on_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append("lost")
        self.error = exc
        self.on_lost()


class House:
    """A poller on an event loop, which counts its passes, and pairs of sockets."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.passes = 0
        # How many sockets were served in each pass that had any.
        self.served: list[int] = []
        self._received = 0
        self.problems: list[Any] = []
        add_reader = loop.add_reader

        def add_counted(descriptor: int, callback: Callable[[], None]) -> None:
            def counted() -> None:
                self.passes += 1
                self._received = 0
                callback()
                self.served.append(self._received)

            add_reader(descriptor, counted)

        loop.add_reader = add_counted  # type: ignore[assignment,method-assign]
        loop.set_exception_handler(lambda _, context: self.problems.append(context["exception"]))
        self.poller = Poller(loop, contextvars.copy_context())
        self.clients: list[socket.socket] = []

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """Return the socket of a server, and its client's."""
        with socket.create_server(("127.0.0.1", 0)) as listening:
            client = socket.create_connection(listening.getsockname())
            sock, _ = listening.accept()
        sock.setblocking(False)
        client.settimeout(20)
        self.clients.append(client)
        return sock, client

    def connect(self, prepare: Callable[[Protocol], object] = id) -> tuple[Protocol, socket.socket]:
        """Return a protocol that is connected, and its client's socket."""
        sock, client = self.pair()
        return self.connect_to(sock, prepare), client

    def connect_to(
        self, sock: socket.socket, prepare: Callable[[Protocol], object] = id
    ) -> Protocol:
        protocol = Protocol([])
        protocol.on_data = self.count
        prepare(protocol)
        self.poller.connect(sock, protocol)
        return protocol

    def count(self, data: bytes) -> None:
        """Take note that a socket was read."""
        self._received += 1

    def run(self, passes: int = 1) -> None:
        """Let the loop make so many passes, and not wait in them."""

        async def make_passes() -> None:
            for _ in range(passes):
                await asyncio.sleep(0)

        self.loop.run_until_complete(make_passes())

    def until(self, condition: Callable[[], object]) -> None:
        """Let the loop run until the condition holds."""
        self.loop.run_until_complete(eventually(condition))

    def is_quiet(self) -> bool:
        """Return whether the poller has nothing to do."""
        self.run(3)
        before = self.passes
        self.run(10)
        return self.passes == before


@pytest.fixture(params=loop_factories())
def house(request: pytest.FixtureRequest) -> Iterator[House]:
    loop: asyncio.AbstractEventLoop = request.param()
    with contextlib.closing(loop):
        loop.run_until_complete(asyncio.sleep(0))
        before = open_descriptors()
        made = House(loop)
        yield made
        made.poller.close()
        made.run()
        for client in made.clients:
            client.close()
        assert open_descriptors() == before


def reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def read_all(client: socket.socket) -> bytes:
    """Return what a client is sent, to its end."""
    data = bytearray()
    while piece := client.recv(1 << 20):
        data += piece
    return bytes(data)


def fill(protocol: Protocol, house: House) -> bytes:
    """Write more than the kernel takes. Return it."""
    protocol.transport.write(MUCH)
    assert protocol.calls == ["pause"]
    assert 0 < protocol.transport.get_write_buffer_size() < len(MUCH)
    return MUCH


def test_what_a_client_sends_arrives_and_what_is_written_is_sent_at_once(house: House) -> None:
    protocol, client = house.connect()
    client.sendall(b"question")
    house.until(lambda: protocol.received == b"question")
    protocol.transport.write(b"answer")
    assert client.recv(100) == b"answer"
    assert protocol.transport.get_write_buffer_size() == 0
    assert protocol.calls == []
    assert house.is_quiet()


def test_others_have_their_turn_while_many_sockets_are_ready(house: House) -> None:
    protocols = []
    for number in range(2 * _SOCKETS_PER_PASS + 1):
        protocol, client = house.connect()
        client.sendall(b"%d" % number)
        protocols.append(protocol)

    house.until(lambda: sum(house.served) == len(protocols))
    assert house.served == [_SOCKETS_PER_PASS, _SOCKETS_PER_PASS, 1]
    # Each had its turn before any had another.
    assert [bytes(protocol.received) for protocol in protocols] == [
        b"%d" % number for number in range(len(protocols))
    ]


def test_who_always_has_something_to_send_does_not_keep_others_waiting(house: House) -> None:
    busy = []
    for _ in range(2 * _SOCKETS_PER_PASS):
        protocol, client = house.connect()
        # What is not read stays, so that the socket is always ready.
        protocol.on_data = lambda data, client=client: client.send(b"x")  # type: ignore[misc]
        client.sendall(b"x")
        busy.append(protocol)
    house.run(10)
    other, client = house.connect()
    client.sendall(b"x")
    house.run(6)
    assert other.received
    for protocol in busy:
        protocol.on_data = lambda data: None


def test_more_is_read_at_a_time_behind_what_has_filled_a_read(house: House) -> None:
    class Noting(socket.socket):
        """Notes how much is asked for, and how much has come."""

        def recv(self, size: int, flags: int = 0) -> bytes:
            data = super().recv(size, flags)
            reads.append((size, len(data)))
            return data

    reads: list[tuple[int, int]] = []
    sock, client = house.pair()
    sock = Noting(fileno=sock.detach())
    protocol = house.connect_to(sock)
    for size in 3 * _READ_BYTES, 1, 1:
        protocol.received.clear()
        client.sendall(bytes(size))
        house.until(lambda size=size: len(protocol.received) == size)  # type: ignore[misc]
    assert max(count for _, count in reads) >= _READ_BYTES
    assert [size for size, _ in reads] == [
        _READ_BYTES,
        *(_READ_BYTES if count < _READ_BYTES else _MANY_BYTES for _, count in reads[:-1]),
    ]


def test_what_the_kernel_does_not_take_is_kept_and_sent_in_order(house: House) -> None:
    protocol, client = house.connect()
    written = fill(protocol, house)
    protocol.transport.write(b"more")
    received = bytearray()
    while len(received) < len(written) + 4:
        house.run()
        with contextlib.suppress(BlockingIOError):
            received += client.recv(1 << 20, socket.MSG_DONTWAIT)
    assert received == written + b"more"
    house.until(lambda: protocol.calls == ["pause", "resume"])
    assert protocol.transport.get_write_buffer_size() == 0
    assert house.is_quiet()


def test_pieces_are_sent_as_they_are_and_in_order(house: House) -> None:
    protocol, client = house.connect()
    protocol.transport.writelines([b"one", b"", b"two"])
    assert client.recv(100) == b"onetwo"
    assert protocol.calls == []
    # The kernel takes no more of them at a time, and then not all of the long one.
    pieces = [b"%d," % number for number in range(1500)] + [MUCH, b"end"]
    protocol.transport.writelines(pieces)
    protocol.transport.writelines([b"behind", b"it"])
    assert protocol.calls == ["pause"]
    protocol.transport.write_eof()
    reading = house.loop.run_in_executor(None, read_all, client)
    assert house.loop.run_until_complete(reading) == b"".join(pieces) + b"behindit"
    protocol.transport.close()
    protocol.transport.writelines([b"too", b"late"])


def test_pieces_for_a_client_that_takes_none_are_kept(house: House) -> None:
    protocol, client = house.connect()
    sock: socket.socket = protocol.transport.get_extra_info("socket")
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.send(MUCH)
    protocol.transport.writelines([b"one", b"two"])
    assert protocol.transport.get_write_buffer_size() == 6
    reset(client)
    house.until(lambda: protocol.calls == ["pause", "lost"])


def test_pieces_for_a_client_that_is_gone_end_the_connection(house: House) -> None:
    protocol, client = house.connect()
    protocol.transport.pause_reading()
    reset(client)
    protocol.transport.writelines([b"one", b"two"])
    house.until(lambda: protocol.calls == ["lost"])


def test_more_may_be_written_as_soon_as_there_is_room(house: House) -> None:
    protocol, client = house.connect()
    fill(protocol, house)

    def write_once_more() -> None:
        if protocol.calls.count("resume") == 1:
            protocol.transport.write(MUCH)

    protocol.on_room = write_once_more
    protocol.transport.write_eof()
    reading = house.loop.run_in_executor(None, read_all, client)
    assert len(house.loop.run_until_complete(reading)) == 2 * len(MUCH)
    # Perhaps the kernel took all of the second half at once.
    assert protocol.calls in (["pause", "resume"] * 2, ["pause", "resume"])


@pytest.mark.parametrize("end", ["close", "write_eof"])
def test_the_rest_is_sent_before_the_end(house: House, end: str) -> None:
    protocol, client = house.connect()
    written = fill(protocol, house)
    getattr(protocol.transport, end)()
    getattr(protocol.transport, end)()
    reading = house.loop.run_in_executor(None, read_all, client)
    assert house.loop.run_until_complete(reading) == written
    if end == "close":
        house.until(lambda: protocol.calls == ["pause", "resume", "lost"])
    else:
        client.sendall(b"late")
        house.until(lambda: protocol.received == b"late")
        assert protocol.calls == ["pause", "resume"]


def test_nothing_is_written_or_read_once_it_is_closing(house: House) -> None:
    protocol, client = house.connect()
    client.sendall(b"late")
    protocol.transport.close()
    assert protocol.transport.is_closing()
    protocol.transport.write(b"late")
    protocol.transport.write_eof()
    protocol.transport.close()
    protocol.transport.abort()
    house.until(lambda: protocol.calls)
    assert protocol.calls == ["lost"]
    assert protocol.error is None
    assert not protocol.received
    with contextlib.suppress(ConnectionResetError):
        assert client.recv(100) == b""


def test_abort_drops_what_is_kept(house: House) -> None:
    protocol, client = house.connect()
    fill(protocol, house)
    protocol.transport.abort()
    assert protocol.transport.get_write_buffer_size() == 0
    house.until(lambda: protocol.calls == ["pause", "lost"])
    assert len(read_all(client)) < len(MUCH)


@pytest.mark.parametrize("stays_open", [True, False])
def test_the_clients_end_is_told_once(house: House, stays_open: bool) -> None:
    protocol, client = house.connect()
    protocol.stays_open = stays_open
    client.shutdown(socket.SHUT_WR)
    house.until(lambda: protocol.calls)
    assert house.is_quiet()
    assert protocol.calls == (["eof"] if stays_open else ["eof", "lost"])
    # There is nothing to be read, whoever asks.
    if stays_open:
        protocol.transport.pause_reading()
        protocol.transport.resume_reading()
        assert house.is_quiet()
        protocol.transport.write(b"answer")
        assert client.recv(100) == b"answer"


def test_nothing_is_read_while_reading_is_paused(house: House) -> None:
    protocol, client = house.connect()
    assert protocol.transport.is_reading()
    protocol.transport.pause_reading()
    assert not protocol.transport.is_reading()
    client.sendall(b"question")
    assert house.is_quiet()
    assert not protocol.received
    protocol.transport.resume_reading()
    house.until(lambda: protocol.received == b"question")


def test_a_reset_is_noticed_when_reading_goes_on_and_costs_nothing_before(house: House) -> None:
    protocol, client = house.connect()
    protocol.transport.pause_reading()
    reset(client)
    assert house.is_quiet()
    assert protocol.calls == []
    protocol.transport.resume_reading()
    house.until(lambda: protocol.calls == ["lost"])
    assert isinstance(protocol.error, ConnectionResetError)
    # Else it would keep the connection, which keeps it.
    assert protocol.error.__traceback__ is None


@pytest.mark.parametrize("reads", [True, False])
def test_a_reset_ends_a_connection_that_has_something_to_send(house: House, reads: bool) -> None:
    protocol, client = house.connect()
    if not reads:
        protocol.transport.pause_reading()
    fill(protocol, house)
    reset(client)
    house.until(lambda: "lost" in protocol.calls)
    assert isinstance(protocol.error, ConnectionError)
    assert house.is_quiet()


def test_a_client_that_is_gone_shows_when_it_is_written_to(house: House) -> None:
    protocol, client = house.connect()
    protocol.transport.pause_reading()
    reset(client)
    protocol.transport.write(b"answer")
    assert protocol.transport.is_closing()
    house.until(lambda: protocol.calls == ["lost"])
    assert isinstance(protocol.error, ConnectionError)


def test_a_client_that_is_gone_shows_when_its_rest_has_been_sent(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(sock: socket.socket, how: int) -> None:
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))

    protocol, client = house.connect()
    fill(protocol, house)
    protocol.transport.write_eof()
    monkeypatch.setattr(socket.socket, "shutdown", fail)
    reading = house.loop.run_in_executor(None, read_all, client)
    house.until(lambda: protocol.calls == ["pause", "resume", "lost"])
    assert len(house.loop.run_until_complete(reading)) == len(MUCH)
    assert isinstance(protocol.error, OSError)


def test_one_that_another_has_ended_is_not_served_any_more(house: House) -> None:
    first, first_client = house.connect()
    second, second_client = house.connect()
    first.on_data = lambda data: second.transport.abort()
    second.on_data = lambda data: first.transport.abort()
    first_client.sendall(b"x")
    second_client.sendall(b"x")
    house.until(lambda: first.calls or second.calls)
    assert bool(first.received) != bool(second.received)


def test_the_next_one_with_the_same_descriptor_has_nothing_of_the_last_one(house: House) -> None:
    last, _ = house.connect()
    transport = last.transport
    number = transport.descriptor
    sock, client = house.pair()
    last.transport.abort()
    house.until(lambda: last.calls == ["lost"])
    assert transport.get_extra_info("socket").fileno() == -1
    with sock:
        same = fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD_CLOEXEC, number)
    following = house.connect_to(socket.socket(fileno=same))
    assert following.transport.descriptor == number
    transport.write(b"foreign")
    transport.resume_reading()
    transport.close()
    transport.abort()
    client.sendall(b"question")
    house.until(lambda: following.received == b"question")
    following.transport.write(b"answer")
    assert client.recv(100) == b"answer"
    assert last.calls == ["lost"]


def test_a_socket_that_another_process_has_too_is_not_watched_when_it_is_closed(
    house: House,
) -> None:
    protocol, client = house.connect()
    # A child would have such a duplicate, too.
    with socket.socket(fileno=os.dup(protocol.transport.get_extra_info("socket").fileno())):
        protocol.transport.close()
        client.sendall(b"late")
        house.until(lambda: protocol.calls == ["lost"])
        assert house.is_quiet()


@pytest.mark.parametrize("event", ["on_made", "on_data", "on_room", "on_lost"])
def test_a_defect_is_told_and_ends_one_connection_only(house: House, event: str) -> None:
    other, other_client = house.connect()

    def fail(*arguments: object) -> None:
        raise ValueError(event)

    protocol, client = house.connect(lambda protocol: setattr(protocol, event, fail))
    if event == "on_data":
        client.sendall(b"x")
    elif event == "on_room":
        fill(protocol, house)
        house.loop.run_until_complete(house.loop.run_in_executor(None, read_all_but_end, client))
    elif event == "on_lost":
        client.close()
        protocol.stays_open = False
    house.until(lambda: "lost" in protocol.calls)
    assert [str(problem) for problem in house.problems] == [event]
    other_client.sendall(b"x")
    house.until(lambda: other.received)
    assert other.calls == []
    assert house.is_quiet()


def read_all_but_end(client: socket.socket) -> None:
    left = len(MUCH)
    while left:
        left -= len(client.recv(1 << 20))


def test_ends_are_told_all_the_same_when_one_is_interrupted(house: House) -> None:
    first, _ = house.connect()
    second, _ = house.connect()

    interruptions = [KeyboardInterrupt]

    def interrupt() -> None:
        if interruptions:
            raise interruptions.pop()

    first.on_lost = interrupt
    first.transport.abort()
    second.transport.abort()
    with pytest.raises(KeyboardInterrupt):
        house.run(3)
    house.until(lambda: second.calls == ["lost"])
    # It could not be finished, and was told again.
    assert first.calls == ["lost", "lost"]


def test_every_end_is_told_wherever_that_is_interrupted(house: House) -> None:
    other, other_client = house.connect()
    step = 1
    while is_interrupted(house, other_client, step):
        step += 1
    assert house.is_quiet()
    assert other.calls == house.problems == []


def is_interrupted(house: House, other_client: socket.socket, step: int) -> bool:
    """Have ends told, and that interrupted at this bytecode. Return False if there are fewer."""
    files = {poller_module.__file__, polled_transport_module.__file__}
    told = Protocol.connection_lost.__code__
    steps = itertools.count(1)
    struck = False

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal struck
        if frame.f_code.co_filename not in files and frame.f_code is not told:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and next(steps) == step:
            struck = True
            raise KeyboardInterrupt
        return trace

    ends = [house.connect() for _ in range(2)]
    with contextlib.suppress(KeyboardInterrupt):
        sys.settrace(trace)
        try:
            for protocol, _ in ends:
                protocol.transport.abort()
            house.run(3)
        finally:
            sys.settrace(None)
    for protocol, _ in ends:
        # Whoever wanted to may have been interrupted.
        protocol.transport.abort()
    # Any other socket has the poller go on.
    other_client.sendall(b"x")
    house.until(lambda: all(protocol.transport.descriptor == -1 for protocol, _ in ends))
    for protocol, _ in ends:
        assert set(protocol.calls) == {"lost"}
        assert protocol.transport.get_extra_info("socket").fileno() == -1
    return struck


def test_ends_are_told_all_the_same_when_one_could_not_be(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = house.connect()
    second, _ = house.connect()

    def fail(*arguments: object, **options: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(house.loop, "call_soon", fail)
        with pytest.raises(MemoryError):
            first.transport.abort()
    second.transport.abort()
    house.until(lambda: first.calls == second.calls == ["lost"])
    assert house.is_quiet()


class FullEpoll:
    """What the kernel has no room for sockets in."""

    def __init__(self) -> None:
        self._other, self._own = os.pipe()

    def fileno(self) -> int:
        return self._own

    def register(self, sock: socket.socket, events: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        os.close(self._own)
        os.close(self._other)


def test_a_socket_that_the_kernel_cannot_watch_is_closed_and_told(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(select, "epoll", FullEpoll)
    poller = Poller(house.loop, contextvars.copy_context())
    with socket.socket() as sock:
        protocol = Protocol([])
        poller.connect(sock, protocol)
        assert protocol.calls == ["lost"]
        assert sock.fileno() == -1
    assert "A connection could not be set up: [Errno 28]" in caplog.text
    poller.close()


def test_what_is_left_is_closed_with_the_poller(house: House) -> None:
    protocol, client = house.connect()
    transport = protocol.transport
    house.poller.close()
    house.poller.close()
    assert client.recv(100) == b""
    assert house.poller.abandon() == []
    # A host may still have these called.
    transport.write(b"late")
    transport.close()
    house.run(2)
    assert protocol.calls == ["lost"]


def test_a_loop_that_is_closed_needs_not_be_asked(no_descriptor_is_left: None) -> None:
    loop = asyncio.new_event_loop()
    made = House(loop)
    _, client = made.connect()
    loop.close()
    made.poller.close()
    with client:
        assert client.recv(100) == b""


def test_a_forked_child_leaves_everything_to_its_parent(house: House) -> None:
    protocol, client = house.connect()
    (descriptor,) = house.poller.abandon()
    assert os.readlink(f"/proc/self/fd/{descriptor}") == "anon_inode:[eventpoll]"
    client.sendall(b"x")
    house.run(3)
    assert not protocol.received
    # Its copy of the transport does not change what the parent watches.
    protocol.transport.pause_reading()
    house.poller.close()
    with select.epoll.fromfd(os.dup(descriptor)) as same:
        assert same.poll(0) == [(protocol.transport.descriptor, select.EPOLLIN)]
    house.poller._is_over = False  # As it is in the parent.


def test_protocols_follow_each_other(house: House) -> None:
    protocol, client = house.connect()
    following = Protocol([])
    assert protocol.transport.get_protocol() is protocol
    protocol.transport.set_protocol(following)
    client.sendall(b"x")
    house.until(lambda: following.received)
    assert not protocol.received
    assert protocol.transport.get_extra_info("sockname") == client.getpeername()
    assert protocol.transport.get_extra_info("sslcontext", "none") == "none"
    assert protocol.transport.can_write_eof()


# --- what servers have ---------------------------------------------------------------------------


def hello(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
    return [b"hello"]


async def test_systems_without_epoll_have_the_transports_of_the_loop() -> None:
    loop, context = asyncio.get_running_loop(), contextvars.copy_context()
    connector = new_connector(loop, context)
    assert isinstance(connector, Poller)
    connector.close()
    with transports_of_the_loop():
        assert isinstance(new_connector(loop, context), LoopTransports)


def test_nothing_asks_for_epoll_where_there_is_none() -> None:
    without = "import select; [delattr(select, x) for x in dir(select) if 'epoll' in x.lower()]"
    code = f"{without}; import aiowsgi.server.server"
    subprocess.run([sys.executable, "-P", "-c", code], check=True, timeout=60)


def test_events_are_those_of_the_system() -> None:
    assert (EPOLLIN, EPOLLOUT) == (select.EPOLLIN, select.EPOLLOUT)


@on_each_loop
async def test_many_that_wait_are_accepted_without_a_task_for_each(
    start_server: StartServer,
) -> None:
    server = await start_server(hello)
    clients = [await connect_to(server.sockets[0].getsockname()) for _ in range(20)]
    for client in clients:
        await client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    for client in clients:
        assert (await client.receive()).body == b"hello"
    assert len(parts_of(server).shared.connections) == len(clients)
