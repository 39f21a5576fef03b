"""Memory has a ceiling in both directions, and a slow client costs nobody else anything."""

import asyncio
import contextlib
import hashlib
import itertools
import logging
import os
import socket
import threading
import tracemalloc
from collections.abc import Iterable, Iterator
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
from log_records import loud
from memory import MemoryConnection
from raw_client import (
    TIMEOUT,
    RawClient,
    StartServer,
    clients_of,
    connect,
    eventually,
    in_thread,
    on_each_loop,
    on_each_wire,
)

import aiowsgi

PLAIN = [("Content-Type", "text/plain")]
GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
PING = b"GET /ping HTTP/1.1\r\nHost: h\r\n\r\n"
CHUNK = b"x" * 10_000
SMALL_BUFFER = 1 << 14
# Bytes that a transport is given at a time; a piece more, because no piece is split.
GIVEN = (1 << 18) + len(CHUNK)

# What the kernel of the sending and of the receiving end may hold of a connection between them:
# Linux lets a send buffer grow to 4 MiB and a receive buffer to 6 MiB.
KERNEL_BYTES = 16 << 20


class Endless:
    """An application whose response has no end; it counts what it has produced."""

    def __init__(self, chunk: bytes = CHUNK) -> None:
        self.chunk = chunk
        self.produced = 0
        self.stop = threading.Event()
        self.closed = threading.Event()
        self.thread: threading.Thread | None = None

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [*PLAIN])
        if environ["PATH_INFO"] == "/ping":
            return [b"pong"]
        return self.run()

    def run(self) -> Iterator[bytes]:
        self.thread = threading.current_thread()
        try:
            while not self.stop.is_set():
                self.produced += len(self.chunk)
                yield self.chunk
        finally:
            self.closed.set()


async def ping(client: RawClient) -> None:
    """One exchange with a free thread: meanwhile, anything that could run has run."""
    assert (await client.request(PING)).body == b"pong"


def write_is_paused(server: aiowsgi.Server) -> bool:
    return any(client.sender.waits_for_client for client in clients_of(server))


async def paused(server: aiowsgi.Server, app: Endless, other: RawClient) -> int:
    """Wait until the generator produces no more; return what it has produced."""
    await eventually(lambda: write_is_paused(server))
    before, same = -1, 0
    async with asyncio.timeout(TIMEOUT):
        # The same count over several exchanges of others is what proves the pause.
        while same < 20:
            await ping(other)
            same = same + 1 if app.produced == before else 0
            before = app.produced
    return before


# --- responses -----------------------------------------------------------------------------------


@on_each_wire
async def test_endless_response_is_paused_until_the_client_reads(start_server: StartServer) -> None:
    app = Endless()
    server = await start_server(app)
    async with (
        await connect(server, receive_buffer=SMALL_BUFFER) as client,
        await connect(server) as other,
    ):
        await client.send(GET)
        produced = await paused(server, app, other)
        for _ in range(100):
            await ping(other)
        assert app.produced == produced
        assert produced < KERNEL_BYTES
        # It goes on as soon as there is room, again and again, and never runs ahead.
        taken = 0
        for _ in range(3):
            target = taken + 2 * produced
            while taken < target:
                taken += len(await client.read(1 << 16))
            assert app.produced > produced
            assert app.produced - taken < KERNEL_BYTES
        produced = await paused(server, app, other)
        assert produced - taken < KERNEL_BYTES
    await in_thread(app.closed.wait, TIMEOUT)
    assert app.closed.is_set()


