"""What is still answered once a server has begun to stop, and for how long: ``drain_delay``, and
whatever was on its way. How it ends is in ``test_shutdown``.
"""

import asyncio
import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
from extent import examples, exhaustive, representative
from hypothesis import given, settings
from hypothesis import strategies as st
from memory import MemoryConnection
from raw_client import (
    TIMEOUT,
    StartServer,
    be_patient,
    connect,
    connect_to,
    eventually,
    in_thread,
    on_each_loop,
    parts_of,
)
from served_process import ANSWER, ServedProcess, served

import aiowsgi
from aiowsgi.server.serving import Serving
from aiowsgi.server.surroundings import Surroundings

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
WAIT = b"GET /wait HTTP/1.1\r\nHost: h\r\n\r\n"
BEGIN = b"GET /begin HTTP/1.1\r\nHost: h\r\n\r\n"
POST = b"POST /read HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n0123456789"
UPLOAD = b"POST /begin HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n0123456789"
# Longer than any test takes: who waits for its end fails.
LONG = 10 * TIMEOUT


class App:
    """Answers at once; at /wait when it is let, and at /begin with what it has until then."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.paths: list[str] = []

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        self.paths.append(path := environ["PATH_INFO"])
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
        if path == "/wait":
            self._wait()
        elif path == "/read":
            environ["wsgi.input"].read(10)
        return self._in_two() if path == "/begin" else [b"hello"]

    def _in_two(self) -> Iterator[bytes]:
        yield b"he"
        self._wait()
        yield b"llo"

    def _wait(self) -> None:
        self.begun.set()
        assert self.go_on.wait(TIMEOUT)


def descriptors() -> set[str]:
    """Return the sockets and pipes that are open."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # That of the listing itself.
            found.add(os.readlink(f"/proc/self/fd/{number}"))
    return {name for name in found if name.startswith(("socket:", "pipe:"))}


@contextlib.asynccontextmanager
async def nothing_left() -> AsyncIterator[None]:
    """Check that no thread, task and descriptor is left behind."""
    threads, tasks, opened = set(threading.enumerate()), asyncio.all_tasks(), descriptors()
    yield
    assert {thread for thread in threading.enumerate() if "aiowsgi" in thread.name} <= threads
    assert asyncio.all_tasks() == tasks
    # A loop closes some of it in its next pass.
    await eventually(lambda: descriptors() <= opened)


async def ended(server: aiowsgi.Server) -> None:
    async with asyncio.timeout(TIMEOUT):
        await server.wait_closed()
    assert server.inspect().connections == server.inspect().buffered == 0


# --- a server in whose place others go on ---------------------------------------------------------


@contextlib.asynccontextmanager
async def replaced_server(app: App, **options: Any) -> AsyncIterator[aiowsgi.Server]:
    config = aiowsgi.Config(bind=("127.0.0.1:0",), timeout_graceful=LONG, **options)
    surroundings = Surroundings(is_replaced=lambda: True)
    async with Serving(app, config, None, None, surroundings) as server:
        yield be_patient(server)


@exhaustive
@on_each_loop
async def test_clients_of_a_replaced_server_may_ask_once_more() -> None:
    app = App()
    async with (
        replaced_server(app) as server,
        await connect(server) as idle,
        await connect(server) as fresh,
        await connect(server) as busy,
    ):
        parts_of(server).resources.last_requests = LONG
        assert (await idle.request(GET)).get("connection") is None
        await busy.send(BEGIN)
        await in_thread(app.begun.wait, TIMEOUT)
        await eventually(lambda: server.inspect().connections == 3)
        server.close()
        # This answer has begun, and cannot say any more that it is the last one.
        app.go_on.set()
        assert (await busy.receive()).get("connection") is None
        for client in (idle, fresh, busy):
            response = await client.request(GET)
            assert (response.body, response.get("connection")) == (b"hello", "close")
            assert await client.read_until_eof() == b""
        await ended(server)
        assert not server.was_cut


@on_each_loop
async def test_clients_of_a_replaced_server_that_ask_nothing_are_closed_in_time() -> None:
    async with replaced_server(App()) as server, await connect(server) as idle:
        parts_of(server).resources.last_requests = 0.1
        assert (await idle.request(GET)).get("connection") is None
        server.close()
        assert await idle.read_until_eof() == b""
        await ended(server)
        assert not server.was_cut


@exhaustive
@on_each_loop
async def test_a_replaced_server_says_that_the_site_is_up() -> None:
    health = b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n"
    async with (
        replaced_server(App(), health_path="/healthz") as server,
        await connect(server) as client,
    ):
        parts_of(server).resources.last_requests = LONG
        assert (await client.request(health)).status == 200
        server.close()
        response = await client.request(health)
        assert (response.status, response.get("connection")) == (200, "close")
        await ended(server)


