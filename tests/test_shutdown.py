"""How a server stops: gently, now, from anywhere, and with nothing left behind."""

import asyncio
import contextlib
import gc
import math
import os
import re
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
from memory import MemoryConnection
from raw_client import (
    TIMEOUT,
    Incomplete,
    StartServer,
    connect,
    connect_to,
    eventually,
    in_thread,
    on_each_wire,
    parts_of,
)
from served_process import WAITING, served

import aiowsgi

PLAIN = [("Content-Type", "text/plain")]
GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
WAIT = b"GET /wait HTTP/1.1\r\nHost: h\r\n\r\n"
LARGE = 64 << 20
# Longer than any test takes: who waits for its end fails.
LONG = 10 * TIMEOUT


class App:
    """An application that answers at once, waits, or has no end."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.errors: list[BaseException] = []
        # Called by the application at /call.
        self.call: Callable[[], None] = lambda: None

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [*PLAIN])
        try:
            match environ["PATH_INFO"]:
                case "/wait":
                    self.wait_for_the_test()
                case "/call":
                    self.call()
                case "/read":
                    environ["wsgi.input"].read(99)
                case "/coroutine":
                    aiowsgi.run_coroutine(asyncio.sleep(LONG))
                case "/stream":
                    return iter(lambda: bytes(1 << 16), None)
                case "/file":
                    assert self._file is not None
                    file: Iterable[bytes] = environ["wsgi.file_wrapper"](self._file.open("rb"))
                    return file
        except BaseException as error:
            self.errors.append(error)
            raise
        return [b"hello"]

    def wait_for_the_test(self) -> None:
        self.begun.set()
        assert self.go_on.wait(TIMEOUT)  # A line to be found in the stack.


def descriptors() -> set[str]:
    """Return the open descriptors, with what they lead to."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # That of the listing itself.
            found.add(f"{number} {os.readlink(f'/proc/self/fd/{number}')}")
    # libuv keeps one on it.
    return {name for name in found if not name.endswith(" /dev/null")}


def threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("aiowsgi")}


@contextlib.asynccontextmanager
async def nothing_left() -> AsyncIterator[None]:
    """Check that no thread, task and descriptor is left behind."""
    before = threads(), asyncio.all_tasks()
    opened = descriptors()
    yield
    assert (threads(), asyncio.all_tasks()) == before
    gc.collect()
    # A loop closes some of it in its next pass.
    await eventually(lambda: not descriptors() - opened)


async def closed(server: aiowsgi.Server) -> None:
    async with asyncio.timeout(TIMEOUT):
        await server.wait_closed()
    assert server.inspect().buffered == 0
    assert server.inspect().connections == 0


# --- drain_delay ---------------------------------------------------------------------------------


@on_each_wire
async def test_draining_server_accepts_and_announces_the_end(start_server: StartServer) -> None:
    app = App()
    async with nothing_left():
        server = await start_server(app, drain_delay=LONG)
        address = server.sockets[0].getsockname()
        async with (
            await connect(server) as idle,
            await connect(server) as used,
            await connect(server) as busy,
        ):
            for client in (idle, used):
                assert (await client.request(GET)).get("connection") is None
            await busy.send(WAIT)
            await in_thread(app.begun.wait, TIMEOUT)
            server.close()
            assert server.sockets == ()
            async with await connect_to(address) as new:
                assert (await new.request(GET)).get("connection") == "close"
                assert await new.read_until_eof() == b""
            assert (await used.request(GET)).get("connection") == "close"
            app.go_on.set()
            assert (await busy.receive()).get("connection") == "close"
            for client in (used, busy):
                assert await client.read_until_eof() == b""
                client.close()
            # The idle one is there until somebody has had enough.
            await eventually(lambda: server.inspect().connections == 1)
            server.abort()
            assert await idle.read_until_eof() == b""
            await closed(server)
            with pytest.raises(ConnectionRefusedError):
                await connect_to(address)


@on_each_wire
async def test_idle_connections_have_the_delay_and_requests_their_time_behind_it(
    start_server: StartServer,
) -> None:
    loop = asyncio.get_running_loop()
    async with nothing_left():
        server = await start_server(App(), drain_delay=0.2, timeout_graceful=0.2)
        async with await connect(server) as idle, await connect(server) as busy:
            assert (await idle.request(GET)).status == 200
            await busy.send(ENDLESS["stream"])
            await busy.read_until(b"\r\n\r\n")
            begun = loop.time()
            server.close()
            assert await idle.read_until_eof() == b""
            assert loop.time() - begun > 0.19
            assert not server.was_cut
            await closed(server)
            assert loop.time() - begun > 0.39