@pytest.mark.parametrize("response_buffer", [1 << 16, 1 << 20], ids=["64K", "1M"])
async def test_memory_is_flat_while_many_clients_do_not_read(
    start_server: StartServer, response_buffer: int
) -> None:
    """Emmett-Framework/granian#885: a slow reader and a large response filled the memory."""
    apps = Endless()
    connections = 20
    server = await start_server(apps, threads=connections + 1, response_buffer=response_buffer)
    async with await connect(server) as other:
        clients = [await connect(server, receive_buffer=SMALL_BUFFER) for _ in range(connections)]
        await ping(other)
        tracemalloc.start()
        try:
            for client in clients:
                await client.send(GET)
            await paused(server, apps, other)
            used, _ = tracemalloc.get_traced_memory()
            for _ in range(200):
                await ping(other)
            later, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        # Each has at most what its writer may hold, and in the transport what that is given at a
        # time; a Python object or two besides.
        ceiling = connections * (response_buffer + min(response_buffer, GIVEN) + (1 << 15))
        assert used < ceiling
        assert later < ceiling
        assert peak < 2 * ceiling
        apps.stop.set()
        for client in clients:
            client.reset()
        await eventually(lambda: len(clients_of(server)) == 1)


@on_each_wire
async def test_many_tiny_chunks_are_bounded_by_their_bytes(start_server: StartServer) -> None:
    app = Endless(b"x")
    server = await start_server(app, response_buffer=1000)
    async with await connect(server) as client, await connect(server) as other:
        await client.send(GET)
        # Another exchange in between shows that the loop is not held.
        for _ in range(20):
            await ping(other)
        assert app.produced
        app.stop.set()
        produced = (await client.receive()).body
        assert len(produced) == app.produced


@on_each_wire
@pytest.mark.parametrize("kind", ["list", "iterator"])
async def test_one_large_chunk_reaches_a_slow_reader(start_server: StartServer, kind: str) -> None:
    size = 50_000_000
    chunk = bytes(size)
    digest = hashlib.sha256(chunk).hexdigest()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [*PLAIN])
        if environ["PATH_INFO"] == "/ping":
            return [b"pong"]
        return [chunk] if kind == "list" else iter([chunk])

    server = await start_server(app)
    async with (
        await connect(server, receive_buffer=1 << 18) as client,
        await connect(server) as other,
    ):
        await client.send(GET)
        await eventually(lambda: write_is_paused(server))
        (connection,) = [one for one in clients_of(server) if one.sender.waits_for_client]
        # The chunk is the application's: it is sent from where it is, piece by piece.
        assert connection.wire.buffered < 1 << 20
        for _ in range(3):
            await ping(other)
        response = await client.receive()
        assert len(response.body) == size
        assert hashlib.sha256(response.body).hexdigest() == digest


ENDING = {
    "1.0": b"GET / HTTP/1.0\r\n\r\n",
    "close": b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
    "linger": b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n",
}


@on_each_wire
@pytest.mark.parametrize("request_bytes", ENDING.values(), ids=ENDING)
async def test_response_that_ends_while_the_client_does_not_read_ends_well(
    start_server: StartServer, request_bytes: bytes
) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [*PLAIN])
        yield b"x" * 6_000_000
        done.set()

    # The writer takes all of it, so that the thread is done before the client begins to read.
    server = await start_server(app, response_buffer=8 << 20)
    for _ in range(10):
        done = threading.Event()
        async with await connect(server) as client:
            await client.send(request_bytes)
            await in_thread(done.wait, TIMEOUT)
            await eventually(lambda: write_is_paused(server))
            assert len((await client.receive()).body) == 6_000_000
            assert await client.read_until_eof() == b""
    await eventually(lambda: not clients_of(server))