@on_each_loop
async def test_abort_ends_the_time_for_last_requests() -> None:
    async with replaced_server(App()) as server, await connect(server) as idle:
        parts_of(server).resources.last_requests = LONG
        assert (await idle.request(GET)).get("connection") is None
        server.close()
        server.abort()
        assert await idle.read_until_eof() == b""
        await ended(server)


# --- the delay -----------------------------------------------------------------------------------


@on_each_loop
async def test_request_that_comes_late_in_the_delay_has_its_time(start_server: StartServer) -> None:
    app = App()
    async with nothing_left():
        server = await start_server(app, drain_delay=0.3, timeout_graceful=LONG)
        async with await connect(server) as idle, await connect(server) as client:
            server.close()
            await client.send(WAIT)
            await in_thread(app.begun.wait, TIMEOUT)
            # The end of the delay: the idle one goes.
            assert await idle.read_until_eof() == b""
            assert server.inspect().connections == 1
            app.go_on.set()
            response = await client.receive()
            assert (response.body, response.get("connection")) == (b"hello", "close")
        await ended(server)
        assert not server.was_cut


@on_each_loop
async def test_head_that_began_in_the_delay_is_awaited_behind_it(start_server: StartServer) -> None:
    async with nothing_left():
        server = await start_server(App(), drain_delay=0.2, timeout_graceful=LONG)
        async with await connect(server) as idle, await connect(server) as client:
            server.close()
            await client.send(GET[:10])
            assert await idle.read_until_eof() == b""
            response = await client.request(GET[10:])
            assert (response.body, response.get("connection")) == (b"hello", "close")
            assert await client.read_until_eof() == b""
        await ended(server)


@on_each_loop
async def test_time_for_requests_begins_behind_the_delay(start_server: StartServer) -> None:
    app = App()
    async with nothing_left():
        server = await start_server(app, drain_delay=0.4, timeout_graceful=0.1)
        async with await connect(server) as idle, await connect(server) as busy:
            await busy.send(GET[:10])
            await eventually(lambda: len(server.inspect().requests) == 1)
            begun = time.monotonic()
            server.close()
            server.close()  # Changes nothing.
            assert await idle.read_until_eof() == b""
            assert time.monotonic() - begun > 0.39
            # Not cut for the time that the delay has taken.
            assert not server.was_cut
            with contextlib.suppress(ConnectionError):
                assert await busy.read_until_eof() == b""
            assert time.monotonic() - begun > 0.49
        await ended(server)
        assert server.was_cut


@on_each_loop
@pytest.mark.parametrize("in_a_thread", [False, True])
async def test_abort_ends_the_delay_and_what_runs_in_it(
    start_server: StartServer, in_a_thread: bool
) -> None:
    app = App()
    async with nothing_left():
        server = await start_server(app, drain_delay=LONG, timeout_graceful=LONG)
        async with await connect(server) as idle, await connect(server) as busy:
            server.close()
            await busy.send(WAIT)
            await in_thread(app.begun.wait, TIMEOUT)
            if in_a_thread:
                await in_thread(server.abort)
            else:
                server.abort()
            for client in (idle, busy):
                with contextlib.suppress(ConnectionError):
                    assert await client.read_until_eof() == b""
            app.go_on.set()
        await ended(server)
        assert server.was_cut


@on_each_loop
async def test_limit_of_connections_holds_in_the_delay(start_server: StartServer) -> None:
    """A client that waits for room gets it: answered connections close."""
    server = await start_server(App(), drain_delay=LONG, max_connections=1)
    address = server.sockets[0].getsockname()
    async with nothing_left(), await connect(server) as first:
        await eventually(lambda: server.inspect().connections == 1)
        server.close()
        second = await connect_to(address)
        await second.send(GET)
        assert (await first.request(GET)).get("connection") == "close"
        first.close()
        assert (await second.receive()).get("connection") == "close"
        second.close()
        await eventually(lambda: server.inspect().connections == 0)
        server.abort()
        await ended(server)


@on_each_loop
async def test_block_waits_for_a_delay_that_a_thread_began(start_server: StartServer) -> None:
    begun = time.monotonic()
    async with nothing_left():
        config = aiowsgi.Config(drain_delay=0.3)
        async with aiowsgi.serve(App(), "127.0.0.1", 0, config=config) as server:
            await in_thread(server.close)
        assert time.monotonic() - begun > 0.29
        await ended(server)


@on_each_loop
async def test_who_stops_waiting_does_not_end_the_delay(start_server: StartServer) -> None:
    async with nothing_left():
        server = await start_server(App(), drain_delay=LONG)
        async with await connect(server) as client:
            server.close()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await server.wait_closed()
            assert (await client.request(GET)).get("connection") == "close"
        server.abort()
        await ended(server)