# --- requests in flight --------------------------------------------------------------------------


def shut_down(connection: MemoryConnection) -> None:
    """Do to a connection what a server does that closes."""
    connection.resources.is_draining = True
    connection.connection.announce_close()
    connection.shared.is_closing = True
    connection.connection.close_if_idle()


@pytest.mark.parametrize("rest", [b"", b"\r\n"], ids=["", "crlf"])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_pipelined_requests_are_finished_and_the_last_one_announces_the_end(
    count: int, rest: bytes
) -> None:
    connection = MemoryConnection(App())
    connection.receive(GET * count + rest)
    shut_down(connection)
    for _ in range(count):
        connection.run_job()
    *first, last = connection.sent.split(b"HTTP/1.1 200 OK\r\n")[1:]
    assert len(first) == count - 1
    assert b"\r\nConnection: close\r\n" in last
    assert not any(b"Connection" in response for response in first)
    connection.end()
    assert connection.closed
    assert len(connection.timers.pending) == 0


@pytest.mark.parametrize("split", [1, 10, len(GET) - 1])
def test_request_that_has_begun_behind_another_is_awaited_and_finished(split: int) -> None:
    connection = MemoryConnection(App())
    connection.receive(GET + GET[:split])
    shut_down(connection)
    connection.run_job()
    assert b"Connection" not in connection.sent
    assert not connection.closed
    connection.receive(GET[split:])
    connection.run_job()
    assert connection.sent.count(b"HTTP/1.1 200 OK\r\n") == 2
    assert connection.sent.count(b"\r\nConnection: close\r\n") == 1
    connection.end()
    assert connection.closed


@on_each_wire
async def test_pipelined_requests_are_finished_over_a_socket(start_server: StartServer) -> None:
    app = App()
    async with nothing_left():
        server = await start_server(app)
        async with await connect(server) as client:
            await client.send(WAIT + GET + GET)
            await in_thread(app.begun.wait, TIMEOUT)
            server.close()
            app.go_on.set()
            announced = [(await client.receive()).get("connection") for _ in range(3)]
            assert announced == [None, None, "close"]
            assert await client.read_until_eof() == b""
        await closed(server)


ENDLESS = {
    "stream": b"GET /stream HTTP/1.1\r\nHost: h\r\n\r\n",
    "file": b"GET /file HTTP/1.1\r\nHost: h\r\n\r\n",
    "coroutine": b"GET /coroutine HTTP/1.1\r\nHost: h\r\n\r\n",
    "read": b"POST /read HTTP/1.1\r\nHost: h\r\nContent-Length: 99\r\n\r\n" + b"x" * 20,
    "body": b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n",
    "head": b"GET / HTTP",
}


@on_each_wire
@pytest.mark.parametrize("kind", ENDLESS)
async def test_what_does_not_end_has_its_time_and_is_cut(
    start_server: StartServer, kind: str, tmp_path: Path
) -> None:
    with (tmp_path / "file").open("wb") as file:
        file.truncate(LARGE)
    loop = asyncio.get_running_loop()
    app = App(tmp_path / "file")
    async with nothing_left():
        # The validator would hide the file.
        server = await start_server(app, timeout_graceful=0.2, body_prefetch=10, validate=False)
        async with await connect(server) as client:
            await client.send(ENDLESS[kind])
            await eventually(lambda: server.inspect().requests)
            if kind in ("read", "coroutine"):
                await eventually(lambda: "in __call__" in server.inspect().requests[0].stack)
            begun = loop.time()
            server.close()
            await closed(server)
            assert loop.time() - begun > 0.19
            assert server.was_cut
            with pytest.raises((Incomplete, ConnectionError)):
                await client.receive()
    if kind in ("read", "coroutine"):
        assert [type(error) for error in app.errors] == [aiowsgi.ServerStopped]


