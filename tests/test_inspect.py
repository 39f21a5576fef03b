"""What a server says when it is asked what it is doing: by a program, or by ``kill -URG``."""

import contextlib
import logging
import os
import queue
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
from extent import representative
from memory import MemoryConnection
from raw_client import TIMEOUT, RawClient, StartServer, connect, eventually, on_each_loop
from served_process import WAITING, served

import aiowsgi
from aiowsgi.observe.inspection import Inspection, RequestInfo, stacks_of

PLAIN = [("Content-Type", "text/plain")]
GET = b"GET /a?b=c HTTP/1.1\r\nHost: h\r\n\r\n"
POST = b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n"
# More than the kernel takes of a connection that is not read from.
LARGE = 64 << 20


class Waiting:
    """An application that waits in each way that there is, as the path says."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self.go_on = threading.Event()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [*PLAIN])
        match environ["PATH_INFO"]:
            case "/read":
                self.wait_for_a_read(environ)
            case "/write":
                return self.wait_for_a_write()
            case "/file":
                assert self._file is not None
                result: Iterable[bytes] = environ["wsgi.file_wrapper"](self._file.open("rb"))
                return result
            case "/close":
                return self
            case _:
                self.wait_for_the_test()
        return [b"hello"]

    def __iter__(self) -> Iterator[bytes]:
        return iter([b"hello"])

    def close(self) -> None:
        self.wait_for_the_test()

    def wait_for_the_test(self) -> None:
        assert self.go_on.wait(TIMEOUT)  # In the application: running.

    def wait_for_a_read(self, environ: WSGIEnvironment) -> None:
        with contextlib.suppress(aiowsgi.ClientDisconnected):
            environ["wsgi.input"].read()  # In the application: blocked.

    def wait_for_a_write(self) -> Iterator[bytes]:
        for _ in range(LARGE >> 16):
            yield bytes(1 << 16)


# --- a request in each of its phases -------------------------------------------------------------


def look(connection: MemoryConnection) -> RequestInfo | None:
    idents = [thread.ident for thread in threading.enumerate() if thread.ident is not None]
    return connection.connection.inspect(stacks_of(idents))


def seen(connection: MemoryConnection) -> RequestInfo:
    info = look(connection)
    assert info is not None
    assert info.client == "127.0.0.1"
    return info


def test_connection_without_a_request_is_not_listed() -> None:
    connection = MemoryConnection(Waiting())
    assert look(connection) is None
    connection.receive(b"\r\n")
    assert look(connection) is None


def test_request_whose_head_arrives_ages_from_its_first_byte() -> None:
    connection = MemoryConnection(Waiting())
    connection.timers.advance(20)
    connection.receive(GET[:10])
    connection.timers.advance(2)
    connection.receive(GET[10:20])
    connection.timers.advance(1)
    assert seen(connection) == RequestInfo(phase="reading", age=3.0, client="127.0.0.1")


def test_request_whose_body_arrives_ages_from_its_head() -> None:
    connection = MemoryConnection(Waiting())
    connection.receive(POST[:20])
    connection.timers.advance(2)
    connection.receive(POST[20:])
    connection.timers.advance(1)
    connection.receive(b"x" * 50)
    connection.timers.advance(4)
    info = seen(connection)
    assert (info.phase, info.age, info.method, info.target) == ("reading", 5.0, "POST", "/a")
    assert info.request_id
    assert info.thread == info.stack == ""
    assert info.queue_wait == 0


def test_queued_request_tells_how_long_it_has_waited() -> None:
    connection = MemoryConnection(Waiting())
    connection.receive(POST)
    connection.timers.advance(3)
    connection.receive(b"x" * 100)
    connection.timers.advance(4)
    info = seen(connection)
    assert (info.phase, info.age, info.queue_wait) == ("queued", 7.0, 4.0)
    assert info.thread == info.stack == ""


def test_running_request_has_its_thread_its_wait_and_its_stack() -> None:
    app = Waiting()
    connection = MemoryConnection(app)
    connection.receive(GET)
    connection.timers.advance(2)
    thread = connection.start_job()
    connection.timers.run_until(lambda: "# In the application: running." in seen(connection).stack)
    connection.timers.advance(5)
    info = seen(connection)
    assert (info.phase, info.age, info.queue_wait) == ("running", 7.0, 2.0)
    assert (info.method, info.target, info.thread) == ("GET", "/a?b=c", thread.name)
    assert f'File "{__file__}"' in info.stack
    assert "in wait_for_the_test" in info.stack
    # It was not disturbed.
    app.go_on.set()
    connection.timers.run_until(lambda: not thread.is_alive())
    connection.timers.run_ready()
    assert connection.status == 200
    assert look(connection) is None


@pytest.mark.parametrize("path", ["/read", "/write"])
def test_request_that_waits_for_its_client_is_blocked(path: str) -> None:
    connection = MemoryConnection(Waiting(), body_prefetch=10, response_buffer=100_000)
    connection.wire.capacity = 0
    connection.receive(POST.replace(b"/a", path.encode()) + b"x" * 20)
    thread = connection.start_job()
    connection.timers.run_until(lambda: seen(connection).phase == "blocked")
    info = seen(connection)
    assert info.thread == thread.name
    # A generator that has yielded is on no stack.
    assert path == "/write" or "# In the application: blocked." in info.stack
    connection.connection.on_lost()
    thread.join(TIMEOUT)
    assert not thread.is_alive()
    assert look(connection) is None


def test_response_that_is_sent_has_no_thread() -> None:
    app = Waiting()
    app.go_on.set()
    connection = MemoryConnection(app)
    connection.wire.capacity = 10
    connection.receive(GET)
    connection.timers.advance(1)
    connection.run_job()
    connection.timers.advance(2)
    info = seen(connection)
    assert (info.phase, info.age, info.queue_wait) == ("sending", 3.0, 1.0)
    assert (info.thread, info.stack) == ("", "")
    connection.wire.take(1000)
    connection.timers.run_ready()
    assert look(connection) is None


def test_refused_request_is_sent_until_its_client_has_the_answer() -> None:
    connection = MemoryConnection(Waiting())
    connection.pool.full = True
    connection.wire.capacity = 10
    connection.receive(GET)
    connection.timers.advance(2)
    info = seen(connection)
    assert (info.phase, info.age, info.target) == ("sending", 2.0, "/a?b=c")
    assert (info.thread, info.stack) == ("", "")
    connection.wire.take(1000)
    connection.timers.run_ready()
    assert connection.status == 503
    assert look(connection) is None


# --- all of them together ------------------------------------------------------------------------


@on_each_loop
async def test_server_tells_all_phases_at_once(start_server: StartServer, tmp_path: Path) -> None:
    file = tmp_path / "file"
    with file.open("wb") as writing:
        writing.truncate(LARGE)
    app = Waiting(file)
    server = await start_server(app, threads=4, body_prefetch=10, validate=False)
    requests = {
        "/idle": b"",
        "/file": b"GET /file HTTP/1.1\r\nHost: h\r\n\r\n",
        "/a": b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n",
        "/read": b"POST /read HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n" + b"x" * 20,
        "/write": b"GET /write HTTP/1.1\r\nHost: h\r\n\r\n",
        "/close": b"GET /close HTTP/1.1\r\nHost: h\r\n\r\n",
    }
    phases = {"/file": "sending", "/a": "running", "/read": "blocked", "/write": "blocked"}

    def told(target: str) -> str:
        return " ".join(info.phase for info in server.inspect().requests if info.target == target)

    async with contextlib.AsyncExitStack() as stack:
        clients: dict[str, RawClient] = {}
        for target, data in requests.items():
            clients[target] = client = await connect(server)
            stack.enter_context(contextlib.closing(client))
            await client.send(data)
            await eventually(lambda target=target: told(target) == phases.get(target, ""))
        assert (await clients["/close"].receive()).body == b"hello"
        # The thread has sent that itself, and goes on to close what it has iterated.
        await eventually(lambda: "in close" in str(server.inspect()))
        inspection = server.inspect()
        by_target = {info.target: info for info in inspection.requests}
        assert {target: info.phase for target, info in by_target.items()} == {
            **phases,
            "/close": "finishing",
        }
        assert "in close" in by_target["/close"].stack
        assert by_target["/a"].stack.count("# In the application: running.") == 1
        assert inspection.connections == 6
        assert inspection.idle == 2
        assert (inspection.threads, inspection.lost, inspection.healthy) == (4, 0, True)
        assert inspection.buffered > 0
        ages = [info.age for info in inspection.requests]
        assert ages == sorted(ages, reverse=True)
        assert len({info.thread for info in inspection.requests}) == 5
        text = str(inspection)
        assert text.startswith("5 requests in flight, 0 of them queued for 4 threads; 6 conn")
        assert all(str(info) in text for info in inspection.requests)
        app.go_on.set()
        assert (await clients["/a"].receive()).body == b"hello"
        for target in ("/file", "/write"):
            assert len((await clients[target].receive()).body) == LARGE
    await eventually(lambda: server.inspect().requests == ())
    await eventually(lambda: server.inspect().connections == 0)
    assert server.inspect().buffered == 0


@on_each_loop
async def test_queued_requests_are_counted(start_server: StartServer) -> None:
    app = Waiting()
    server = await start_server(app, threads=1)
    async with contextlib.AsyncExitStack() as stack:
        clients = []
        for _ in range(3):
            clients.append(await stack.enter_async_context(await connect(server)))
            await clients[-1].send(GET)
        phases = ["queued", "queued", "running"]
        await eventually(lambda: sorted(i.phase for i in server.inspect().requests) == phases)
        assert server.inspect().queued == 2
        assert str(server.inspect()).startswith("3 requests in flight, 2 of them queued for 1 thre")
        app.go_on.set()
        for client in clients:
            assert (await client.receive()).body == b"hello"
        assert server.inspect().queued == 0


@on_each_loop
async def test_all_stacks_are_looked_at_in_one_go(start_server: StartServer) -> None:
    """Each look stops every thread of an interpreter without a lock."""
    app = Waiting()
    server = await start_server(app, threads=3)
    looks = 0

    def count(_: FrameType, event: str, called: object) -> None:
        nonlocal looks
        looks += event == "c_call" and called is sys._current_frames

    async with contextlib.AsyncExitStack() as stack:
        clients = []
        for _ in range(3):
            clients.append(await stack.enter_async_context(await connect(server)))
            await clients[-1].send(GET)
        await eventually(lambda: str(server.inspect()).count("in wait_for_the_test") == 3)
        before = sys.getprofile()
        sys.setprofile(count)
        try:
            server.inspect()
        finally:
            sys.setprofile(before)
        assert looks == 1
        app.go_on.set()
        for client in clients:
            assert (await client.receive()).status == 200


@on_each_loop
async def test_thread_that_was_given_up_is_still_shown(start_server: StartServer) -> None:
    app = Waiting()
    server = await start_server(app, timeout_request=0.05, max_lost_threads=1)
    async with await connect(server) as client:
        assert (await client.request(GET)).status == 504
    (info,) = server.inspect().requests
    assert (info.phase, info.method, info.target) == ("finishing", "GET", "/a?b=c")
    assert "# In the application: running." in info.stack
    assert "; 1 thread lost; unhealthy" in str(server.inspect())
    app.go_on.set()
    await eventually(lambda: server.inspect().requests == ())
    assert "lost" not in str(server.inspect())


@on_each_loop
async def test_thread_whose_client_has_left_shows_its_request(start_server: StartServer) -> None:
    app = Waiting()
    server = await start_server(app)
    async with await connect(server) as client:
        await client.send(GET)
        await eventually(lambda: "# In the application: running." in str(server.inspect()))
        client.reset()
    await eventually(lambda: [i.phase for i in server.inspect().requests] == ["finishing"])
    (info,) = server.inspect().requests
    assert (info.method, info.target, info.client) == ("GET", "/a?b=c", "127.0.0.1")
    assert info.request_id
    assert "# In the application: running." in info.stack
    assert re.match(
        r"finishing on aiowsgi-\d+-\d+ for .* s: GET /a\?b=c \[.+\] from 127\.0\.0\.1\n", str(info)
    )
    app.go_on.set()
    await eventually(lambda: server.inspect().requests == ())


@on_each_loop
async def test_work_of_a_shared_pool_has_no_request(start_server: StartServer) -> None:
    go_on = threading.Event()
    with aiowsgi.ThreadPool(2) as pool:
        server = await start_server(Waiting(), executor=pool)
        # The executor's own affair: the server tells of what it has given to it.
        work = pool.submit(go_on.wait, TIMEOUT)
        assert server.inspect().requests == ()
        go_on.set()
        assert work.result(TIMEOUT)


# --- as text -------------------------------------------------------------------------------------


def test_text_has_a_line_for_each_request_and_its_stack_below() -> None:
    inspection = Inspection(
        connections=7,
        idle=4,
        threads=8,
        queued=1,
        lost=0,
        buffered=12,
        healthy=True,
        requests=(
            RequestInfo(
                phase="running",
                age=2.5,
                client="192.0.2.7",
                request_id="ab-1",
                method="GET",
                target="/x?y",
                thread="aiowsgi-1-3",
                stack='  File "app.py", line 3, in view\n    wait()\n',
            ),
            RequestInfo(phase="reading", age=0.25, client=""),
        ),
    )
    first, running, file, source, reading = str(inspection).splitlines()
    assert first == (
        "2 requests in flight, 1 of them queued for 8 threads; 7 connections, 4 of them idle; "
        "12 bytes buffered"
    )
    assert running == "running on aiowsgi-1-3 for 2.500 s: GET /x?y [ab-1] from 192.0.2.7"
    assert (file, source) == ('  File "app.py", line 3, in view', "    wait()")
    assert reading.startswith("reading for 0.250 s")


@pytest.mark.parametrize("evil", [b"\n", b"\r", b"\x1b[2J", b"\x85", b"\xe2\x80\xa8"])
def test_target_cannot_break_a_line(evil: bytes) -> None:
    connection = MemoryConnection(Waiting())
    # As it is it is refused, and nothing of it is shown; encoded it stays so.
    connection.receive(b"GET /a%b HTTP/1.1\r\nHost: h\r\n\r\n" % evil)
    assert connection.status in (400, 505)
    assert look(connection) is None
    connection = MemoryConnection(Waiting())
    encoded = "".join(f"%{byte:02x}" for byte in evil)
    connection.receive(f"GET /a{encoded} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
    (line,) = str(seen(connection)).splitlines()
    assert f" GET /a{encoded} [" in line
    assert line.isprintable()


# --- by a signal ---------------------------------------------------------------------------------


def ask(client: socket.socket, target: str) -> None:
    client.sendall(f"GET {target} HTTP/1.1\r\nHost: h\r\n\r\n".encode())


def answer(client: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"hello"):
        piece = client.recv(1 << 16)
        assert piece, data
        data += piece
    return data


@pytest.mark.parametrize("loop", representative(["asyncio", "uvloop"], "uvloop"))
def test_signal_writes_it_to_the_error_log_and_stops_nothing(tmp_path: Path, loop: str) -> None:
    with (
        served(tmp_path, WAITING, "--loop", loop) as process,
        socket.create_server(("127.0.0.1", 0)) as gate,
    ):
        port = process.port()
        gate.settimeout(TIMEOUT)
        with (
            socket.create_connection(("127.0.0.1", port), TIMEOUT) as busy,
            socket.create_connection(("127.0.0.1", port), TIMEOUT) as other,
        ):
            target = f"/wait?{gate.getsockname()[1]}"
            ask(busy, target)
            waiting, _ = gate.accept()
            with waiting:
                for _ in range(3):
                    process.signal(signal.SIGURG)
                    process.said(
                        r" WARNING Asked by SIGURG: \d requests? in flight, 0 of them queued",
                    )
                    process.said(rf"^running on aiowsgi-1-\d+ for .* s: GET {re.escape(target)} \[")
                    process.said(r'^ +File ".*app\.py", line \d+, in wait_for_the_test$')
                    ask(other, "/")
                    assert answer(other).startswith(b"HTTP/1.1 200 ")
            assert answer(busy).startswith(b"HTTP/1.1 200 ")
        assert process.stop() == 0


@pytest.fixture
def messages() -> Iterator["queue.SimpleQueue[str]"]:
    """Return the messages of a server in this process."""
    collected: queue.SimpleQueue[str] = queue.SimpleQueue()

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            collected.put(record.getMessage())

    handler = Collect()
    for name in ("aiowsgi.error", "aiowsgi.access"):
        logging.getLogger(name).addHandler(handler)
    yield collected
    for name in ("aiowsgi.error", "aiowsgi.access"):
        logging.getLogger(name).removeHandler(handler)


@pytest.mark.parametrize("loop", representative(["asyncio", "uvloop"], "uvloop"))
@pytest.mark.parametrize("before", [signal.SIG_DFL, signal.SIG_IGN], ids="di")
def test_program_that_serves_for_a_while_has_its_signals_back(
    messages: "queue.SimpleQueue[str]", loop: str, before: Any
) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [*PLAIN])
        return [b"hello"]

    def drive() -> None:
        try:
            # Once it answers, the handlers are there.
            with socket.create_connection(listening.getsockname(), TIMEOUT) as client:
                ask(client, "/")
                answer(client)
                os.kill(os.getpid(), signal.SIGURG)
                while not messages.get(timeout=TIMEOUT).startswith("Asked by SIGURG: "):
                    pass
                ask(client, "/")
                answers.append(answer(client))
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    answers: list[bytes] = []
    previous = signal.signal(signal.SIGURG, before)
    try:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            config = aiowsgi.Config(bind=(f"fd:{os.dup(listening.fileno())}",), loop=loop)
            driver = threading.Thread(target=drive)
            driver.start()
            aiowsgi.run(app, config=config)
            driver.join(TIMEOUT)
        assert signal.getsignal(signal.SIGURG) == before
    finally:
        signal.signal(signal.SIGURG, previous)
    assert len(answers) == 1