@on_each_loop
@pytest.mark.parametrize("request_bytes", [BEGIN, UPLOAD], ids=["get", "unread"])
async def test_answer_whose_head_is_out_is_the_last_all_the_same(
    start_server: StartServer, request_bytes: bytes
) -> None:
    """Also where the rest of the request, which nobody reads, never comes."""
    app = App()
    async with nothing_left():
        server = await start_server(app, drain_delay=LONG, body_prefetch=10)
        async with await connect(server) as client:
            await client.send(request_bytes)
            head = await client.read_until(b"\r\n\r\n")
            assert b"Connection" not in head
            server.close()
            app.go_on.set()
            assert await client.read_until_eof() == b"hello"
        await eventually(lambda: server.inspect().connections == 0)
        server.abort()
        await ended(server)


# --- what was on its way -------------------------------------------------------------------------


@settings(max_examples=examples(200))
@given(
    requests=st.lists(st.sampled_from([GET, POST, GET + b"\r\n"]), min_size=1, max_size=5),
    pieces=st.lists(st.integers(1, 60), min_size=1, max_size=8),
    stop=st.integers(0, 12),
    run_early=st.booleans(),
)
def test_what_has_arrived_is_answered_once_and_only_the_last_says_close(
    requests: list[bytes], pieces: list[int], stop: int, run_early: bool
) -> None:
    app = App()
    connection = MemoryConnection(app)
    stream = b"".join(requests)
    arrived = complete = before = 0

    def run() -> None:
        while connection.pool.jobs:
            connection.run_job()

    for number in range(13):
        if number == stop:
            ends = [sum(map(len, requests[: n + 1])) for n in range(len(requests))]
            complete = sum(end <= arrived for end in ends)
            before = len(app.paths)
            connection.resources.is_draining = True
            connection.connection.announce_close()
            connection.shared.is_closing = True
            connection.connection.close_if_idle()
        if arrived < len(stream) and not connection.wire.is_closing:
            size = pieces[number % len(pieces)] if number < 12 else len(stream)
            connection.connection.receive(stream[arrived : arrived + size])
            arrived += size
        if run_early:
            run()
    run()
    answers = connection.sent.split(b"HTTP/1.1 200 OK\r\n")[1:]
    assert complete <= len(answers) == len(app.paths) <= len(requests)
    closing = [b"\r\nConnection: close\r\n" in answer for answer in answers]
    assert not any(closing[:-1])
    assert not answers or closing[-1] is (len(answers) > before)
    assert all(answer.endswith(b"\r\n\r\nhello") for answer in answers)
    # Nothing is in flight: only the client's end is awaited, if anything.
    assert connection.wire.is_closing or connection.wire.half_closed
    if not connection.wire.lost:
        connection.end()
    assert connection.closed
    assert len(connection.timers.pending) == 0
    assert connection.resources.budget.used == 0


# --- as a process --------------------------------------------------------------------------------


@contextlib.contextmanager
def serving(folder: Path, *options: str) -> Iterator[tuple[ServedProcess, int]]:
    """Serve in a process of its own; yield it and its port."""
    with served(folder, ANSWER, "--no-access-log", *options) as process:
        yield process, process.port()


def ask(sock: socket.socket) -> tuple[bool, bool]:
    """Send a request; return whether it was answered, and whether that announced the end."""
    sock.sendall(GET)
    data = b""
    while not data.endswith(b"hello") and (piece := sock.recv(1 << 16)):
        data += piece
    return data.startswith(b"HTTP/1.1 200 "), b"\r\nConnection: close\r\n" in data


@pytest.mark.parametrize("loop", representative(["asyncio", "uvloop"], "uvloop"))
@pytest.mark.parametrize("name", representative(["SIGTERM", "SIGINT"], "SIGTERM"))
def test_process_serves_on_for_the_delay_and_ends_well(
    tmp_path: Path, loop: str, name: str
) -> None:
    number = signal.Signals[name]
    with (
        serving(tmp_path, "--loop", loop, "--drain-delay", "1s") as (process, port),
        socket.create_connection(("127.0.0.1", port), TIMEOUT) as idle,
        socket.create_connection(("127.0.0.1", port), TIMEOUT) as used,
    ):
        assert ask(idle) == ask(used) == (True, False)
        begun = time.monotonic()
        process.signal(number)
        process.said(f" Stopping on {number.name}")
        with socket.create_connection(("127.0.0.1", port), TIMEOUT) as new:
            assert ask(new) == ask(used) == (True, True)
            assert new.recv(1) == used.recv(1) == b""
        assert idle.recv(1) == b""
        assert time.monotonic() - begun > 0.9
        assert process.ended() == 0
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), TIMEOUT)


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_in_the_delay_ends_at_once(tmp_path: Path, second: signal.Signals) -> None:
    with (
        serving(tmp_path, "--drain-delay", "1h") as (process, port),
        socket.create_connection(("127.0.0.1", port), TIMEOUT) as idle,
    ):
        assert ask(idle) == (True, False)
        process.signal(signal.SIGTERM)
        process.said(" Stopping on SIGTERM")
        process.signal(second)
        process.said(f" Stopping now on a second {second.name}")
        with contextlib.suppress(ConnectionError):
            assert idle.recv(1) == b""
        assert process.ended() == 128 + second