@on_each_wire
async def test_thread_that_does_not_come_back_is_named_with_its_stack(
    start_server: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    app = App()
    server = await start_server(app, timeout_graceful=0.0)
    parts_of(server).resources.abort_timeout = 0.05
    async with await connect(server) as client:
        await client.send(WAIT)
        await in_thread(app.begun.wait, TIMEOUT)
        (name,) = [info.thread for info in server.inspect().requests]
        server.close()
        await closed(server)
    assert server.was_cut
    (message,) = [text for text in caplog.messages if "left behind" in text]
    assert f" {name} " in message
    assert "# A line to be found in the stack." in message
    app.go_on.set()
    await eventually(lambda: name not in {thread.name for thread in threads()})


# --- from anywhere -------------------------------------------------------------------------------


def from_thread(stop: Callable[[], None]) -> None:
    thread = threading.Thread(target=stop)
    thread.start()
    # It does not wait for the blocked loop.
    thread.join(TIMEOUT)
    assert not thread.is_alive()


def from_several_threads(stop: Callable[[], None]) -> None:
    barrier = threading.Barrier(8)
    with ThreadPoolExecutor(8) as executor:
        list(executor.map(lambda _: (barrier.wait(TIMEOUT), stop()), range(8)))


def from_another_loop(stop: Callable[[], None]) -> None:
    async def call() -> None:
        stop()

    from_thread(lambda: asyncio.run(call()))


def from_callback(stop: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_soon(stop)


def twice(stop: Callable[[], None]) -> None:
    stop()
    stop()


@on_each_wire
@pytest.mark.parametrize("method", ["close", "abort"])
async def test_server_can_be_stopped_by_a_signal_handler_of_the_program(
    start_server: StartServer, method: str
) -> None:
    """The loop sleeps on behind such a handler, unless it is woken."""
    server = await start_server(App())
    stopped = threading.Event()
    previous = signal.signal(signal.SIGUSR1, lambda *_: getattr(server, method)())

    def send() -> None:
        # Again and again: one that comes just before the loop falls asleep is not looked at.
        while not stopped.wait(0.05):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        async with asyncio.timeout(TIMEOUT):
            await server.wait_closed()
    finally:
        stopped.set()
        sender.join()
        signal.signal(signal.SIGUSR1, previous)


@on_each_wire
@pytest.mark.parametrize("method", ["close", "abort"])
@pytest.mark.parametrize(
    "call", [from_thread, from_several_threads, from_another_loop, from_callback, twice]
)
async def test_server_may_be_stopped_from_anywhere(
    start_server: StartServer, method: str, call: Callable[[Callable[[], None]], None]
) -> None:
    # So that a loop bears with no other thread.
    asyncio.get_running_loop().set_debug(True)
    async with nothing_left():
        server = await start_server(App())
        async with await connect(server) as client:
            assert (await client.request(GET)).status == 200
            call(getattr(server, method))
            await closed(server)
            assert server.was_cut is (method == "abort")
            assert await client.read_until_eof() == b""
        # Behind the end, too.
        call(getattr(server, method))
        await closed(server)


@on_each_wire
@pytest.mark.parametrize("method", ["close", "abort"])
async def test_application_may_stop_its_server(start_server: StartServer, method: str) -> None:
    app = App()
    async with nothing_left():
        server = await start_server(app)
        app.call = getattr(server, method)
        async with await connect(server) as client:
            await client.send(GET.replace(b"/", b"/call", 1))
            answer = b""
            # Over TLS, what is cut does not look like an end.
            with (
                contextlib.suppress(ConnectionError)
                if method == "abort"
                else contextlib.nullcontext()
            ):
                answer = await client.read_until_eof()
            assert b"hello" in answer or method == "abort"
        await closed(server)


@on_each_wire
@pytest.mark.parametrize("method", ["close", "abort"])
async def test_server_may_be_stopped_while_clients_connect(
    start_server: StartServer, method: str
) -> None:
    outcomes: list[str] = []

    async def use(address: tuple[str, int]) -> None:
        while "refused" not in outcomes:
            try:
                async with await connect_to(address) as client:
                    await client.request(GET)
                    outcomes.append("answered")
            except ConnectionRefusedError:
                outcomes.append("refused")
            except (Incomplete, ConnectionError):
                outcomes.append("cut")

    async with nothing_left():
        server = await start_server(App())
        address = server.sockets[0].getsockname()
        async with asyncio.TaskGroup() as group:
            for _ in range(10):
                group.create_task(use(address))
            await eventually(lambda: len(outcomes) > 50)
            from_several_threads(getattr(server, method))
        await closed(server)


@on_each_wire
async def test_block_ends_where_a_thread_has_closed_its_server(start_server: StartServer) -> None:
    async with nothing_left():
        async with asyncio.timeout(TIMEOUT), await start_server(App()) as server:
            from_thread(server.close)
        assert not server.is_serving()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_server_whose_loop_is_closed_may_be_stopped(loop: str) -> None:
    async def serve() -> aiowsgi.Server:
        async with aiowsgi.serve(App(), "127.0.0.1", 0) as server:
            return server

    factory = __import__(loop).new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        server = runner.run(serve())
    for stop in (server.close, server.abort):
        stop()
        from_thread(stop)


# --- what applications learn of it ---------------------------------------------------------------


async def test_application_learns_that_the_server_stops_and_how_long_it_has(
    start_server: StartServer,
) -> None:
    environs: list[WSGIEnvironment] = []
    app = App()

    def keep(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        environs.append(environ)
        return app(environ, start_response)

    server = await start_server(keep, drain_delay=LONG, timeout_graceful=LONG)
    async with await connect(server) as client, await connect(server) as late:
        await client.send(WAIT)
        await in_thread(app.begun.wait, TIMEOUT)
        stopping, deadline = environs[0]["aiowsgi.stopping"], environs[0]["aiowsgi.deadline"]
        assert (stopping(), deadline()) == (False, math.inf)
        server.close()
        # From the beginning, and on any thread.
        assert stopping() is True
        assert await in_thread(stopping) is True
        assert LONG < await in_thread(deadline) <= 2 * LONG
        # Also a request that comes in the time of the drain, which is served as ever.
        await late.send(GET)
        assert (await late.receive()).body == b"hello"
        assert environs[1]["aiowsgi.stopping"]() is True
        server.abort()
        assert deadline() == 0
        app.go_on.set()
        await closed(server)
    assert stopping() is True


def test_deadline_is_the_limit_that_comes_first() -> None:
    environs: list[WSGIEnvironment] = []

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        environs.append(environ)
        start_response("200 OK", [*PLAIN])
        return []

    connection = MemoryConnection(app, timeout_request=60.0)
    connection.receive(GET)
    connection.run_job()
    deadline = environs[0]["aiowsgi.deadline"]
    connection.resources.cut_at = connection.timers.time() + 20
    assert deadline() == 20
    connection.resources.cut_at = connection.timers.time() + 70
    assert deadline() == 60
    connection.timers.advance(100)
    assert deadline() == 0


# --- as a process --------------------------------------------------------------------------------


def test_second_signal_ends_a_process_that_drains(tmp_path: Path) -> None:
    with served(tmp_path, WAITING, "--drain-delay", "1h") as process:
        port = process.port()
        process.signal(signal.SIGTERM)
        process.said(r" Stopping on SIGTERM")
        with socket.create_connection(("127.0.0.1", port), TIMEOUT) as client:
            client.sendall(GET)
            data = b""
            while piece := client.recv(1 << 16):
                data += piece
            assert b"\r\nConnection: close\r\n" in data
        assert process.stop() == 128 + signal.SIGTERM


def test_documented_event_stream_ends_with_the_server_and_is_complete(tmp_path: Path) -> None:
    page = Path(__file__).parent.parent / "docs" / "applications.md"
    examples = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    (source,) = (example for example in examples if "aiowsgi.stopping" in example)
    # Whatever ends it, it is not the time for requests in flight.
    with served(tmp_path, source, "--timeout-graceful", "1h") as process:
        port = process.port()
        with socket.create_connection(("127.0.0.1", port), TIMEOUT) as client:
            client.sendall(GET)
            data = b""
            while b"\n\n" not in data.partition(b"\r\n\r\n")[2]:
                piece = client.recv(1 << 16)
                assert piece, "the stream has ended before the server was stopped"
                data += piece
            process.signal(signal.SIGTERM)
            while piece := client.recv(1 << 16):
                data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        assert b"Content-Type: text/event-stream" in head
        assert body.endswith(b"\r\n0\r\n\r\n")
        assert process.ended() == 0


def test_process_ends_though_threads_are_stuck_and_says_where(tmp_path: Path) -> None:
    with (
        served(tmp_path, WAITING, "--timeout-graceful", "50ms") as process,
        socket.create_server(("127.0.0.1", 0)) as gate,
        contextlib.ExitStack() as stack,
    ):
        port = process.port()
        gate.settimeout(TIMEOUT)
        for _ in range(2):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port), TIMEOUT))
            client.sendall(WAIT.replace(b"/wait", b"/wait?%d" % gate.getsockname()[1]))
            stack.enter_context(gate.accept()[0])
        process.signal(signal.SIGTERM)
        names = set()
        for _ in range(2):
            names.add(process.said(r" WARNING .* the thread (aiowsgi-\d+-\d+) is left behind")[1])
            process.said(r'^ +File ".*app\.py", line \d+, in wait_for_the_test$')
        assert len(names) == 2
        assert process.ended() == 0
