"""What is accepted: how many connections before others have their turn, and with which options."""

import asyncio
import contextlib
import contextvars
import os
import select
import socket
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any, cast
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
from memory import MemoryServer
from raw_client import StartServer, eventually, on_each_loop, transports_of_the_loop

from aiowsgi.net.accept.listener import Listener
from aiowsgi.net.bind.listening import ListeningSocket
from aiowsgi.net.transport import SocketWire
from aiowsgi.net.transports.loop_transports import LoopTransports

# Fail-safe, in seconds.
TIMEOUT = 20.0


class Task:
    def add_done_callback(self, callback: Callable[[Any], object]) -> None: ...


class Loop:
    """As much of an event loop as a listener uses."""

    def __init__(self) -> None:
        self.on_readable: Callable[[], None] = lambda: None
        # How long it was asked to wait.
        self.pauses: list[float] = []

    def add_reader(self, sock: socket.socket, callback: Callable[[], None]) -> None:
        self.on_readable = callback

    def remove_reader(self, sock: socket.socket) -> None:
        self.on_readable = lambda: None

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        self.pauses.append(seconds)

    def create_task(self, coroutine: Coroutine[Any, Any, None]) -> Task:
        """Let it begin: it connects what was accepted."""
        with contextlib.suppress(StopIteration):
            coroutine.send(None)
        return Task()

    async def connect_accepted_socket(self, _: object, connection: socket.socket) -> None:
        connection.close()


def new_listener(
    loop: Loop,
    sock: socket.socket,
    *,
    inherited: bool = False,
    on_broken: Callable[[], None] = lambda: None,
    turn: Callable[[], float] | None = None,
    make_protocol: Callable[[socket.socket, object], asyncio.Protocol] = lambda *_: (
        asyncio.Protocol()
    ),
) -> Listener:
    """Return a listener with room for everybody."""
    return Listener(
        ListeningSocket(sock, inherited=inherited),
        loop=cast(asyncio.AbstractEventLoop, loop),
        context=contextvars.copy_context(),
        room=lambda: 1000,
        make_room=lambda: None,
        on_broken=on_broken,
        make_protocol=make_protocol,
        connector=LoopTransports(cast(asyncio.AbstractEventLoop, loop)),
        turn=turn,
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "unix"])
def test_accepted_socket_is_as_the_listening_one_and_stays_in_this_process(
    host: str, tmp_path: Path
) -> None:
    with contextlib.ExitStack() as stack:
        if host == "unix":
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.bind(str(tmp_path / "socket"))
            sock.listen()
        else:
            sock = stack.enter_context(socket.create_server((host, 0)))
        client = stack.enter_context(socket.socket(sock.family))
        client.settimeout(TIMEOUT)
        client.connect(sock.getsockname())
        assert select.select([sock], [], [], TIMEOUT)[0]
        connection, peer = ListeningSocket(sock).accept()
        stack.enter_context(connection)
        assert peer == client.getsockname()
        assert (connection.family, connection.type) == (sock.family, sock.type)
        assert not os.get_blocking(connection.fileno())
        assert not connection.getblocking()
        assert not connection.get_inheritable()


@pytest.mark.parametrize(("inherited", "accepted"), [(False, 5), (True, 1)])
def test_other_processes_get_their_share_of_what_waits_on_a_socket_that_they_may_have(
    inherited: bool, accepted: int
) -> None:
    loop = Loop()
    protocols = 0

    def make_protocol(_: socket.socket, peer: object) -> asyncio.Protocol:
        nonlocal protocols
        protocols += 1
        return asyncio.Protocol()

    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        for _ in range(5):
            stack.enter_context(socket.create_connection(sock.getsockname(), TIMEOUT))
        assert select.select([sock], [], [], TIMEOUT)[0]
        new_listener(loop, sock, inherited=inherited, make_protocol=make_protocol).resume()
        loop.on_readable()
    assert protocols == accepted