@pytest.mark.parametrize("request_bytes", ENDING.values(), ids=ENDING)
def test_connection_is_not_closed_in_the_midst_of_sending(request_bytes: bytes) -> None:
    """As above, in memory, where it is certain that the end is found when the transport resumes."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [*PLAIN])
        yield b"x" * 100_000
        connection.timers.run_ready()
        assert connection.connection.sender.waits_for_client

    connection = MemoryConnection(app, response_buffer=1 << 20, access_log=False)
    connection.wire.capacity = 0
    connection.receive(request_bytes)
    connection.run_job()
    connection.wire.take(200_000)
    connection.timers.run_ready()
    assert connection.sent.count(b"x") >= 100_000
    connection.end()
    assert connection.closed


@on_each_wire
async def test_pipelined_requests_of_a_client_that_does_not_read_are_bounded(
    start_server: StartServer,
) -> None:
    """Answers wait for the client, so further requests wait in its kernel."""
    calls = itertools.count()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [*PLAIN])
        if environ["PATH_INFO"] == "/ping":
            return [b"pong"]
        next(calls)
        return [CHUNK * 10]

    server = await start_server(app)
    async with (
        await connect(server, receive_buffer=SMALL_BUFFER) as client,
        await connect(server) as other,
    ):
        sent = await client.send_until_full(GET * 1000, limit=64 << 20)
        assert sent < KERNEL_BYTES
        await ping(other)
        answered = next(calls)
        assert answered * len(CHUNK) * 10 < KERNEL_BYTES
        for _ in range(20):
            await ping(other)
        assert next(calls) == answered + 1


# --- request bodies ------------------------------------------------------------------------------


@on_each_wire
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_upload_that_the_application_does_not_read_is_paused(
    start_server: StartServer, chunked: bool
) -> None:
    go_on = threading.Event()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [*PLAIN])
        if environ["PATH_INFO"] == "/ping":
            return [b"pong"]
        assert go_on.wait(TIMEOUT)
        read = 0
        while data := environ["wsgi.input"].read(1 << 16):
            read += len(data)
        return [b"%d" % read]

    server = await start_server(app, body_prefetch=1 << 16)
    async with await connect(server) as client, await connect(server) as other:
        if chunked:
            await client.send(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
            piece, overhead = b"2710\r\n" + CHUNK + b"\r\n", 8
        else:
            await client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000000\r\n\r\n")
            piece, overhead = CHUNK, 0
        sent = await client.send_until_full(piece, limit=100_000_000)
        assert sent < KERNEL_BYTES
        (stream,) = [one.stream for one in clients_of(server) if one.stream is not None]
        assert stream.body is not None
        assert stream.body.is_full
        # The prefetch, and what one reading of the socket brings.
        assert stream.body.received < (1 << 16) + (1 << 18)
        received = stream.body.received
        for _ in range(20):
            await ping(other)
        assert stream.body.received == received
        go_on.set()
        # The rest of the piece that was cut by the full kernel, and the end.
        size = len(piece)
        await client.send(piece[sent % size :] if sent % size else b"")
        pieces = -(-sent // size)
        if chunked:
            await client.send(b"0\r\n\r\n")
            assert (await client.receive()).body == b"%d" % (pieces * (size - overhead))
        else:
            await client.send(bytes(100_000_000 - pieces * size))
            assert (await client.receive()).body == b"100000000"


@on_each_wire
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_large_upload_arrives_whole(start_server: StartServer, chunked: bool) -> None:
    size = 20_000_000
    # No two parts of it are alike.
    body = b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(size // 32))

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        digest, length = hashlib.sha256(), 0
        while data := environ["wsgi.input"].read(100_003):
            digest.update(data)
            length += len(data)
        start_response("200 OK", [*PLAIN])
        return [f"{length} {digest.hexdigest()}".encode()]

    server = await start_server(app)
    async with await connect(server) as client:
        if chunked:
            await client.send(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
            for start in range(0, size, 99_991):
                piece = body[start : start + 99_991]
                await client.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            await client.send(b"0\r\n\r\n")
        else:
            await client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % size)
            await client.send(body)
        expected = f"{size} {hashlib.sha256(body).hexdigest()}"
        assert (await client.receive()).body.decode() == expected


@on_each_wire
async def test_upload_and_download_at_the_same_time(start_server: StartServer) -> None:
    """Each direction waits for itself only."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [*PLAIN])
        while data := environ["wsgi.input"].read(65_536):
            yield data

    size = 8_000_000
    body = b"".join(b"%08d" % number for number in range(size // 8))
    server = await start_server(app, body_prefetch=1000)
    async with await connect(server) as client:
        head = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % size
        sending = asyncio.create_task(client.send(head + body))
        assert (await client.receive()).body == body
        await sending


@on_each_wire
@pytest.mark.parametrize("streamed", [False, True], ids=["prefetched", "streamed"])
async def test_body_in_chunks_of_one_byte_does_not_hold_the_loop(
    start_server: StartServer, streamed: bool
) -> None:
    """CVE-2025-69229: others get their turn in the midst of one reading's worth of chunks."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [*PLAIN])
        if environ["PATH_INFO"] == "/ping":
            return [b"pong"]
        read = 0
        while data := environ["wsgi.input"].read(1 << 16):
            read += len(data)
        return [b"%d" % read]

    server = await start_server(app, body_prefetch=1000 if streamed else 1 << 20)
    chunks = 20_000
    async with await connect(server) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
        await eventually(lambda: any(one.stream for one in clients_of(server)))
        (connection,) = clients_of(server)
        stream = connection.stream
        assert stream is not None
        # Passes of the loop, by what has been handled before each of them.
        handled: list[int] = []
        counting = True

        def count() -> None:
            body = stream.body
            handled.append(connection.receiver.prefetched_size if body is None else body.received)
            if counting:
                asyncio.get_running_loop().call_soon(count)

        asyncio.get_running_loop().call_soon(count)
        await client.send(b"1\r\nx\r\n" * chunks + b"0\r\n\r\n")
        assert (await client.receive()).body == b"%d" % chunks
        counting = False
        steps = [later - earlier for earlier, later in itertools.pairwise(handled)]
        # Several small steps, none of them long.
        assert max(steps) <= 1000
        assert len([step for step in steps if step > 0]) >= chunks // 1000


async def test_clients_that_do_not_read_log_nothing(
    start_server: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    app = Endless()
    server = await start_server(app)
    async with await connect(server) as other:
        client = await connect(server, receive_buffer=SMALL_BUFFER)
        await client.send(GET)
        await paused(server, app, other)
        client.reset()
        await in_thread(app.closed.wait, TIMEOUT)
        await eventually(lambda: len(clients_of(server)) == 1)
    assert not loud(caplog)


# --- accepting -----------------------------------------------------------------------------------


@on_each_loop
async def test_accepting_pauses_while_there_is_no_room(start_server: StartServer) -> None:
    """What is not accepted waits in the kernel, for this process or for another."""
    app = Endless()
    server = await start_server(app, max_connections=2)
    first, second = await connect(server), await connect(server)
    await ping(first)
    await ping(second)
    async with await connect(server) as third, await connect(server) as fourth:
        await third.send(PING)
        await fourth.send(PING)
        for _ in range(20):
            await ping(first)
            await ping(second)
        assert len(clients_of(server)) == 2
        first.close()
        assert (await third.receive()).body == b"pong"
        assert len(clients_of(server)) == 2
        second.reset()
        assert (await fourth.receive()).body == b"pong"
    await eventually(lambda: not clients_of(server))


@on_each_loop
async def test_accepting_goes_on_when_descriptors_are_to_be_had_again(
    start_server: StartServer,
) -> None:
    resource = pytest.importorskip("resource")
    lines: list[str] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    server = await start_server(Endless())
    async with await connect(server) as first:
        await ping(first)
        waiting = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        log, handler = logging.getLogger("aiowsgi.error"), Lines()
        log.addHandler(handler)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        taken = [os.open(os.devnull, os.O_RDONLY)]
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (taken[0] + 20, hard))
            with contextlib.suppress(OSError):
                while True:
                    taken.append(os.dup(taken[0]))
            # The kernel makes the connection; the server finds that it cannot have it.
            waiting.connect(server.sockets[0].getsockname())
            await eventually(lambda: lines)
            # Those who are in are served.
            await ping(first)
        finally:
            for descriptor in taken:
                os.close(descriptor)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            log.removeHandler(handler)
        assert "ulimit" in lines[0]
        waiting.setblocking(False)
        async with RawClient(waiting) as client:
            await ping(client)