@pytest.mark.parametrize(("turns", "accepted", "pauses"), [([0, 0, 1], 2, []), ([1], 0, [1])])
def test_a_listener_accepts_as_long_as_it_is_its_turn(
    turns: list[float], accepted: int, pauses: list[float]
) -> None:
    loop = Loop()
    protocols = []

    def make_protocol(_: socket.socket, peer: object) -> asyncio.Protocol:
        protocols.append(peer)
        return asyncio.Protocol()

    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        for _ in range(3):
            stack.enter_context(socket.create_connection(sock.getsockname(), TIMEOUT))
        assert select.select([sock], [], [], TIMEOUT)[0]
        left = iter(turns)
        new_listener(
            loop, sock, inherited=True, make_protocol=make_protocol, turn=lambda: next(left)
        ).resume()
        on_readable = loop.on_readable
        on_readable()
        assert len(protocols) == accepted
        assert loop.pauses == pauses
        # The loop looks for further ones, or a timer does.
        assert (loop.on_readable == on_readable) == (not pauses)


def test_connections_send_small_pieces_at_once() -> None:
    loop = Loop()
    delays: list[int] = []

    def make_protocol(connection: socket.socket, peer: object) -> asyncio.Protocol:
        delays.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        return asyncio.Protocol()

    with socket.create_server(("127.0.0.1", 0)) as sock:
        new_listener(loop, sock, make_protocol=make_protocol).resume()
        with socket.create_connection(sock.getsockname(), TIMEOUT):
            assert select.select([sock], [], [], TIMEOUT)[0]
            loop.on_readable()
    assert delays == [1]


def test_broken_listener_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    broken: list[bool] = []
    loop = Loop()
    with socket.socket() as sock:  # It does not listen.
        sock.setblocking(False)
        listener = new_listener(loop, sock, on_broken=lambda: broken.append(True))
        for _ in range(3):
            # As whenever a connection ends.
            listener.resume()
            loop.on_readable()
    assert caplog.text.count("Cannot accept connections any more") == 1
    assert broken == [True]


# --- connections that cannot be set up -----------------------------------------------------------


def hello(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Length", "1")])
    return [b"x"]


async def passes_of_loop(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds, and miss no pass of the loop."""
    for _ in range(100_000):
        if condition():
            return
        await asyncio.sleep(0)
    pytest.fail("the condition does not come true")


@pytest.mark.parametrize("passes", range(4))
@on_each_loop
async def test_a_set_up_that_the_host_cancels_is_not_counted_for_ever(
    start_server: StartServer, passes: int
) -> None:
    with transports_of_the_loop():
        server = await start_server(hello, timeout_graceful=60)
    with socket.create_connection(server.sockets[0].getsockname(), TIMEOUT):
        before = asyncio.all_tasks()
        await passes_of_loop(lambda: asyncio.all_tasks() != before)
        for _ in range(passes):
            await asyncio.sleep(0)
        for task in asyncio.all_tasks():
            if task is not asyncio.current_task():
                task.cancel()
    await eventually(lambda: server.inspect().connections == 0)


class FailingTransport(asyncio.Transport):
    """A transport of which nothing can be learned, for want of memory."""

    def __init__(self) -> None:
        super().__init__()
        self.was_aborted = False

    def get_extra_info(self, name: str, default: object = None) -> object:
        raise MemoryError

    def abort(self) -> None:
        self.was_aborted = True


def new_wire(server: MemoryServer) -> SocketWire:
    loop = cast(asyncio.AbstractEventLoop, None)  # For files.
    return SocketWire(
        server.shared, server.codec, cast(socket.socket, None), ("127.0.0.1", 1), loop
    )


def test_a_connection_that_cannot_be_made_is_cut_and_counted_down_once() -> None:
    server, transport = MemoryServer(hello), FailingTransport()
    wire = new_wire(server)
    with pytest.raises(MemoryError):
        wire.connection_made(transport)
    assert transport.was_aborted
    # What a loop may still call.
    wire.data_received(b"GET / HTTP/1.1\r\n\r\n")
    wire.eof_received()
    assert server.disconnects == 0
    for _ in range(2):
        wire.connection_lost(None)
    assert server.disconnects == 1


def test_a_transport_that_comes_after_its_end_is_cut() -> None:
    server, transport = MemoryServer(hello), FailingTransport()
    wire = new_wire(server)
    wire.connection_lost(None)
    wire.connection_made(transport)
    assert transport.was_aborted
    assert server.disconnects == 1
